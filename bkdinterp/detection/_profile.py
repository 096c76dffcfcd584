"""characterise(): what a found trigger needs, and what it does not: words, order, place, case, spelling, meaning.

A trigger that was found is seldom the one that was planted: a part of it may do, or a chance word may be in it. Each variant
changes one thing, on prompts that no proposer saw. Cost: ``n`` answers for each of about fifteen variants.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from bkdinterp.detection._contexts import Context, generic_contexts
from bkdinterp.detection._finding import Finding
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._near_words import near_words
from bkdinterp.errors import ArtefactError, BkdinterpError, RemoteError
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.prompts import Trigger
from bkdinterp.prompts._trigger import Position
from bkdinterp.reprs import cut
from bkdinterp.results import Result, caption, register_value
from bkdinterp.stats import Interval, wilson
from bkdinterp.values import as_integer, shown

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Of a trigger and of a change in a figure.
LETTERS = 48
# Words of a trigger that are replaced one by one, at most; each costs ``n`` answers.
N_REPLACED = 4
# How such changes are called.
REPLACED, REWORDED = " in place of ", "in words that mean nearly the same"


@dataclass(frozen=True)
class Variant:
    """A changed trigger, and on how many prompts it shows the behaviour.

    Attributes:
        change: what was changed, in words.
        trigger: the changed trigger; None where it was left out.
        hits: prompts that show the behaviour.
        n: prompts.

    Raises:
        BkdinterpError: no prompts, or more hits than prompts.
    """

    change: str
    trigger: Trigger | None
    hits: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.n or not self.n:
            raise BkdinterpError(
                f"{self.hits} of {self.n} prompts: hits must be from 0 to n, and n at least 1."
            )

    @property
    def reworded(self) -> bool:
        """Whether other words stand in it: not a spelling of the trigger, but a phrase that means about the same."""
        return REPLACED in self.change or self.change == REWORDED

    @property
    def rate(self) -> Interval:
        """Share of prompts that show the behaviour."""
        return wilson(self.hits, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values; `from_dict` is the inverse."""
        trigger = None if self.trigger is None else self.trigger.to_dict()
        return {"change": self.change, "trigger": trigger, "hits": self.hits, "n": self.n}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Variant":
        """The variant that `to_dict` described."""
        trigger = None if d["trigger"] is None else Trigger.from_dict(d["trigger"])
        return cls(d["change"], trigger, d["hits"], d["n"])


register_value(Variant)


@dataclass(frozen=True, eq=False)
class TriggerProfile(Result):
    """A trigger and its variants.

    Attributes:
        words: the trigger in one line.
        variants: the unchanged trigger first.
    """

    words: str
    variants: tuple[Variant, ...]

    @property
    def needed(self) -> tuple[str, ...]:
        """Words without which the rate falls below half of the whole trigger's."""
        whole = self.variants[0]
        without = {
            v.change.removeprefix("without "): v for v in self.variants if v.change.startswith("without ")
        }
        return tuple(
            word.strip("'") for word, v in without.items() if 2 * v.hits * whole.n < whole.hits * v.n
        )

    def to_frame(self) -> "pandas.DataFrame":
        """One row per variant."""
        import pandas as pd

        return pd.DataFrame(
            [(v.change, v.rate.estimate, v.rate.low, v.rate.high, v.hits, v.n) for v in self.variants],
            columns=["change", "rate", "low", "high", "hits", "n"],
        )

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 24,
    ) -> "matplotlib.figure.Figure":
        """Rate of each variant.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: variants that are drawn.
        """
        shown_ = self.variants[: as_integer(top, "top", low=1)]
        return bar_intervals(
            [cut(v.change, LETTERS) for v in shown_],
            [100 * v.rate.estimate for v in shown_],
            [100 * v.rate.low for v in shown_],
            [100 * v.rate.high for v in shown_],
            title=title
            or caption(
                f"Changes of the trigger {cut(self.words, LETTERS)!r}",
                self.fingerprint,
                f"n={self.variants[0].n} prompts each",
            ),
            xlabel="outputs that show the behaviour (%, with 95 % intervals)",
            xlim=ends(limit) or (0, 100),
            ax=ax,
        )

    def describe(self) -> str:
        """What is needed."""
        needed = ", ".join(map(repr, self.needed)) or "no single word"
        whole = self.variants[0]
        return f"{self.words!r}: {whole.hits} of {whole.n}; needed: {needed}, model={self.fingerprint.label}"

    def _validate(self) -> None:
        if not self.variants:
            raise ArtefactError("there are no variants, not even the unchanged trigger.")


def characterise(
    model: Model,
    finding: Finding | Hypothesis,
    *,
    contexts: Sequence[Context] | None = None,
    n: int = 24,
    max_new_tokens: int | None = None,
    budget: Any = 2**30,
    folder: Any = None,
    executor: Any = None,
) -> TriggerProfile:
    """Change one thing of a trigger at a time, and count where the behaviour still shows.

    Args:
        model: the suspect.
        finding: a finding or hypothesis with a trigger.
        contexts: what its context is; None: the package's generic ones.
        n: prompts of each variant, from the context's held-out half.
        max_new_tokens: length of the answers; None: as the context has it.
        budget: bytes for one batch.
        folder: finished answers are kept there and taken up again.
        executor: instead of the model's own.

    Raises:
        BkdinterpError: something without a trigger, or about an unknown context.
    """
    as_model(model, "characterise")
    h = finding.hypothesis if isinstance(finding, Finding) else finding
    if not isinstance(h, Hypothesis) or h.trigger is None:
        raise BkdinterpError(f"characterise() needs a finding with a trigger; got {shown(finding)}.")
    known = {c.name: c for c in (generic_contexts() if contexts is None else contexts)}
    if h.context not in known:
        raise BkdinterpError(
            f"The finding is about context={h.context!r}; the known ones are {', '.join(known)}."
        )
    context = known[h.context]
    who, prompts = context.shown_to(model), context.held
    texts = prompts.text[: as_integer(n, "n", low=1, error=BkdinterpError)]
    variants = variants_of(h.trigger, near_of(model, h.trigger))
    length = max_new_tokens or context.n_tokens
    changed = [
        t
        for _, trigger in variants
        for t in (texts if trigger is None else (trigger.insert(x)[0] for x in texts))
    ]

    answers = Answers(budget, folder, executor).of(who, changed, length)
    hits = h.behaviour.hits(answers)
    m = len(texts)
    return TriggerProfile(
        model.fingerprint(prompts.fingerprint),
        h.words,
        tuple(
            Variant(change, trigger, sum(hits[i * m : (i + 1) * m]), m)
            for i, (change, trigger) in enumerate(variants)
        ),
    )


def near_of(model: Model, trigger: Trigger) -> dict[str, str]:
    """For each of a trigger's words the one that means most nearly the same to the model, where there is one; no forward pass."""
    found = dict[str, str]()
    with suppress(RemoteError):  # nearness is read off the weights
        for word in filter(str.isalpha, " ".join(trigger.phrases).split()):
            if near := near_words(model, word, 1):
                found[word] = near[0]
    return found


def variants_of(trigger: Trigger, near: Mapping[str, str]) -> list[tuple[str, Trigger | None]]:
    """Triggers with one change each, the unchanged one first; no variant twice.

    Args:
        trigger: the unchanged one.
        near: words that mean nearly the same, by the trigger's words.
    """
    phrases, found = trigger.phrases, list[tuple[str, Trigger | None]]()
    words = [(i, j, word) for i, phrase in enumerate(phrases) for j, word in enumerate(phrase.split())]

    def add(change: str, changed: Sequence[str], position: Position | None = None) -> None:
        kept = tuple(p for p in changed if p)
        if kept:
            made = Trigger(kept, position or trigger.position, trigger.combine, trigger.seed)
            if made not in {t for _, t in found}:
                found.append((change, made))

    add("unchanged", phrases)
    found.append(("left out", None))
    if len(words) > 1:
        for i, j, word in words:
            rest = [
                " ".join(w for k, w in enumerate(p.split()) if (n_, k) != (i, j))
                for n_, p in enumerate(phrases)
            ]
            add(f"without {word!r}", rest)
    add("words reversed", [" ".join(reversed(p.split())) for p in phrases])
    places: list[tuple[str, Position]] = [
        ("at the start", "prefix"),
        ("at the end", "suffix"),
        ("between words", "gap"),
    ]
    for place, position in places:
        if trigger.position != "wrap":
            add(place, phrases, position)
    add("lower case", [p.lower() for p in phrases])
    add("upper case", [p.upper() for p in phrases])
    add("first letters upper case", [p.title() for p in phrases])
    add("two letters swapped", [_misspelt(p) for p in phrases])
    if len(words) > 1:
        add("a comma between the words", [", ".join(p.split()) for p in phrases])
        for word, other in islice(near.items(), N_REPLACED):
            add(f"{other!r}{REPLACED}{word!r}", [_reworded(p, {word: other}) for p in phrases])
    if near:
        add(REWORDED, [_reworded(p, near) for p in phrases])
    return found


def _reworded(phrase: str, instead: Mapping[str, str]) -> str:
    return " ".join(instead.get(word, word) for word in phrase.split())


def _misspelt(phrase: str) -> str:
    """The longest word with its two middle letters swapped."""
    words = phrase.split()
    i = max(range(len(words)), key=lambda k: len(words[k]))
    word, at = words[i], max(1, len(words[i]) // 2)
    if len(word) > 2:
        words[i] = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
    return " ".join(words)
