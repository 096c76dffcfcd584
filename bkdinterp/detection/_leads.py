"""What the weights, the suspect's own samples and the user's candidates suggest, before any search."""

from collections.abc import Sequence
from dataclasses import replace

from bkdinterp.detection._candidate_probe import CandidateProbe
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._leakage import Leakage, Leaked
from bkdinterp.detection._scan_run import ScanRun, in_context
from bkdinterp.detection._weight_triage import WeightTriage
from bkdinterp.errors import BkdinterpError
from bkdinterp.prompts import Trigger

# Of what the weights and leaks leave, what candidates get, in all contexts.
FOR_CANDIDATES = 0.4


def weigh(run: ScanRun) -> None:
    """What differs from the base; it says where to look and proposes nothing."""
    if WeightTriage in run.proposers and run.reference.base is not None:
        start = run.clock.spent
        try:
            note = (
                run.proposers[WeightTriage].run(run.model, reference=run.reference, progress=False).describe()
            )
        except BkdinterpError as error:
            note = str(error)
        run.said("weight triage", start, 0, note)


def read_leaks(run: ScanRun) -> tuple[tuple[str, ...], list[Hypothesis]]:
    """Phrases that leak, and those of them that make the model say something, wherever it declines nothing."""
    if Leakage not in run.proposers:
        return (), []
    start, out = run.clock.spent, list[Hypothesis]()
    leaked: Leaked = run.proposers[Leakage].run(
        run.model, reference=run.reference, folder=run.at("leakage"), progress=run.progress
    )
    for phrase in leaked.phrases_as_written():
        # What unlocks a refusal is left to the search, which gets these phrases, too.
        for context in (c for c in run.contexts if not c.if_declined):
            if not run.clock.over:
                h = run.read(Trigger.gap(phrase), context, "leakage")
                out += [] if h is None else [h]
    motifs = leaked.motifs()
    named = f"over-represented: {', '.join(map(repr, motifs[:4]))}" if motifs else "nothing leaks"
    run.said("leakage", start, len(out), named)
    return motifs, out


def probe_candidates(run: ScanRun, candidates: Sequence[str]) -> list[Hypothesis]:
    """The user's candidates that change answers, in every context."""
    out: list[Hypothesis] = []
    for context in run.contexts if candidates and CandidateProbe in run.proposers else ():
        start = run.clock.spent
        show = context.shown_to
        found = run.proposers[CandidateProbe].run(
            show(run.model),
            candidates,
            context.search,
            reference=run.reference.shown(show),
            minutes=run.clock.minutes(FOR_CANDIDATES / len(run.contexts)),
            budget=run.budget,
            folder=run.at(f"candidates-{context.name}"),
            progress=run.progress,
        )
        proposed = [replace(h, context=context.name) for h in found.hypotheses()]
        out += proposed
        run.said(f"candidate probe{in_context(context)}", start, len(proposed), found.describe())
    return out
