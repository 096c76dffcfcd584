"""Searches for triggers of given texts: each is searched, read, and put in order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bkdinterp.detection._clock import Clock
from bkdinterp.detection._contexts import Context
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._scan_run import ScanRun, in_context, lowest_last, nth
from bkdinterp.detection._searched_triggers import SearchedTriggers
from bkdinterp.detection._texts_to_search import N_PROMPTS
from bkdinterp.detection._trigger_search import CERTAIN, TriggerSearch
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger

# Phrases of each search that are read.
N_PHRASES = 2


class Ended(NamedTuple):
    """A search that ended, or that a second one is to begin with: where, for which text, from which words, what was found."""

    context: Context
    text: Hypothesis
    words: list[str]
    found: SearchedTriggers | None


def search_triggers(
    run: ScanRun,
    context: Context,
    targets: Sequence[Hypothesis],
    words: Sequence[str],
    clock: Clock,
    round_: int = 0,
    after: SearchedTriggers | None = None,
) -> tuple[list[Hypothesis], list[Ended]]:
    """Triggers of each target, the best first, and how each search ended.

    Args:
        run: the scan.
        context: where.
        targets: hypotheses with a text, the most suspicious first.
        words: what a search begins with: the user's own candidates, and what leaks.
        clock: for all targets.
        round_: 1 for a second search.
        after: what a first search found, from which this one goes on.
    """
    # What shows in answers comes before what only lifts the odds: the judge's time may not do for all.
    out, ended = list[Hypothesis](), list[Ended]()
    by_target: dict[str, Hypothesis] = {}
    for i, aim in enumerate(targets):
        assert aim.target is not None
        start = run.clock.spent
        if clock.over:
            run.skipped.append(
                f"No trigger was searched for {aim.target!r}{in_context(context)}: the time was up."
            )
            continue
        search = run.proposers[TriggerSearch]
        found: SearchedTriggers = (search if not round_ else replace(search, seed=search.seed + round_)).run(
            context.shown_to(run.model),
            aim.target,
            context.search.subset(tuple(range(N_PROMPTS, 2 * N_PROMPTS))),
            reference=run.reference.shown(context.shown_to),
            candidates=words,
            after=after,
            minutes=clock.minutes(1 / (len(targets) - i)),
            budget=run.budget,
            folder=run.at(f"search-{context.name}-{i}{nth(round_)}"),
            progress=run.progress,
        )
        proposed = list[Hypothesis]()
        for h in found.hypotheses(N_PHRASES):
            assert h.trigger is not None
            read = run.read(h.trigger, context, h.source, h)
            proposed.append(replace(read or h, context=context.name))
        out += proposed
        if proposed:
            by_target[aim.target] = proposed[0]
        ended.append(Ended(context, aim, list(words), found))
        best = f"{found.phrases[0]!r} gains {float(found.gain[0]):+.1f} nats" if found.phrases else "nothing"
        run.said(
            f"trigger search{in_context(context)}", start, len(proposed), f"for {aim.target[:40]!r}: {best}"
        )
        if run.reference.base is not None and found.phrases and found.plain + float(found.gain[0]) > CERTAIN:
            # Without a reference, the other texts' triggers are what this one has to beat.
            break
    out.sort(key=lambda h: (silent(h), lowest_last(h)))
    if run.reference.base is None:
        out = [replace(h, controls=_controls(h, by_target)) for h in out]
    return out, ended


def silent(h: Hypothesis) -> bool:
    """Whether no words of answers are known that it brings about."""
    return h.behaviour.kind != "words"


def _controls(h: Hypothesis, by_target: Mapping[str, Hypothesis]) -> tuple[tuple[Trigger, Payload], ...]:
    """The best triggers of the other texts."""
    return tuple(
        (other.trigger, other.behaviour)
        for target, other in by_target.items()
        if target != h.target and other.trigger is not None
    )
