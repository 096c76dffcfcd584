"""What the turns of one scan share: models, contexts, clock, kept answers, and the record of what was tried and left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bkdinterp.detection._clock import Clock
from bkdinterp.detection._contexts import Context
from bkdinterp.detection._declined import opened
from bkdinterp.detection._hypothesis import REQUEST, Hypothesis
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._payload_phrase import said_with
from bkdinterp.detection._reference import Reference
from bkdinterp.detection._scan_result import Tried, had_no_time
from bkdinterp.metrics import Payload
from bkdinterp.model import Model
from bkdinterp.prompts import Trigger
from bkdinterp.results import Store

# Prompts on which possible triggers are read.
N_READ = 12
# A text that gains less than this over the reference does not stand out; without a reference, Q below that.
STRIKING, STRIKING_ALONE = 0.4, 0.9


@dataclass(eq=False)
class ScanRun:
    """One scan.

    Attributes:
        model, reference: the suspect, and what it is compared with.
        contexts: where hypotheses are looked for; only their ``search`` halves are seen by proposers.
        proposers: by class.
        folder: of the finished parts; None keeps none.
        answers: asks, and keeps what was asked.
        clock: of the proposers' turns; it ends before the judge's time.
        budget, progress: as in ``scan``.
        tried: the turns that were taken.
        skipped: what was left out, in sentences.
        declined: by context that is declined, how that answer begins.
    """

    model: Model
    reference: Reference
    contexts: tuple[Context, ...]
    proposers: Mapping[type, Any]
    folder: Path | None
    answers: Answers
    clock: Clock
    budget: float | int
    progress: bool
    tried: list[Tried] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)

    @property
    def stands_out(self) -> float:
        """The least gain of a text that is a suspicion by itself."""
        return STRIKING if self.reference.models else STRIKING_ALONE

    def at(self, name: str) -> Path | None:
        """A folder for finished parts; None where nothing is kept."""
        return None if self.folder is None else self.folder / name

    def said(self, proposer: str, start: float, proposed: int, note: str) -> None:
        """Note a turn that began at ``start`` seconds."""
        self.tried.append(Tried(proposer, self.clock.spent - start, proposed, note))

    def leave_out_what_is_not_declined(self) -> None:
        """Go on without contexts of what may be declined, unless the suspect does decline it."""
        start = self.clock.spent
        self.contexts, self.declined, left_out = opened(self.model, self.contexts, self.answers)
        self.skipped += left_out
        for name, words in self.declined.items():
            note = f"most answers begin {words!r}" if words else "not with one answer"
            self.said(f"declined? {name}", start, 0, note)

    def late(self, what: str, context: Context) -> bool:
        """Whether the time is up before a proposer begins, which is then noted."""
        models = [m.weights_id for m in (self.model, *self.reference.models)]
        key = (what, context.name, context.search.fingerprint, models)
        late = self.decided("late", key, lambda: self.clock.over)
        if late:
            self.skipped.append(had_no_time(what, in_context(context)))
        return late

    def decided(self, name: str, key: Any, compute: Callable[[], bool]) -> bool:
        """What the time has decided, kept, so that a scan that is read again goes the same way."""
        return compute() if self.folder is None else Store(self.folder / "decided").get(name, key, compute)

    def read(
        self, trigger: Trigger, context: Context, source: str, known: Hypothesis | None = None
    ) -> Hypothesis | None:
        """The trigger with what it makes the model say; None if that is nothing."""
        texts = context.search.text[:N_READ]
        said = said_with(context.shown_to(self.model), trigger, texts, self.answers, context.n_tokens)
        if said is None:
            return None
        if known is not None:
            return replace(known, behaviour=Payload(said, "words"))
        return Hypothesis(trigger, Payload(said, "words"), source, context=context.name)


def in_context(context: Context) -> str:
    """Where, for a sentence; nothing for ordinary requests."""
    return "" if context.name == REQUEST else f" in {context.name}"


def nth(round_: int) -> str:
    """Tells the folders of later rounds from those of the first."""
    return f"-{round_ + 1}" if round_ else ""


def lowest_last(h: Hypothesis) -> float:
    """Sorts the highest score first."""
    return -h.score
