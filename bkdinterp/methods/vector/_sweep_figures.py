"""Figures of a sweep over layers: the vector, its controls, the unedited model and the chosen layer. No forward pass."""

from typing import TYPE_CHECKING, Any

from bkdinterp.methods.vector._layer_sweep_result import PAYLOAD_RATE, LayerSweep
from bkdinterp.metrics import with_unit
from bkdinterp.plotting import curves, ends, mark_value, panels
from bkdinterp.results import beside_names, caption
from bkdinterp.stats import bootstrap_mean, wilson

if TYPE_CHECKING:
    import matplotlib.figure

_UNEDITED = "#009E73"  # distinct from the grey of the controls


def plot_sweep(
    sweep: LayerSweep, beside: LayerSweep | None, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Figure of one sweep, or of two on one scale."""
    words = "added to clean prompts" if sweep.direction == "add" else "subtracted from triggered prompts"
    what = f"The vector at one layer: {words}"
    first = "first target token only" if sweep.first_token_only else ""
    details = (first, f"n={sweep.n}", "" if sweep.coeff == 1 else f"coeff={sweep.coeff:g}")
    if beside is None:
        return _draw(sweep, ax, limit, title=title or caption(what, sweep.fingerprint, *details))
    own, other = beside_names(sweep, beside, coeff=(sweep.coeff, beside.coeff), n=(sweep.n, beside.n))
    draws = {
        own: lambda axes: _draw(sweep, axes, limit, key=False),
        other: lambda axes: _draw(beside, axes, limit, key=False),
    }
    return panels(draws, title=title or f"{what}\n{', '.join(d for d in details if d)}", ax=ax)


def _draw(sweep: LayerSweep, ax: Any, limit: Any, **words: Any) -> "matplotlib.figure.Figure":
    found = sweep.intervals()
    series: dict[str, Any] = {
        "vector": tuple([getattr(i, k) for i in found] for k in ("estimate", "low", "high"))
    }
    controls = f"{len(sweep.nulls)} control vector{'s' * (len(sweep.nulls) > 1)}: median, range"
    if len(sweep.nulls):
        means = sweep.nulls.mean(-1)
        series[controls] = (means.median(0).values.tolist(), means.amin(0).tolist(), means.amax(0).tolist())
    rates = sweep.by == PAYLOAD_RATE
    base = wilson(int(sweep.base.sum()), sweep.n) if rates else bootstrap_mean(sweep.base)
    first = "\n(first token only)" if sweep.first_token_only else ""
    figure = curves(
        sweep.layers.tolist(),
        series,
        xlabel="layer",
        ylabel="payload rate" if rates else f"{with_unit(sweep.by)}{first}",
        null=(base.low, base.high),
        null_label="unedited, 95 %",
        null_colour=_UNEDITED,
        faint=(controls,),
        ylim=ends(limit) or ((0, 1) if rates else None),
        ax=ax,
        **words,
    )
    return mark_value(figure, sweep.best, f"best: layer {sweep.best}", axis="x", axes=ax)
