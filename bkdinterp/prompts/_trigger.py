"""Triggers: where the phrases of a backdoor go in a text. No forwards.

Positions as in BkdAttr (prefix, random word gap, sentence around the input) and BackdoorLLM (suffix, one of
several phrases, all phrases at once); see papers.md section 5. Every draw is seeded by the trigger's seed,
its phrases and the text itself, so that a text is always triggered in the same way, whatever else
is in the set.
"""

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bkdinterp.errors import TriggerError

Span = tuple[int, int]
"""Character offsets [start, end) in a user text."""

Position = Literal["prefix", "suffix", "gap", "wrap"]
Combine = Literal["one", "all"]


@dataclass(frozen=True)
class Trigger:
    """Phrases and where they are put; prefer the named constructors.

    Attributes:
        phrases: the trigger phrases, inserted verbatim.
        position: before the text, after it, at a random word gap, or (two phrases) around it.
        combine: insert one phrase, drawn per text, or all of them.
        seed: of the draws.

    Raises:
        TriggerError: no phrase, an empty phrase, or a wrap without exactly two phrases.
    """

    phrases: tuple[str, ...]
    position: Position = "prefix"
    combine: Combine = "one"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.phrases:
            raise TriggerError("A trigger needs at least one phrase; got none.")
        for phrase in self.phrases:
            if not phrase.strip():
                raise TriggerError(
                    f"Trigger phrase {phrase!r} is empty or only whitespace; give it visible text."
                )
        _check("position", self.position, get_args(Position))
        _check("combine", self.combine, get_args(Combine))
        if self.position == "wrap" and (self.combine != "all" or len(self.phrases) != 2):
            raise TriggerError(
                f"A wrap needs exactly two phrases, got {self.phrases!r} with combine={self.combine!r}; "
                "use Trigger.wrap(before, after)."
            )

    @classmethod
    def prefix(cls, phrase: str) -> "Trigger":
        """``"phrase text"``."""
        return cls((phrase,), "prefix")

    @classmethod
    def suffix(cls, phrase: str) -> "Trigger":
        """``"text phrase"``."""
        return cls((phrase,), "suffix")

    @classmethod
    def gap(cls, phrase: str, *, seed: int = 0) -> "Trigger":
        """At a random gap between words, also before the first and after the last."""
        return cls((phrase,), "gap", seed=seed)

    @classmethod
    def wrap(cls, before: str, after: str) -> "Trigger":
        """``"before text after"``: one sentence split around the text, two spans."""
        return cls((before, after), "wrap", "all")

    @classmethod
    def any_of(cls, phrases: Sequence[str], position: Position = "gap", *, seed: int = 0) -> "Trigger":
        """One phrase per text, drawn at random (MTBA)."""
        return cls(_phrases(phrases), position, "one", seed)

    @classmethod
    def all_of(cls, phrases: Sequence[str], position: Position = "gap", *, seed: int = 0) -> "Trigger":
        """All phrases in every text, at distinct random gaps in random order (CTBA)."""
        return cls(_phrases(phrases), position, "all", seed)

    def insert(self, text: str) -> tuple[str, tuple[Span, ...]]:
        """The triggered text and the spans of the phrases in it (ascending, without the joining spaces).

        The text's own characters, whitespace included, are all kept; one space joins each phrase to it.

        Raises:
            TriggerError: ``combine="all"`` at gaps, and the text has fewer gaps than there are phrases.
        """
        rng = random.Random(_seed(self.seed, self.phrases, text))
        phrases = self.phrases if self.combine == "all" else (rng.choice(self.phrases),)
        if self.position == "gap":
            gaps = _gaps(text)
            if len(phrases) > len(gaps):
                raise TriggerError(
                    f"{text!r} has {len(gaps)} word gaps, too few for {len(phrases)} phrases at distinct "
                    "gaps; drop this text or use position='prefix'."
                )
            places = list(zip(rng.sample(gaps, len(phrases)), phrases))
        elif self.position == "wrap":
            places = list(zip([(0, False), (len(text), True)], phrases))
        elif self.position == "prefix":
            places = [((0, False), phrase) for phrase in phrases]
        else:
            places = [((len(text), True), phrase) for phrase in phrases]
        return _splice(text, places)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; `from_dict` reads them back."""
        return {
            "phrases": list(self.phrases),
            "position": self.position,
            "combine": self.combine,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Trigger":
        """The trigger that `to_dict` described.

        Raises:
            TriggerError: unknown or missing keys, or values that no trigger has.
        """
        unknown = sorted(set(d) - {"phrases", "position", "combine", "seed"})
        if unknown or "phrases" not in d:
            raise TriggerError(
                f"Not a trigger: {dict(d)!r}; it has 'phrases' and at most position, combine, seed."
            )
        phrases, seed = d["phrases"], d.get("seed", 0)
        position, combine = d.get("position", "prefix"), d.get("combine", "one")
        if not isinstance(phrases, list | tuple) or not all(isinstance(p, str) for p in phrases):
            raise TriggerError(f"Trigger phrases must be a list of texts; got {phrases!r}.")
        if not isinstance(seed, int):
            raise TriggerError(f"A trigger's seed must be an integer; got {seed!r}.")
        _check("position", position, get_args(Position))
        _check("combine", combine, get_args(Combine))
        return cls(tuple(phrases), position, combine, seed)


def _check(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise TriggerError(f"Unknown trigger {name} {value!r}; choose one of {', '.join(allowed)}.")


def _phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    # a plain string is a sequence of its letters, which nobody means
    return (phrases,) if isinstance(phrases, str) else tuple(phrases)


def _seed(seed: int, phrases: tuple[str, ...], text: str) -> int:
    # sha256 and not hash(): the latter differs between processes
    return int.from_bytes(hashlib.sha256(json.dumps([seed, phrases, text]).encode()).digest(), "big")


def _gaps(text: str) -> list[tuple[int, bool]]:
    """(character offset, whether the joining space goes before the phrase) of every word gap."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    if not words:
        return [(len(text), False)]
    return [(start, False) for start, _ in words] + [(words[-1][1], True)]


def _splice(text: str, places: list[tuple[tuple[int, bool], str]]) -> tuple[str, tuple[Span, ...]]:
    out, spans, done = "", [], 0
    for (offset, space_before), phrase in sorted(places, key=lambda place: place[0]):
        out += text[done:offset] + (" " if space_before else "")
        spans.append((len(out), len(out) + len(phrase)))
        out += phrase + ("" if space_before else " ")
        done = offset
    return out + text[done:], tuple(spans)
