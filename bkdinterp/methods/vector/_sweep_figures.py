"""Figures of a sweep over layers: the vector, its controls, the unedited model and the chosen layer. No forward pass."""

from typing import TYPE_CHECKING, Any

from bkdinterp.methods.vector._layer_sweep_result import PAYLOAD_RATE, LayerSweep
from bkdinterp.metrics import with_unit
from bkdinterp.plotting import curves, ends, hover_curves, mark_value, panels
from bkdinterp.results import beside_names, caption
from bkdinterp.stats import bootstrap_mean, wilson

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

CONTROLS = "controls: mean, range"
_UNEDITED = "#009E73"  # distinct from the grey of the controls


def plot_sweep(
    sweep: LayerSweep, beside: LayerSweep | None, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Figure of one sweep, or of two on one scale."""
    text = title or _title(sweep, beside)
    if beside is None:
        return _draw(sweep, ax, limit, title=text)
    own, other = _names(sweep, beside)
    draws = {
        own: lambda axes: _draw(sweep, axes, limit, key=False),
        other: lambda axes: _draw(beside, axes, limit, key=False),
    }
    return panels(draws, title=text, ax=ax)


def hover_sweep(
    sweep: LayerSweep, beside: LayerSweep | None, title: str | None, limit: Any
) -> "plotly.graph_objects.Figure":
    """One sweep, or two on one scale, whose points say their numbers."""
    found = {"": (sweep, sweep.to_frame())}
    if beside is not None:
        tables = ((sweep, sweep.to_frame(beside=beside)), (beside, beside.to_frame(beside=sweep)))
        found = dict(zip(_names(sweep, beside), tables, strict=True))
    drawn: dict[str, Any] = {}
    for panel, (own, table) in found.items():
        frame = table.assign(unedited=float(own.base.double().mean()))
        drawn[panel] = {"vector": (frame, "mean")}
        if len(own.nulls):
            drawn[panel][CONTROLS] = (frame, "control_mean")
    return hover_curves(
        drawn,
        x="layer",
        name=("layer",),
        faint=(CONTROLS,),
        mark=("best", "best layer"),
        level=("unedited", "unedited"),
        title=title or _title(sweep, beside),
        xlabel="layer",
        ylabel=_ylabel(sweep).replace("\n", " "),
        limit=ends(limit) or ((0, 1) if sweep.by == PAYLOAD_RATE else None),
    )


def _names(sweep: LayerSweep, beside: LayerSweep) -> tuple[str, str]:
    return beside_names(sweep, beside, coeff=(sweep.coeff, beside.coeff), n=(sweep.n, beside.n))


def _title(sweep: LayerSweep, beside: LayerSweep | None) -> str:
    words = "added to clean prompts" if sweep.direction == "add" else "subtracted from triggered prompts"
    what = f"The vector at one layer: {words}"
    first = "first target token only" if sweep.first_token_only else ""
    details = (first, f"n={sweep.n}", "" if sweep.coeff == 1 else f"coeff={sweep.coeff:g}")
    if beside is None:
        return caption(what, sweep.fingerprint, *details)
    return f"{what}\n{', '.join(d for d in details if d)}"


def _ylabel(sweep: LayerSweep) -> str:
    if sweep.by == PAYLOAD_RATE:
        return "payload rate"
    return with_unit(sweep.by) + ("\n(first token only)" if sweep.first_token_only else "")


def _draw(sweep: LayerSweep, ax: Any, limit: Any, **words: Any) -> "matplotlib.figure.Figure":
    found = sweep.intervals()
    series: dict[str, Any] = {
        "vector": tuple([getattr(i, k) for i in found] for k in ("estimate", "low", "high"))
    }
    controls = f"{len(sweep.nulls)} control vector{'s' * (len(sweep.nulls) > 1)}: mean, range"
    if len(sweep.nulls):
        means = sweep.nulls.mean(-1)
        series[controls] = (means.mean(0).tolist(), means.amin(0).tolist(), means.amax(0).tolist())
    rates = sweep.by == PAYLOAD_RATE
    base = wilson(int(sweep.base.sum()), sweep.n) if rates else bootstrap_mean(sweep.base)
    figure = curves(
        sweep.layers.tolist(),
        series,
        xlabel="layer",
        ylabel=_ylabel(sweep),
        null=(base.low, base.high),
        null_label="unedited, 95 %",
        null_colour=_UNEDITED,
        faint=(controls,),
        ylim=ends(limit) or ((0, 1) if rates else None),
        ax=ax,
        **words,
    )
    return mark_value(figure, sweep.best, f"best: layer {sweep.best}", axis="x", axes=ax)
