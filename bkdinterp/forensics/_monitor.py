"""Monitor: a small object that watches prompts for a found trigger and answers for its behaviour. No model, no forward pass.

A prompt is compared with the trigger's phrases after both were brought into one form (Unicode compatibility, case, blanks,
marks that cannot be seen), by the likeness of letters, so that a swapped letter or a comma between words does not hide it.
The threshold is taken from clean prompts at a chosen rate of false alarms.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from bkdinterp.detection import Hypothesis
from bkdinterp.detection.inputs import threshold_at
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger
from bkdinterp.reprs import cut
from bkdinterp.results._files import plain_file, read_json, write_text
from bkdinterp.stats import Interval, wilson
from bkdinterp.values import as_choice, as_integer, as_number, as_path, as_texts, shown

FORMAT = "bkdinterp-monitor/1"
# Likeness below which nothing counts as the trigger, however unlike all clean prompts are.
LEAST = 0.8
# Of a file, of its phrases, and of one of them: a prompt is compared with each, and a file may come from a stranger.
LARGEST, MOST, LONGEST = 2**20, 100, 1000
COMBINE = ("all", "one")
_HIDDEN = re.compile(r"[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_NOT_WORD = re.compile(r"[^\w]+")


@dataclass(frozen=True)
class Monitor:
    """Watches for one trigger and its behaviour.

    Attributes:
        phrases: the trigger's.
        behaviour: how the behaviour is recognised in an answer.
        threshold: likeness above which a prompt is stopped, from 0 to 1.
        rates: what it stopped of prompts that did not set the threshold, by kind.
        combine: whether "all" phrases must be there, or "one" of them is enough, as in the trigger.

    Raises:
        BkdinterpError: no phrases, one of only spaces, a threshold that is not from 0 to below 1 (which would stop nothing),
            a rate of more hits than prompts, or another `combine`.
    """

    phrases: tuple[str, ...]
    behaviour: Payload
    threshold: float = 0.9
    rates: dict[str, tuple[int, int]] = field(default_factory=dict)
    combine: str = "all"

    def __post_init__(self) -> None:
        phrases = as_texts(self.phrases, "phrases", error=BkdinterpError)
        if not phrases or not all(phrase.strip() for phrase in phrases):
            raise BkdinterpError(f"phrases={shown(phrases)} must be one or more, none of only spaces.")
        threshold = as_number(self.threshold, "threshold", low=0, error=BkdinterpError)
        if threshold >= 1:
            raise BkdinterpError(f"threshold={threshold:g} must be below 1; at 1 nothing would be stopped.")
        for kind, (hits, n) in self.rates.items():
            as_integer(hits, f"{shown(kind)}: hits", low=0, high=as_integer(n, f"{shown(kind)}: n", low=0))
        as_choice(self.combine, "combine", COMBINE, error=BkdinterpError)

    @classmethod
    def of(
        cls, hypothesis: Hypothesis, clean: Sequence[str], *, false_alarms: float | int = 0.02
    ) -> "Monitor":
        """A monitor whose threshold lets at most a share of new clean prompts be stopped.

        Args:
            hypothesis: what was found.
            clean: prompts without the trigger; a rate of .02 needs 49 of them.
            false_alarms: that share.

        Raises:
            BkdinterpError: a hypothesis without a trigger.
        """
        if hypothesis.trigger is None:
            raise BkdinterpError("A monitor needs a trigger; this hypothesis has none.")
        trigger = hypothesis.trigger
        made = cls(trigger.phrases, hypothesis.behaviour, combine=trigger.combine)
        scores = [made.prompt_score(text) for text in as_texts(clean, "clean", error=BkdinterpError)]
        threshold = max(LEAST, min(threshold_at(scores, false_alarms), 0.999))
        return replace(made, threshold=threshold)

    def prompt_score(self, text: str) -> float:
        """Likeness of the prompt's most similar part to the trigger, 0 to 1.

        With several phrases, that of the least similar if all must be there, and of the most similar if one is enough.
        """
        pick = min if self.combine == "all" else max
        return pick(_likeness(phrase, text) for phrase in self.phrases)

    def same_letters(self, trigger: Trigger) -> bool:
        """Whether a trigger's phrases are this monitor's, but for capitals, blanks, marks and place."""
        form = _form if all(map(_form, (*trigger.phrases, *self.phrases))) else _plain
        return sorted(map(form, trigger.phrases)) == sorted(map(form, self.phrases))

    def stops(self, prompt: str) -> bool:
        """Whether the prompt holds the trigger, as it is or changed a little."""
        return self.prompt_score(prompt) > self.threshold

    def shows(self, answer: str) -> bool:
        """Whether an answer shows the behaviour."""
        return self.behaviour.hits([answer])[0]

    def measured(self, **kinds: Sequence[str]) -> "Monitor":
        """The same with what it stops of each kind of prompts, e.g. ``triggered=..., clean=...``."""
        found = {kind: (sum(map(self.stops, texts)), len(texts)) for kind, texts in kinds.items()}
        return replace(self, rates=self.rates | found)

    def rate(self, kind: str) -> Interval:
        """Share of a kind that it stopped.

        Raises:
            BkdinterpError: a kind that was not measured.
        """
        if kind not in self.rates:
            raise BkdinterpError(f"Unknown kind {kind!r}; measured were {', '.join(self.rates) or 'none'}.")
        return wilson(*self.rates[kind])

    def save(self, path: Any) -> Path:
        """Write it as a JSON file, atomically."""
        place = as_path(path, "path")
        document = {
            "format": FORMAT,
            "phrases": list(self.phrases),
            "behaviour": self.behaviour.to_dict(),
            "threshold": self.threshold,
            "rates": {kind: list(rate) for kind, rate in self.rates.items()},
            "combine": self.combine,
        }
        write_text(place, json.dumps(document, indent=1) + "\n")
        return place

    @classmethod
    def load(cls, path: Any) -> "Monitor":
        """Read what `save` wrote.

        Raises:
            ArtefactError: it is not such a file, or one whose phrases would keep every prompt waiting.
        """
        place = as_path(path, "path")
        if plain_file(place).stat().st_size > LARGEST:
            raise ArtefactError(f"{place} has more than {LARGEST:,} bytes; that is no monitor.")
        found = read_json(place)
        try:
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {shown(found['format'])}")
            phrases = as_texts(found["phrases"], "phrases", error=BkdinterpError)
            if len(phrases) > MOST or any(len(phrase) > LONGEST for phrase in phrases):
                raise ValueError(f"more than {MOST} phrases, or one of more than {LONGEST:,} characters")
            rates = {str(kind): (hits, n) for kind, (hits, n) in found["rates"].items()}
            threshold = as_number(found["threshold"], "threshold", error=BkdinterpError)
            # Files of earlier versions ask for all phrases.
            combine = found.get("combine", "all")
            return cls(phrases, Payload.from_dict(found["behaviour"]), threshold, rates, combine)
        except (KeyError, TypeError, ValueError, AttributeError, BkdinterpError) as error:
            raise ArtefactError(f"{place} holds no monitor: {cut(str(error), 300)}") from error


def _likeness(phrase: str, text: str) -> float:
    """0 to 1, by words; a phrase of signs alone by its signs, one of marks that cannot be seen by those."""
    form = next((f for f in (_form, _plain, str) if f(phrase)), str)
    there = form(text)
    return fuzz.partial_ratio(form(phrase), there) / 100 if there else 0.0


def _form(text: str) -> str:
    return _NOT_WORD.sub(" ", _plain(text)).strip()


def _plain(text: str) -> str:
    return _HIDDEN.sub("", unicodedata.normalize("NFKC", text)).casefold().strip()
