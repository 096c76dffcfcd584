"""Triggers: the phrases of a backdoor and where they go in a text. No forwards.

Positions as in BkdAttr (prefix, random word gap, sentence around the input) and BackdoorLLM (suffix, one of
several phrases, all phrases at once). Every draw is seeded by the trigger's seed,
its phrases and the text itself, so that a text is always triggered in the same way, whatever else
is in the set.
"""

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from bkdinterp.errors import TriggerError
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_choice, as_integer, as_text, as_texts, shown

Span = tuple[int, int]
"""Character offsets [start, end) in a user text."""

Position = Literal["prefix", "suffix", "gap", "wrap"]
Combine = Literal["one", "all"]
# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    Phrases = str | Sequence[str]
else:
    Phrases = Any
# Scripts from this code point on (Chinese, Japanese, Korean) have no spaces between words.
_NO_SPACES = 0x2E80


@dataclass(frozen=True)
class Trigger:
    """Phrases and where to insert them; prefer the named constructors.

    Attributes:
        phrases: the trigger phrases, inserted verbatim; a single string is one phrase.
        position: before the text, after it, at a random word gap, or (two phrases) around it.
        combine: insert one phrase, drawn per text, or all of them.
        seed: seed of the draws; an integer.

    Raises:
        TriggerError: no phrases, a phrase that is empty or not text, a seed that is not an integer, or a wrap without
            exactly two phrases.
    """

    __repr__ = short_repr

    # Users may write a list or one string; the field holds a tuple.
    if TYPE_CHECKING:
        phrases: tuple[str, ...]
        position: Position = "prefix"
        combine: Combine = "one"
        seed: int = 0

        def __init__(
            self, phrases: Phrases, position: Position = "prefix", combine: Combine = "one", seed: int = 0
        ) -> None: ...

    else:
        phrases: Any
        position: Any = "prefix"
        combine: Any = "one"
        seed: Any = 0

    def __post_init__(self) -> None:
        # A plain string would otherwise be read as a sequence of letters.
        phrases = (self.phrases,) if isinstance(self.phrases, str) else self.phrases
        object.__setattr__(self, "phrases", as_texts(phrases, "phrases", error=TriggerError))
        object.__setattr__(self, "seed", as_integer(self.seed, "seed", error=TriggerError))
        if not self.phrases:
            raise TriggerError("A trigger needs at least one phrase; got none.")
        for phrase in self.phrases:
            if not phrase.strip():
                raise TriggerError(
                    f"Trigger phrase {phrase!r} is empty or only whitespace; give it visible text."
                )
        as_choice(self.position, "trigger position", get_args(Position), error=TriggerError)
        as_choice(self.combine, "trigger combine", get_args(Combine), error=TriggerError)
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
        """The phrase at a random gap between words, or before the first or after the last."""
        return cls((phrase,), "gap", seed=seed)

    @classmethod
    def wrap(cls, before: str, after: str) -> "Trigger":
        """``"before text after"``: one sentence split around the text, two spans."""
        return cls((before, after), "wrap", "all")

    @classmethod
    def any_of(cls, phrases: Phrases, position: Position = "gap", *, seed: int = 0) -> "Trigger":
        """One phrase per text, drawn at random (MTBA)."""
        return cls(phrases, position, "one", seed)

    @classmethod
    def all_of(cls, phrases: Phrases, position: Position = "gap", *, seed: int = 0) -> "Trigger":
        """All phrases in every text, at distinct random gaps in random order (CTBA)."""
        return cls(phrases, position, "all", seed)

    def insert(self, text: str) -> tuple[str, tuple[Span, ...]]:
        """The triggered text and the spans of the phrases in it (ascending, without the joining spaces).

        The text's own characters, whitespace included, are all kept; one space joins each phrase to it.

        Raises:
            TriggerError: ``text`` is not text, or with ``combine="all"`` at gaps it has fewer gaps than there are phrases.
        """
        text = as_text(text, "text", error=TriggerError)
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

    def found_in(self, text: str) -> str | None:
        """The phrases of this trigger that a text already contains; None if they would not fire the backdoor.

        Phrases are matched as whole words, ignoring case, the width of letters (NFKC) and the spaces between words. With
        ``combine="one"`` one phrase is enough; otherwise all must be there.
        """
        text = _folded(as_text(text, "text", error=TriggerError))
        there = [phrase for phrase in self.phrases if re.search(_words(phrase), text)]
        enough = len(there) == len(self.phrases) if self.combine == "all" else bool(there)
        return " ... ".join(there if self.combine == "all" else there[:1]) if enough else None

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
            TriggerError: unknown or missing keys, or invalid values.
        """
        unknown = sorted(set(d) - {"phrases", "position", "combine", "seed"})
        if unknown or "phrases" not in d:
            raise TriggerError(
                f"Not a trigger: {dict(d)!r}; it has 'phrases' and at most position, combine, seed."
            )
        phrases = d["phrases"]
        if not isinstance(phrases, list | tuple):
            raise TriggerError(f"Trigger phrases must be a list of texts; got {phrases!r}.")
        return cls(phrases, d.get("position", "prefix"), d.get("combine", "one"), d.get("seed", 0))


def _seed(seed: int, phrases: tuple[str, ...], text: str) -> int:
    # sha256 instead of hash(), which differs between processes
    return int.from_bytes(hashlib.sha256(json.dumps([seed, phrases, text]).encode()).digest(), "big")


def _gaps(text: str) -> list[tuple[int, bool]]:
    """For every word gap: (character offset, whether the joining space goes before the phrase)."""
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


def as_trigger(value: Any, what: str = "trigger") -> Trigger:
    """The trigger, checked.

    Raises:
        TriggerError: the value is not a Trigger; phrases alone do not say where they go.
    """
    if isinstance(value, Trigger):
        return value
    several = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    if several:
        fix = f"Trigger.any_of({shown(list(value))}, ...)"
    else:
        fix = f"Trigger.gap({shown(value if isinstance(value, str) else 'your phrase', 40)})"
    raise TriggerError(
        f"{what}={shown(value)} is not a Trigger; give e.g. {fix}, or Trigger.prefix(...), Trigger.suffix(...)."
    )


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _words(phrase: str) -> str:
    """A regular expression that finds a phrase as whole words in a folded text."""
    words = _folded(phrase).split()
    edges = [r"(?<!\w)" if _spaced(words[0][0]) else "", r"(?!\w)" if _spaced(words[-1][-1]) else ""]
    return edges[0] + r"\s+".join(map(re.escape, words)) + edges[1]


def _spaced(letter: str) -> bool:
    """Whether a letter at the edge of a word would join with a letter beside it into one word."""
    return (letter.isalnum() or letter == "_") and ord(letter) < _NO_SPACES
