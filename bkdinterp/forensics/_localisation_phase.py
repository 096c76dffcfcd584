"""Localisation: which layers know of the trigger, which heads and MLPs carry it. Beside the twin or the base, on one scale."""

from collections.abc import Callable
from typing import Any

import torch

from bkdinterp.engine import Cost
from bkdinterp.errors import BkdinterpError
from bkdinterp.forensics._head_reading import reading
from bkdinterp.forensics._time_limit import OutOfTime, reading_cost
from bkdinterp.forensics._work import Found, Work, halves
from bkdinterp.methods import Attribution, BackdoorProbe, HeadScores, LayerScores, ProbeScores, logit_lens
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts
from bkdinterp.report import AuditFinding, Curves, HeadMap, Line, Measure
from bkdinterp.sites import HeadSet

# Pairs on which heads are scored, at most, and pairs of the probe.
N_HEADS, N_PROBE = 8, 24
LEVEL = 0.05
# Of the time that is left, what the heads and the MLPs may take at most.
HEADS_SHARE, MLPS_SHARE = 0.4, 0.25


def localise(work: Work) -> Found:
    """Heads, MLPs and layers, on prompts that no rate is reported on; what there is no time for is left out and said."""
    pairs, found = work.choosing, Found()
    if len(pairs) < 4:
        raise BkdinterpError(
            f"The behaviour shows on {len(pairs)} of the prompts for choosing; 4 are needed to locate it."
        )
    # The MLPs first: the fewest, and what they take tells how long the heads will.
    mlps = work.tried(found, "mlps", "The effect of each MLP was not measured", lambda: layer_scores(work))
    heads = work.tried(found, "heads", "The effect of each head was not measured", lambda: head_scores(work))
    if heads is not None:
        beside = work.tried(
            found, "heads", f"The {work.beside_name}'s heads were not measured", lambda: _beside(work, heads)
        )
        found.figures.append(_map(work, heads, beside))
        found.findings.append(_heads(work, heads, beside))
    if mlps is not None:
        found.figures.append(_bars(work, mlps))
        found.findings.append(_mlps(mlps))
    lens = work.tried(found, "lens", "The layers were not read through the unembedding", lambda: _lens(work))
    if lens is not None:
        found.figures.append(lens)
    try:
        probe = work.tried(found, "probe", "No probe was fitted", lambda: _probe(work))
    except BkdinterpError as error:
        found.reason = f"No probe: {error}"
    else:
        if probe is not None:
            found.figures.append(_probed(probe))
            found.findings.append(_knows(probe))
    if heads is not None:  # last, because its figure is wide
        _read(work, found)
    return found


def _read(work: Work, found: Found) -> None:
    """Where the chosen heads look; a model whose attention cannot be shown costs the phase only this."""
    try:
        seen = work.tried(
            found,
            "attention",
            "Where the chosen heads look was not read",
            lambda: reading(work, chosen_heads(work)),
        )
    except BkdinterpError as error:
        found.reason = f"{found.reason} No attention: {error}".strip()
        return
    if seen is not None:
        found.findings.append(seen[0])
        found.figures.append(seen[1])


def head_scores(work: Work) -> HeadScores:
    """Every head's effect on the suspect.

    Raises:
        OutOfTime: the sweep does not fit into the time that is left, on however few prompts.
    """
    return work.planned(
        "heads-suspect", _sizes(work), *_sweep(work, work.suspect, "heads", "heads-suspect"), HEADS_SHARE
    )


def layer_scores(work: Work) -> LayerScores:
    """Every MLP's effect on the suspect; OutOfTime as `head_scores`."""
    return work.planned("mlps", _sizes(work), *_sweep(work, work.suspect, "mlps", "mlps"), MLPS_SHARE)


def chosen_heads(work: Work) -> HeadSet:
    """The heads that later phases edit."""
    return head_scores(work).top_k(work.settings.k_heads)


def metric_of(work: Work) -> str:
    """The first token's log-odds where it tells the behaviour from a clean answer, else the whole beginning."""
    pairs = work.choosing
    clean, target = pairs.clean.reference or (), pairs.clean.target or ()
    same = sum(a.split()[:1] == b.split()[:1] for a, b in zip(clean, target, strict=True))
    return "first_token_logodds" if 2 * same < len(target) else "logprob"


def _scored(work: Work) -> PairedPrompts:
    return work.choosing.subset(range(_sizes(work)[0]))


def _sizes(work: Work) -> tuple[int, ...]:
    return halves(min(N_HEADS, len(work.choosing)), 4)


def _sweep(
    work: Work, model: Model, kind: Any, name: str
) -> tuple[Callable[[int], Cost], Callable[[int], Any]]:
    """The cost of a sweep on so many prompts, and the sweep."""
    attribution = Attribution(model, metric=metric_of(work))

    def cost(n: int) -> Cost:
        return attribution.plan(work.choosing.subset(range(n)), kind, budget=work.budget).plan.cost

    def run(n: int) -> Any:
        return getattr(attribution, kind)(
            work.choosing.subset(range(n)), budget=work.budget, folder=work.at(name), progress=work.progress
        )

    return cost, run


def _beside(work: Work, heads: HeadScores) -> HeadScores | None:
    """The same prompts and targets in the twin or the base; None without one, or if it reads other tokens."""
    other = work.beside
    if other is None or other.architecture.grid != work.suspect.architecture.grid:
        return None
    try:
        return work.planned(
            "heads-beside", (heads.n,), *_sweep(work, other, "heads", "heads-beside"), HEADS_SHARE
        )
    except OutOfTime:
        raise
    except BkdinterpError:
        return None


def _probe(work: Work) -> ProbeScores:
    h, context = work.hypothesis, work.context
    assert h is not None and h.trigger is not None
    texts = list(context.search.text[:N_PROBE])
    pairs = PairedPrompts.from_instructions(texts, h.trigger, target=".", allow_triggered=True)
    # Half of a probe's time is linear algebra.
    return work.planned(
        "probe",
        (len(texts),),
        lambda _: reading_cost(work.suspect, (pairs.clean, pairs.triggered), work.budget, times=2),
        lambda _: BackdoorProbe(work.suspect, seed=work.settings.seed).icla(
            pairs, budget=work.budget, progress=work.progress
        ),
    )


def _nested(work: Work, values: Any) -> tuple[tuple[float, ...], ...]:
    n_layers, n_heads = work.suspect.architecture.grid
    table = torch.as_tensor(values).reshape(n_layers, n_heads).tolist()
    return tuple(tuple(float(x) for x in row) for row in table)


def _map(work: Work, heads: HeadScores, beside: HeadScores | None) -> HeadMap:
    shown = [heads] if beside is None else [heads, beside]
    ends = [scores.intervals(seed=work.settings.seed) for scores in shown]
    names = ("suspect", work.beside_name)[: len(shown)]
    return HeadMap(
        "Effect of each head's triggered mean on clean prompts",
        unit_of(heads.metric),
        heads.n,
        names,
        tuple(_nested(work, scores.acie) for scores in shown),
        tuple(_nested(work, e.low) for e in ends),
        tuple(_nested(work, e.high) for e in ends),
        tuple((h.layer, h.head) for h in chosen_heads(work)),
    )


def unit_of(metric: str) -> str:
    """What a score is measured in."""
    return "nats" if metric in ("first_token_logodds", "logprob") else metric


def _heads(work: Work, heads: HeadScores, beside: HeadScores | None) -> AuditFinding:
    found, top = heads.significant(LEVEL), chosen_heads(work)
    ends = heads.intervals(seed=work.settings.seed)
    best = max(range(len(ends.estimate)), key=lambda i: ends.estimate[i])
    null = None if beside is None else float(beside.acie.max())
    named = ", ".join(str(h) for h in top)
    return AuditFinding(
        "heads",
        "supported" if len(found) else "inconclusive",
        f"{len(found)} of {heads.n_scored} heads carry the trigger's effect beyond chance; the strongest: {named}.",
        "Each head's mean activation on triggered prompts was put into clean ones, one head at a time, at the last token.",
        (
            Measure(
                "effect of the strongest head",
                float(ends.estimate[best]),
                unit_of(heads.metric),
                heads.n,
                float(ends.low[best]),
                float(ends.high[best]),
                null=null,
                null_name="" if null is None else f"strongest head of the {work.beside_name}",
            ),
        ),
        reproduce=f"bk.Attribution(model, metric={heads.metric!r}).heads(pairs).top_k({work.settings.k_heads})",
        limits=("One head at a time: what several do only together is not seen.",),
        subject="heads",
    )


def _mlps(mlps: LayerScores) -> AuditFinding:
    found, ends = mlps.significant(LEVEL), mlps.intervals()
    best = max(range(len(ends.estimate)), key=lambda i: ends.estimate[i])
    named = ", ".join(str(s) for s in found[:8]) or "none"
    return AuditFinding(
        "mlps",
        "supported" if found else "inconclusive",
        f"{len(found)} of {mlps.n_scored} MLPs carry it beyond chance: {named}.",
        measures=(
            Measure(
                f"effect of the strongest MLP, layer {best}",
                float(ends.estimate[best]),
                unit_of(mlps.metric),
                mlps.n,
                float(ends.low[best]),
                float(ends.high[best]),
            ),
        ),
        reproduce=f"bk.Attribution(model, metric={mlps.metric!r}).mlps(pairs)",
        subject="mlps",
    )


def _bars(work: Work, mlps: LayerScores) -> Curves:
    ends = mlps.intervals(seed=work.settings.seed)
    return Curves(
        "Effect of each layer's MLP",
        "layer",
        f"effect ({unit_of(mlps.metric)})",
        tuple(float(i) for i in range(len(ends.estimate))),
        (_line("MLP output", ends.estimate, ends.low, ends.high),),
    )


def _line(name: str, y: Any, low: Any = (), high: Any = (), *, null: bool = False) -> Line:
    return Line(name, *(tuple(float(v) for v in part) for part in (y, low, high)), null=null)


def _lens(work: Work) -> Curves:
    """How likely each layer's residual stream makes the behaviour's first token."""
    model, pairs = work.suspect, _scored(work)
    layers = range(model.architecture.n_layers)
    sites, sides = " ".join(f"L{i}.resid_post" for i in layers), (pairs.triggered, pairs.clean)
    triggered, clean = work.planned(
        "lens",
        (len(pairs),),
        lambda _: reading_cost(model, sides, work.budget, unembedded=len(layers)),
        lambda _: [logit_lens(model, side, sites).target_probabilities.mean(-1).tolist() for side in sides],
    )
    return Curves(
        f"Probability of the behaviour's first token, read from each layer (mean of {len(pairs)} prompts)",
        "layer",
        "probability",
        tuple(float(i) for i in layers),
        (_line("with the trigger", triggered), _line("without", clean, null=True)),
    )


def _probed(probe: ProbeScores) -> Curves:
    ends = probe.in_layer
    return Curves(
        f"A linear probe for the trigger at the last token ({probe.n_test} test prompts)",
        "layer",
        "accuracy",
        tuple(float(i) for i in range(probe.n_layers)),
        (
            _line("probe", [e.estimate for e in ends], [e.low for e in ends], [e.high for e in ends]),
            _line("best of random directions", probe.random_best.tolist(), null=True),
        ),
        mark=float(probe.chosen_layer),
    )


def _knows(probe: ProbeScores) -> AuditFinding:
    x = probe.chosen
    return AuditFinding(
        "probe",
        "supported" if probe.beats_chance else "not supported",
        f"Whether the trigger is in the prompt can be read at layer {probe.chosen_layer}."
        if probe.beats_chance
        else "A probe was not shown to read the trigger better than probes of random directions do.",
        "The layer was chosen on other prompts. A probe also reads words that do nothing, so this alone is no backdoor.",
        (
            Measure(
                "accuracy on test prompts",
                x.estimate,
                "share",
                x.n,
                x.low,
                x.high,
                null=float(probe.random_best[probe.chosen_layer]),
                null_name="best of random directions",
            ),
        ),
        reproduce="bk.BackdoorProbe(model).icla(pairs)",
        subject="probe",
    )
