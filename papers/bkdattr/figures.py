"""What is drawn of one organism: ICLA, probe curves, what fires the probe, ACIE, Table 1 as a curve, Fig. 4. No forward pass."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bkdinterp.metrics import with_unit
from bkdinterp.organisms import BASE_ID
from bkdinterp.plotting import curves, heatmap, matrix
from bkdinterp.stats import Interval
from papers.bkdattr.ablation_units import MEAN, ZERO, random_names
from papers.bkdattr.attribution_units import PAPER
from papers.bkdattr.probe_units import SHOWN
from papers.bkdattr.ranking import Ranking
from papers.bkdattr.study import Study
from papers.bkdattr.vector_units import intervals

if TYPE_CHECKING:
    import matplotlib.figure


def draw(s: Study, folder: Path) -> list[Path]:
    """All of them as PNG; returns the paths."""
    target = folder / s.name
    target.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, matplotlib.figure.Figure] = {"probe": _probe_curves(s)}
    for kind, p in s.choices.probes.items():
        both = {_model(s, twin=side == "twin"): p.icla(side) for side in ("organism", "twin")}
        drawn[f"icla-{kind}"] = matrix(both, title=f"{kind.upper()}: transfer between layers")
        drawn[f"fires-{kind}"] = _fires(s, kind)
    heads, twin = s.choices.rankings[PAPER], s.choices.twin
    drawn["heads"] = _heads(heads, f"Effect of each head, {PAPER}\n{_model(s)}", with_unit("geometric_mean"))
    drawn["heads-twin"] = _heads(
        twin, f"Effect of each head, first token\n{_model(s, twin=True)}", with_unit("first_token_logodds")
    )
    drawn["table1"], drawn["fig4"] = _ablation_curves(s), _fig_4(s)
    paths = []
    for name, figure in drawn.items():
        paths.append(target / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _probe_curves(s: Study) -> "matplotlib.figure.Figure":
    series, layers = {}, range(0)
    for kind, p in s.choices.probes.items():
        layers = range(p.n_layers)
        for side in ("organism", "twin"):
            series[f"{kind.upper()}, {side}"] = _columns([p.accuracy(side, i) for i in layers])
    title = f"In-layer accuracy on held-out prompts\n{_model(s)}, and its twin"
    return curves(layers, series, xlabel="layer", ylabel="accuracy", title=title, ylim=(0.4, 1))


def _fires(s: Study, kind: str) -> "matplotlib.figure.Figure":
    p = s.choices.probes[kind]
    layers = range(p.n_layers)
    # Clean prompts of the organism itself are in the accuracy; five curves can be told apart.
    series = {
        shown: _columns([p.fires(shown, i) for i in layers]) for shown in SHOWN if shown != "organism, clean"
    }
    title = f"Called triggered by the organism's {kind.upper()}\n{_model(s)}, and its twin"
    return curves(layers, series, xlabel="layer", ylabel="share of prompts", title=title, ylim=(0, 1))


def _heads(ranking: Ranking, title: str, label: str) -> "matplotlib.figure.Figure":
    values = torch.full(ranking.grid, torch.nan, dtype=torch.float64)
    for head, value in zip(ranking.heads, ranking.acie.tolist(), strict=True):
        values[head.layer, head.head] = value
    n, top = ranking.effects.shape[1], ranking.top_k(8)
    marks = {f"the {len(top)} strongest": top}
    return heatmap(values, title=f"{title}, n={n}", label=f"ACIE ({label})", marks=marks)


def _ablation_curves(s: Study) -> "matplotlib.figure.Figure":
    """Payload rate against k on shared points: none, then the numbers that every way was tried at."""
    t, ks = s.table_1, [k for k in s.sizes.few_ks if f"{ZERO} {k}" in s.table_1.rows]
    none = t.rate("triggered", "none")
    series = {
        "zero": [none, *(t.rate("triggered", f"{ZERO} {k}") for k in ks)],
        "cached": [none, *(t.rate("triggered", f"cached {k}") for k in ks)],
        "clean mean, all tokens": [none, *(t.rate("triggered", f"{MEAN} {k}") for k in ks)],
        "random, zero": [none, *(t.rate("triggered", *random_names(ZERO, k, s.sizes)) for k in ks)],
    }
    columns = {name: _columns(found) for name, found in series.items()}
    title = f"Payload rate on triggered prompts (n={none.n})\n{_model(s)}"
    return curves(
        [0, *ks],
        columns,
        faint=("random, zero",),
        xlabel="ablated heads",
        ylabel="payload rate",
        title=title,
        ylim=(0, 1),
    )


def _fig_4(s: Study) -> "matplotlib.figure.Figure":
    sweeps = s.choices.sweeps
    series = {f"{kind}, {way}": _columns(intervals(found)) for (kind, way), found in sweeps.items()}
    layers = next(iter(sweeps.values()))["layers"]
    n = len(next(iter(sweeps.values()))["base"])
    title = f"The vector at one layer (selection, n={n})\n{_model(s)}"
    return curves(layers, series, xlabel="layer", ylabel="payload rate", title=title, ylim=(0, 1))


def _model(s: Study, *, twin: bool = False) -> str:
    """Base and adapter, as titles name them."""
    return f"{BASE_ID} + smollm2-{s.name}" + "-twin" * twin


def _columns(found: list[Interval]) -> tuple[list[float], list[float], list[float]]:
    return [i.estimate for i in found], [i.low for i in found], [i.high for i in found]
