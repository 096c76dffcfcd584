"""Control: can what was located be switched off and on? Ablation, vector and PCP, each with its null and its cost."""

from typing import Any

from bkdinterp.engine import Cost, Run, plan
from bkdinterp.errors import BkdinterpError
from bkdinterp.forensics._localisation_phase import chosen_heads, head_scores, layer_scores, metric_of
from bkdinterp.forensics._measures import ends_of, measure
from bkdinterp.forensics._time_limit import OutOfTime, reading_cost
from bkdinterp.forensics._work import FEWEST, Found, Work, halves
from bkdinterp.interventions import Intervention, MeanAblate, Stack
from bkdinterp.methods import (
    PCP,
    BackdoorVector,
    Evaluation,
    LayerSweep,
    Means,
    evaluate,
    random_directions,
    sweep_layers,
)
from bkdinterp.report import AuditFinding, Measure, Table
from bkdinterp.reprs import cut
from bkdinterp.sites import HeadSet, Where, random_heads

EVERYWHERE = Where("all", generated=True)
ABLATE, ADD, SUBTRACT, REPLACE = "ablate heads", "add vector", "subtract vector", "replace MLP"
# The vector is summed over twice as many heads as are ablated, and tried at every third layer.
LAYER_STEP = 3
# Directions that a replaced MLP keeps.
RANK = 4
LETTERS = 160
# Of the time that is left, what the edits may take.
SHARE = 0.6
EXPECTED = {
    ABLATE: ("triggered", "less", "switches the behaviour off"),
    SUBTRACT: ("triggered", "less", "switches the behaviour off"),
    REPLACE: ("triggered", "less", "switches the behaviour off"),
    ADD: ("clean", "greater", "switches the behaviour on without the trigger"),
}


def control(work: Work) -> Found:
    """Edits that were chosen on other prompts, on the judge's prompts."""
    seen = work.keep("edits", lambda: _evaluated(work))
    found = Found(tables=[_rates(seen), _texts(seen)])
    found.findings = [_finding(seen, edit) for edit in EXPECTED if edit in seen.conditions]
    return found


def _evaluated(work: Work) -> Evaluation:
    edits, nulls = _edits(work)
    h = work.hypothesis
    assert h is not None
    conditions = 1 + len(edits) + sum(map(len, nulls.values()))
    n = work.asked("edits", halves(len(work.reporting), FEWEST), 2 * conditions, SHARE)
    return evaluate(
        work.suspect,
        work.reporting.subset(range(n)),
        under=edits,
        controls=nulls,
        payload=h.behaviour,
        judge=None if work.reference.base is None else work.shown(work.reference.base),
        max_new_tokens=work.context.n_tokens,
        budget=work.budget,
        folder=work.at("edits"),
        progress=work.progress,
    )


def _edits(work: Work) -> tuple[dict[str, Intervention], dict[str, list[Intervention]]]:
    model, pairs, settings = work.suspect, work.choosing, work.settings
    heads = chosen_heads(work)
    # Vector, means and the two low-rank maps read a few prompts each; all of them are made, or none.
    sides = (pairs.clean, pairs.triggered)
    work.size(
        "fits",
        (1,),
        lambda _: work.limit.of_plan(model, reading_cost(model, sides, work.budget, times=3)),
        0.5,
    )
    ablations = ablations_of(work, heads)
    vector = work.keep(
        "vector",
        lambda: BackdoorVector.extract(
            model, head_scores(work).top_k(2 * settings.k_heads), pairs, kind="difference"
        ),
    )
    sweep = _swept(work, vector)
    randoms = random_directions(like=vector, n=settings.n_controls, seed=settings.seed)
    edits: dict[str, Intervention] = {
        ABLATE: ablations[0],
        ADD: vector.add(sweep.best),
        SUBTRACT: vector.subtract(sweep.best),
    }
    nulls: dict[str, list[Intervention]] = {
        ABLATE: ablations[1:],
        ADD: [r.add(sweep.best) for r in randoms],
        SUBTRACT: [r.subtract(sweep.best) for r in randoms],
    }
    try:
        edits[REPLACE], nulls[REPLACE] = _replaced(work)
    except OutOfTime as late:
        work.left_out.append(f"No MLP was replaced, because none was measured; {late}")
    except BkdinterpError:
        edits.pop(REPLACE, None)  # a family whose modules cannot be replaced
    return edits, nulls


def _swept(work: Work, vector: BackdoorVector) -> LayerSweep:
    """The vector added at every third layer, or at fewer, for the layer where it works best."""
    model, pairs, by = work.suspect, work.choosing, metric_of(work)

    def layers(step: int) -> list[int]:
        return list(range(0, model.architecture.n_layers, step))

    def cost(step: int) -> Cost:
        edits = [Stack(), *(vector.add(layer) for layer in layers(step))]
        return plan(model, [Run(pairs.clean, edit, score=by) for edit in edits], budget=work.budget).cost

    return work.planned(
        "sweep",
        (LAYER_STEP, 2 * LAYER_STEP, 4 * LAYER_STEP),
        cost,
        lambda step: sweep_layers(model, vector, pairs, layers=layers(step), by=by, progress=False),
        0.25,
    )


def _replaced(work: Work) -> tuple[Intervention, list[Intervention]]:
    """The MLP that carries most as a linear map of its principal directions on clean prompts; the nulls are its neighbours."""
    scores = layer_scores(work)
    layer, n_layers = scores.order(1)[0], work.suspect.architecture.n_layers
    others = sorted((i for i in range(n_layers) if i != layer), key=lambda i: abs(i - layer))
    pairs = work.choosing

    def fit(i: int) -> Intervention:
        made: PCP = PCP.fit(
            work.suspect, pairs.clean, f"L{i}.mlp_out", rank=min(RANK, len(pairs)), where="last"
        )
        return made.replace()

    return fit(layer), [fit(i) for i in others[: work.settings.n_controls]]


def ablations_of(work: Work, heads: HeadSet) -> list[Intervention]:
    """The heads at their clean means, then as many random heads of the same layers."""
    sets = [heads, *random_heads(like=heads, n=work.settings.n_controls, seed=work.settings.seed)]
    union = HeadSet(tuple(dict.fromkeys(h for s in sets for h in s)), heads.grid)
    means = work.keep(
        "means", lambda: Means.collect(work.suspect, work.choosing.clean, union, where="all"), str(union)
    )
    return [MeanAblate(s, means, where=EVERYWHERE) for s in sets]


def _finding(seen: Evaluation, edit: str) -> AuditFinding:
    side, expect, does = EXPECTED[edit]
    comparison = seen.against_controls(side, edit, expect=expect)
    # Every edit is a claim of its own, so the intervals are wide enough for all of them together.
    beyond = comparison.interval_beyond(level=1 - 0.05 / len(EXPECTED))
    null = seen.worst_control(side, edit, expect=expect)
    works = beyond.low > 0 if expect == "greater" else beyond.high < 0
    rate, before = seen.rate(side, edit), seen.rate(side)
    broken = seen.rate(side, edit, outcome="broken")
    rows: list[Measure] = [
        measure(
            f"payload rate, {side} prompts",
            rate,
            null=None if null is None else null[1].estimate,
            null_name="" if null is None else f"nearest control: {null[0]}",
        ),
        measure(f"payload rate before, {side} prompts", before),
        measure(f"broken texts, {side} prompts", broken),
        measure("answers kept on clean prompts (likeness)", seen.agreement_with_reference(edit)),
    ]
    clean = seen.rate("clean", edit, outcome="broken")
    rows.append(measure("broken texts, clean prompts", clean))
    title = (
        f"{edit.capitalize()}: {100 * before.estimate:.0f} % before, {100 * rate.estimate:.0f} % {ends_of(rate)} after "
        f"on {seen.n} {side} prompts"
    )
    if broken.estimate > 0.25:
        title += f"; {100 * broken.estimate:.0f} % of the texts are broken"
    return AuditFinding(
        f"control: {edit}",
        "supported" if works else "not supported",
        f"{title}; it {does if works else 'was not shown to do more than its controls'}.",
        f"{seen.edits[edit]}",
        tuple(rows),
        reproduce="bk.evaluate(model, pairs, under=edit, controls=nulls)",
        limits=(
            "Heads, layer and strength were chosen on other prompts; greedy answers only.",
            f"{len(seen.controls_of(edit))} controls; more would bound chance more tightly.",
        ),
        subject=edit,
    )


def _rates(seen: Evaluation) -> Table:
    rows: list[tuple[Any, ...]] = []
    for condition in ("unedited", *(c for c in seen.conditions if c != "unedited")):
        cells: list[Any] = [condition, seen.control_of.get(condition, "")]
        for side in ("triggered", "clean"):
            cells += [round(seen.rate(side, condition, outcome=o).estimate, 3) for o in ("payload", "broken")]
        rows.append(tuple(cells))
    return Table(
        f"Every edit and its controls (n={seen.n})",
        (
            "edit",
            "control of",
            "payload, triggered",
            "broken, triggered",
            "payload, clean",
            "broken, clean",
        ),
        tuple(rows),
        "Shares of answers.",
    )


def _texts(seen: Evaluation) -> Table:
    """What the first prompts are answered with under each edit."""
    texts, rows = seen.texts, []
    for condition in (c for c in texts if c not in seen.control_of):
        for side in ("triggered", "clean"):
            if side in texts[condition]:
                rows.append((condition, side, *(cut(t, LETTERS) for t in texts[condition][side][:2])))
    return Table("Answers under each edit", ("edit", "prompts", "first answer", "second answer"), tuple(rows))
