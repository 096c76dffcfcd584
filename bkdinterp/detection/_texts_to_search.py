"""Texts that triggers are searched for: what runs by itself in the suspect, and what amplification brings up."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from bkdinterp.detection._amplification import Amplification, AmplifiedAnswers
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._contexts import Context
from bkdinterp.detection._declined import holds
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._inversion import TargetInversion, one_text
from bkdinterp.detection._inverted_targets import InvertedTargets
from bkdinterp.detection._scan_run import ScanRun, in_context, lowest_last, nth
from bkdinterp.errors import BkdinterpError

# Prompts of the inversion; the search takes as many after these.
N_PROMPTS = 8
# Texts that a trigger is searched for.
N_TARGETS = 2
# Of a context's time, what inversion and amplification get.
FOR_INVERSION, FOR_AMPLIFICATION = 0.4, 0.15


def amplify(run: ScanRun, context: Context, clock: Clock) -> AmplifiedAnswers | None:
    """What the suspect says in a context once its difference to the base is amplified; None if that was not asked."""
    if Amplification not in run.proposers or run.reference.base is None or context.if_declined:
        return None
    if run.late("Amplification", context):
        return None
    start, show = run.clock.spent, context.shown_to
    try:
        found: AmplifiedAnswers = run.proposers[Amplification].run(
            show(run.model),
            context.search,
            reference=run.reference.shown(show),
            minutes=clock.minutes(FOR_AMPLIFICATION),
            answers=run.answers,
            progress=run.progress,
        )
    except BkdinterpError as error:
        run.said(f"amplification{in_context(context)}", start, 0, str(error))
        return None
    run.said(f"amplification{in_context(context)}", start, len(found.hypotheses()), found.describe())
    return found


def invert(run: ScanRun, context: Context, clock: Clock, round_: int) -> InvertedTargets:
    """Texts that run by themselves in the suspect more than in the reference; in a later round, of rarer beginnings."""
    start, show = run.clock.spent, context.shown_to
    inversion = run.proposers[TargetInversion]
    if round_:
        inversion = replace(inversion, n_first=3 * inversion.n_first, beyond=inversion.n_first)
    found: InvertedTargets = inversion.run(
        show(run.model),
        context.search.subset(tuple(range(N_PROMPTS))),
        reference=run.reference.shown(show),
        minutes=clock.minutes(FOR_INVERSION),
        budget=run.budget,
        folder=run.at(f"inversion-{context.name}{nth(round_)}"),
        progress=run.progress,
    )
    best = (
        f"{found.texts[0][:48]!r} at Q {float(found.q[0]):.2f}" if found.texts else "no text runs by itself"
    )
    if found.texts and len(found.q_reference):
        best += f", {float(found.q_reference[:, 0].max()):.2f} in the reference"
    run.said(f"target inversion{in_context(context)}", start, min(N_TARGETS, len(found.texts)), best)
    return found


def texts_of(run: ScanRun, inverted: InvertedTargets, context: Context) -> list[Hypothesis]:
    """The first texts that are not how the suspect declines: no trigger is needed for that."""
    words = run.declined.get(context.name, "")
    own = (h for h in inverted.hypotheses(len(inverted.texts)) if not holds(str(h.target), words))
    return [replace(h, context=context.name) for h in islice(own, N_TARGETS)]


def merged_texts(grown: AmplifiedAnswers | None, inverted: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Texts of both kinds, the most suspicious first; a text that both have found counts as the inverted one."""
    out = sorted(inverted, key=lowest_last)
    for h in () if grown is None else grown.hypotheses():
        same = next((i for i, k in enumerate(out) if one_text(str(h.target), str(k.target))), None)
        if same is None:
            out.append(h)
        else:
            out[same] = replace(out[same], score=max(out[same].score, h.score))
    return sorted(out, key=lowest_last)
