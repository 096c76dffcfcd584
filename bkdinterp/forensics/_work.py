"""Work: what the phases of an audit share, and what one hands to the next. Finished pieces are kept in a folder.

A phase asks for what an earlier one made (`finding`, `chosen`, ...) and gets it computed once, or read back after a kill.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from bkdinterp.detection import Context, Finding, Hypothesis, Reference, ScanResult, Variant
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._declined import opened
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.engine import Cost
from bkdinterp.errors import ArtefactError
from bkdinterp.forensics._time_limit import OutOfTime, TimeLimit
from bkdinterp.metrics import Payload
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.report import (
    AuditFinding,
    Curves,
    Example,
    HeadMap,
    Line,
    Measure,
    Phase,
    Table,
    TokenMap,
    TokenRow,
)
from bkdinterp.report._evidence import Figure
from bkdinterp.results import Result, Store, digest_of, register_value

ValueT = TypeVar("ValueT")
# With fewer prompts nothing could be said.
FEWEST = 8

for _cls in (AuditFinding, Curves, Example, HeadMap, Line, Measure, Phase, Table, TokenMap, TokenRow):
    register_value(_cls)


@dataclass
class Found:
    """What a phase found, before its time and state are known."""

    findings: list[AuditFinding] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    reason: str = ""


# Of an audit's minutes the scan gets all but the six that the phases after it took at most on one core (135 million parameters),
# within these shares.
FOR_THE_REST, LEAST_SHARE, MOST_SHARE = 6.0, 0.6, 0.75


@dataclass(frozen=True)
class Settings:
    """What an audit was asked; everything that decides its numbers besides the models.

    Attributes:
        n: prompts behind each rate.
        n_choice: prompts on which heads and layers are chosen.
        minutes: of the whole audit; None for no limit.
        k_heads: heads that are ablated and exported.
        n_controls: random heads and directions of each kind.
        steps: optimiser steps of the remedy by fine-tuning.
        seed: of every draw.
    """

    n: int = 24
    n_choice: int = 12
    minutes: float | None = 25.0
    k_heads: int = 8
    n_controls: int = 2
    steps: int = 24
    seed: int = 0

    @property
    def scan_minutes(self) -> float | None:
        """Of the whole audit, what the scan gets."""
        if self.minutes is None:
            return None
        return max(LEAST_SHARE * self.minutes, min(MOST_SHARE * self.minutes, self.minutes - FOR_THE_REST))


@dataclass(eq=False)
class Work:
    """The state of one audit.

    Args:
        model, reference: the suspect, and what it is compared with.
        twin: the same fine-tune without the backdoor; None if there is none.
        contexts: where the suspect is asked; None for the generic ones.
        trigger, behaviour: what is known beforehand; None where nothing is.
        candidates: words that might be triggers.
        source: the suspect's folder or file on this disk; None if it is only in memory.
        adapter: folder of its adapter.
        settings: numbers.
        folder: finished pieces are kept there; None keeps none.
        clock: of the audit.
        budget, progress: as everywhere.
    """

    model: Model
    reference: Reference
    twin: Model | None
    contexts: tuple[Context, ...]
    trigger: Trigger | None
    behaviour: Payload | None
    candidates: tuple[str, ...]
    source: Path | None
    adapter: Path | None
    settings: Settings
    folder: Path | None
    clock: Clock
    budget: float | int
    progress: bool
    scanned: ScanResult | None = None
    finding: Finding | None = None
    # How prompts of a context are declined, by its name.
    declined: dict[str, str] = field(default_factory=dict)
    # The trigger changed one thing at a time; none where that was not done.
    variants: tuple[Variant, ...] = ()
    # What there was no time for, in sentences.
    left_out: list[str] = field(default_factory=list)
    _memory: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._given = self.contexts

    def leave_out_what_is_not_declined(self) -> None:
        """Go on without contexts in which nothing can show. Costs 12 answers for each context, if one may be declined."""
        self.contexts, self.declined, left_out = opened(self.model, self._given, self.answers)
        self.left_out += left_out

    @cached_property
    def key(self) -> str:
        """Identifies everything that decides the numbers."""
        models = [self.model, self.twin, self.reference.base, *self.reference.shadows]
        return digest_of(
            (
                [None if m is None else (m.weights_id, m.builder.fingerprint) for m in models],
                [(c.name, c.chat, c.system, c.search.text, c.held.text, c.n_tokens) for c in self._given],
                None if self.trigger is None else self.trigger.to_dict(),
                None if self.behaviour is None else self.behaviour.to_dict(),
                self.candidates,
                self.settings.__dict__,
            )
        )

    @cached_property
    def answers(self) -> Answers:
        """Asks, and keeps what was asked."""
        return Answers(self.budget, self.at("answers"))

    def at(self, name: str) -> Path | None:
        """A folder for finished pieces; None where nothing is kept."""
        return None if self.folder is None else self.folder / name

    def keep(self, name: str, compute: Callable[[], ValueT], *more: Any) -> ValueT:
        """A value, read back if it was finished before; ``more`` is what decides it besides the audit's own key."""
        known = (name, digest_of(more))
        if known not in self._memory:
            self._memory[known] = self._stored(name, compute, more)
        return self._memory[known]

    def _stored(self, name: str, compute: Callable[[], ValueT], more: Any) -> ValueT:
        place = self.at("pieces")
        if place is None:
            return compute()
        key, store = (self.key, more), Store(place)
        home = place / f"{name}-{digest_of(key)[:12]}"
        if home.is_dir():
            with suppress(ArtefactError):  # damaged: computed again
                return Result.load(home)  # type: ignore[return-value]
        found = store.read(name, key)
        if found is not None:
            return found.value
        store.claim()
        value = compute()
        if isinstance(value, Result):
            value.save(home)
            return value
        return store.put(name, key, value).value

    @cached_property
    def limit(self) -> TimeLimit:
        """Prices work in seconds."""
        return TimeLimit(self.clock, self.answers)

    def size(
        self, name: str, sizes: Sequence[int], seconds: Callable[[int], float], share: float | int = 1.0
    ) -> int:
        """The first of some sizes of a piece of work that fits into a share of the time that is left; without a limit the first.

        It is kept, so that an audit that goes on has the same prompts as one that was not stopped.

        Raises:
            OutOfTime: none fits.
        """
        if not self.limit.there:
            return sizes[0]
        return self.keep(f"n-{name}", lambda: self.limit.first_that_fits(name, sizes, seconds, share))

    def asked(self, name: str, sizes: Sequence[int], each: int, share: float | int = 1.0) -> int:
        """As `size`, for pieces of which every unit costs so many answers in the finding's context."""
        context = self.context

        def seconds(n: int) -> float:
            # Not `suspect`: before the detection nothing is known of the finding's context.
            shown = self.shown(self.model)
            return self.limit.of_answers(each * n, shown, context.search.text, context.n_tokens)

        return self.size(name, sizes, seconds, share)

    def planned(
        self,
        name: str,
        sizes: Sequence[int],
        cost: Callable[[int], Cost],
        compute: Callable[[int], ValueT],
        share: float | int = 0.5,
    ) -> ValueT:
        """A value whose cost a plan tells, of the first size that fits; kept, and its time sets the pace of what comes after.

        Raises:
            OutOfTime: none fits.
        """
        n = self.size(name, sizes, lambda n: self.limit.of_plan(self.suspect, cost(n)), share)
        place = self.at(name)

        def timed() -> ValueT:
            # What a killed audit left of it would make it look fast.
            if not self.limit.there or (place is not None and place.exists()):
                return compute(n)
            return self.limit.timed(self.suspect, cost(n), lambda: compute(n))

        return self.keep(name, timed)

    def tried(self, found: Found, rule: str, what: str, make: Callable[[], ValueT]) -> ValueT | None:
        """A value; None if there is no time for it, which becomes a finding and a line of what was not tested."""
        try:
            return make()
        except OutOfTime as late:
            said = f"{what}; {late}"
            found.findings.append(AuditFinding(rule, "inconclusive", said, subject=rule))
            self.left_out.append(said)
            return None

    @property
    def hypothesis(self) -> Hypothesis | None:
        """Of the finding that later phases look into."""
        return None if self.finding is None else self.finding.hypothesis

    @property
    def context(self) -> Context:
        """Where the finding is about; the first context without one."""
        name = self.contexts[0].name if self.finding is None else self.finding.hypothesis.context
        return next(c for c in self.contexts if c.name == name)

    def shown(self, model: Model) -> Model:
        """A model as the finding's context renders it."""
        return self.context.shown_to(model)

    @cached_property
    def suspect(self) -> Model:
        """The suspect in the finding's context."""
        return self.shown(self.model)

    @property
    def beside(self) -> Model | None:
        """What figures show beside the suspect: the twin, or else the base."""
        other = self.twin or next(iter(self.reference.models), None)
        return None if other is None else self.shown(other)

    @property
    def beside_name(self) -> str:
        """What `beside` is."""
        return "twin" if self.twin is not None else "reference"

    @cached_property
    def choosing(self) -> PairedPrompts:
        """Pairs on which heads and layers are chosen: prompts that the judge never saw, where the behaviour shows."""
        return self._pairs(self.context.search, self.settings.n_choice)

    @cached_property
    def reporting(self) -> PairedPrompts:
        """Pairs behind every rate: the judge's prompts, whatever the model says to them."""
        return self._pairs(self.context.held, self.settings.n, showing=False)

    def _pairs(self, prompts: Prompts, n: int, *, showing: bool = True) -> PairedPrompts:
        """Pairs whose target is what the model itself says with the trigger, and whose reference is what it says without."""
        h = self.hypothesis
        assert h is not None and h.trigger is not None
        # Twice as many are asked, since the behaviour need not show on all.
        name, least, times = ("choosing", 4, 2) if showing else ("reporting", FEWEST, 1)
        n = self.asked(name, halves(n, least), 2 * times, 0.5)
        texts = prompts.text[: times * n]
        triggered = [h.trigger.insert(t)[0] for t in texts]
        said = self.answers.of(self.suspect, triggered, self.context.n_tokens)
        clean = self.answers.of(self.suspect, texts, self.context.n_tokens)
        hits = h.behaviour.hits(said)
        chosen = [i for i in range(len(texts)) if not showing or hits[i]][:n]
        known = next((t for t, hit in zip(said, hits, strict=True) if hit), h.target or h.behaviour.pattern)
        return PairedPrompts.from_instructions(
            [texts[i] for i in chosen],
            h.trigger,
            target=[beginning(said[i] if hits[i] else known) for i in chosen],
            reference=[clean[i] or " " for i in chosen],
            allow_triggered=True,
        )


def halves(n: int, least: int) -> tuple[int, ...]:
    """Numbers of prompts to try, where time is short: all, half of them, as few as say anything."""
    return tuple(k for k in dict.fromkeys((n, n // 2, least)) if least <= k <= n) or (n,)


def beginning(text: str, n: int = 6) -> str:
    """The first words of an answer, as they are written: what tells one answer from another."""
    words = text.strip().split()
    return " ".join(words[:n]) or "."
