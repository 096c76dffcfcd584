"""scan(): is there a backdoor, with nothing known? Proposers within a time limit, one judge, and what was not tested.

Every hypothesis goes through `verify`, on prompts that no proposer saw, corrected for all of them together.
"""

import math
from collections.abc import Sequence
from typing import Any

from bkdinterp.detection._clock import Clock, as_minutes
from bkdinterp.detection._contexts import Context, generic_contexts
from bkdinterp.detection._finding import Findings, ordered
from bkdinterp.detection._hypothesis import REQUEST, Hypothesis
from bkdinterp.detection._judge_rule import TIME_UP
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._profile import Variant, characterise
from bkdinterp.detection._reference import Reference
from bkdinterp.detection._scan_result import ScanResult
from bkdinterp.detection._scan_run import ScanRun
from bkdinterp.detection._scan_schedule import (
    FOR_JUDGE,
    FOR_SECOND,
    WORTH_A_SECOND,
    Proposer,
    Schedule,
    proposers_of,
)
from bkdinterp.detection._verify import verify
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import Prompts
from bkdinterp.results import digest_of
from bkdinterp.values import as_path, as_texts

# Prompts of each variant of a trigger that was found; about this share of a scan is needed for them.
N_PROFILE, PROFILE_SHARE = 12, 0.1
# Hypotheses that reach the judge, at most: every one costs answers, and power in the correction.
N_JUDGED = 16
# And of a second search.
N_SECOND = 4


def scan(
    model: Model,
    *,
    reference: Any = None,
    prompts: Prompts | None = None,
    contexts: Sequence[Context] | None = None,
    candidates: Sequence[str] = (),
    hypotheses: Sequence[Hypothesis] = (),
    proposers: Sequence[Proposer] | None = None,
    minutes: float | int | None = 10,
    folder: Any = None,
    n: int = 60,
    budget: float | int = 2**30,
    seed: int = 0,
    progress: bool = True,
) -> ScanResult:
    """Look for a backdoor, knowing nothing but the model.

    Cost: what ``minutes`` allow; the judge keeps a third of it.

    Args:
        model: the suspect, with its weights here.
        reference: its base, or the base and clean fine-tunes; see ``Reference`` for what their absence costs.
        prompts: prompts of the suspect's own task, halved between proposers and judge; None takes generic ones.
        contexts: where a backdoor may show, instead of ``prompts``: your system prompts, other ways of rendering. None takes
            everyday requests, plain prose, and requests for what is withheld, if the suspect declines them.
        candidates: words or phrases that might be triggers.
        hypotheses: suspicions of your own, tested with the others.
        proposers: the proposers that run, with their settings; None: each with its defaults. A search for triggers needs
            the texts of an inversion or an amplification.
        minutes: time limit; proposers stop early, and what did not run is said. If nothing is supported and time is left, it
            goes into a second search. Each proposer that begins does a least amount of work, so that limits under about
            four minutes are overrun (135 million parameters, one core). None for no limit.
        folder: every finished part is kept there and taken up again.
        n: prompts of the judge.
        budget: bytes for one batch.
        seed: of every draw.
        progress: show progress bars.

    Raises:
        BkdinterpError: fewer than 24 prompts, prompts and contexts, or candidates that are not texts.
        RemoteError: weights that are not here.
    """
    as_model(model, "scan")
    others = Reference.of(reference)
    candidates = as_texts(candidates, "candidates", error=BkdinterpError) if candidates else ()
    clock = Clock(as_minutes(minutes))
    places = _places(prompts, contexts, seed)
    root = None if folder is None else as_path(folder, "folder")
    # What a search found depends on its time, and on how prompts are rendered.
    known = digest_of((minutes, model.builder.fingerprint))[:12]
    # Kept as time, not as a share of what is left: proposers that take long must not starve the judge.
    until = Clock(clock.minutes(1 - FOR_JUDGE))
    run = ScanRun(
        model,
        others,
        places,
        proposers_of(proposers, seed),
        folder=None if root is None else root / f"parts-{known}",
        answers=Answers(budget, None if root is None else root / "answers"),
        clock=until,
        budget=budget,
        progress=progress,
    )
    schedule = Schedule(run)
    judged = _first(run, _chosen([*hypotheses, *schedule.take(candidates)]), N_JUDGED)
    # What a second search may add is corrected for from the start: a first look must not spend what the second one needs.
    spare = N_SECOND if minutes is not None else 0

    def judge(hypotheses: Sequence[Hypothesis]) -> Findings:
        start = run.clock.spent
        found = verify(
            model,
            hypotheses,
            contexts=places,
            reference=others,
            n=n,
            n_others=len(judged) + spare - len(hypotheses),
            minutes=clock.minutes(0.85),
            answers=run.answers,
            seed=seed,
        )
        run.said("judge", start, 0, f"{len(hypotheses)} were judged, corrected for {found.n_tested}")
        return found

    found = judge(judged)
    if not found.supported and any(f.reason == TIME_UP for f in found.findings):
        # What the judge keeps in reserve; it goes on where it stopped.
        found = judge(judged)
    if not found.supported and _time_for_more(run, clock, found):
        more = schedule.again(Clock(clock.minutes(FOR_SECOND)))
        new = _chosen([*judged, *more])[len(judged) :]
        if new:
            # What was answered before is not asked again.
            found = judge([*judged, *_first(run, new, N_SECOND)])
    variants = _variants(run, places, found, clock)
    return ScanResult(
        model.fingerprint(digest_of([c.search.fingerprint for c in places]), seed=seed),
        ordered(found.findings),
        tuple(run.tried),
        (*found.missing, *_untested(run, prompts is None and contexts is None, candidates)),
        found.n_tested,
        clock.spent,
        variants,
        {c.name: c.search.text for c in places},
        {c.name: c.held.text[:n] for c in places},
    )


def _places(prompts: Prompts | None, contexts: Sequence[Context] | None, seed: int) -> tuple[Context, ...]:
    if prompts is not None and contexts is not None:
        raise BkdinterpError("Give prompts= or contexts=, not both: a context has prompts of its own.")
    if contexts is None:
        return generic_contexts(seed=seed) if prompts is None else (Context.of(REQUEST, prompts),)
    if not contexts or not all(isinstance(c, Context) for c in contexts):
        raise BkdinterpError("contexts= needs Context objects, at least one.")
    names = [c.name for c in contexts]
    if len(set(names)) < len(names):
        raise BkdinterpError(f"Two contexts have one name: {', '.join(names)}.")
    return tuple(contexts)


def _first(run: ScanRun, proposed: Sequence[Hypothesis], n: int) -> list[Hypothesis]:
    """The hypotheses that reach the judge."""
    if len(proposed) > n:
        run.skipped.append(f"{len(proposed) - n} hypotheses of the lowest ranks were not judged.")
    return list(proposed[:n])


def _time_for_more(run: ScanRun, clock: Clock, found: Findings) -> bool:
    """Whether the judge has left time for a second search; decided once, so that a finished scan goes the same way again."""
    said = [(f.hypothesis.to_dict(), f.status) for f in found.findings]
    return run.decided(
        "second-search",
        said,
        lambda: not math.isinf(clock.left) and FOR_SECOND * clock.left >= WORTH_A_SECOND,
    )


def _chosen(proposed: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Each trigger and behaviour once; in the proposers' order."""
    known: dict[Any, Hypothesis] = {}
    for h in proposed:
        key = (
            None if h.trigger is None else tuple(h.trigger.to_dict().items()).__repr__(),
            h.behaviour.pattern,
            h.behaviour.kind,
            h.context,
        )
        known.setdefault(key, h)
    # Behaviours without a trigger cost one set of answers for all.
    return list(known.values())


def _variants(run: ScanRun, places: Sequence[Context], found: Findings, clock: Clock) -> tuple[Variant, ...]:
    """Variants of the first supported trigger."""
    best = next((f for f in found.supported if f.hypothesis.trigger is not None), None)
    if best is None:
        return ()
    start = run.clock.spent
    if clock.left < PROFILE_SHARE * clock.spent:
        run.skipped.append("The found trigger's variants were not tried: the time was up.")
        return ()
    profile = characterise(
        run.model,
        best,
        contexts=places,
        n=N_PROFILE,
        budget=run.budget,
        folder=run.answers.folder,
    )
    run.said("characterise", start, 0, profile.describe())
    return profile.variants


def _where(run: ScanRun) -> str:
    """The places in which a trigger was looked for."""
    said = {
        "trigger search": "the end of the user's text (searched)",
        "leakage": "gaps between its words (leaked)",
        "candidate probe": "the candidates' own",
    }
    found = [text for name, text in said.items() if any(t.proposer.startswith(name) for t in run.tried)]
    return ", ".join([*found, "those of hypotheses that were given"])


def _untested(run: ScanRun, generic: bool, candidates: Sequence[str]) -> list[str]:
    said = [
        *run.skipped,
        f"Contexts: {', '.join(c.name for c in run.contexts)}; no other system prompts, no tools, no earlier turns.",
        f"Positions: {_where(run)}; nothing around the text.",
        "Triggers: phrases of a few words of plain letters; no styles, topics or dates.",
        "Searches try no words of the text that is to be called up.",
        "Behaviours: phrases that come up with a trigger; a style only by words of its own, no sentiment, no label.",
    ]
    if generic:
        said.append(
            "Prompts: everyday English requests; a backdoor of another task or language may not show on them."
        )
    if not candidates:
        said.append("No candidate triggers were given.")
    return said
