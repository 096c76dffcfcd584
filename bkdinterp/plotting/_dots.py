"""Labelled rows with one marker per series: where a few values per row are compared. No forward pass."""

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._curves import drawable
from bkdinterp.plotting._style import GREY, LIGHT, NOTE, PALETTE, TICK, dress, legend, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

_MARKERS = "osD^vP"


def dots(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    marks: Mapping[str, float] | None = None,
    faint: Collection[str] = (),
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    xlim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One row per label, first on top, with one marker per series on a common axis.

    Args:
        labels: one per row; drawn as they are.
        series: name -> one value per row; NaN and infinity draw nothing.
        marks: name -> value of a dotted vertical line, such as a null.
        faint: names of the series that are nulls, drawn grey.
        title: of the figure.
        xlabel: of the values.
        ylabel: of the rows.
        xlim: ends of the values' axis.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, no rows or series, or not one value per row.
    """
    if not labels or not series:
        raise BkdinterpError("dots() needs at least one row and one series.")
    for name, values in series.items():
        if len(values) != len(labels):
            raise BkdinterpError(f"Series {name!r} has {len(values)} values for {len(labels)} rows.")
    figure, axes = new_figure(
        min(11.0, max(8.0, 4.6 + 0.075 * max(map(len, labels)))), 1.8 + 0.36 * len(labels), ax
    )
    y = np.arange(len(labels))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LIGHT, linewidth=0.8)
    for i, (name, values) in enumerate(series.items()):
        axes.plot(
            drawable(values),
            y,
            _MARKERS[i % len(_MARKERS)],
            color=GREY if name in faint else PALETTE[i % len(PALETTE)],
            label=name,
            markersize=7,
            # Nulls are below: their squares are seen behind a circle.
            zorder=2.5 if name in faint else 3,
        )
    for name, value in (marks or {}).items():
        if isfinite(value):
            axes.axvline(value, color=GREY, linestyle=":", label=name, zorder=2)
    # Labels may come from a model, whose dollar signs begin no formula.
    axes.set_yticks(y, list(labels), fontsize=NOTE, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    if xlim is not None:
        axes.set_xlim(*xlim)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend(figure, axes, ax, "outside lower center", ncols=3, fontsize=TICK)
    return figure
