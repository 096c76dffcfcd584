"""Labelled rows with one marker per series: where a few values per row are compared. No forward pass."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import GREY, LIGHT, NOTE, PALETTE, TICK, dress, legend, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

_MARKERS = "osD^vP"


def dots(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    marks: Mapping[str, float] | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One row per label, first on top, with one marker per series on a common axis.

    Args:
        labels: one per row; drawn as they are.
        series: name -> one value per row; NaN draws nothing.
        marks: name -> value of a dotted vertical line, such as a null.
        title: of the figure.
        xlabel: of the values.
        ylabel: of the rows.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, no rows or series, or not one value per row.
    """
    if not labels or not series:
        raise BkdinterpError("dots() needs at least one row and one series.")
    for name, values in series.items():
        if len(values) != len(labels):
            raise BkdinterpError(f"Series {name!r} has {len(values)} values for {len(labels)} rows.")
    figure, axes = new_figure(8.0, 1.8 + 0.36 * len(labels), ax)
    y = np.arange(len(labels))
    axes.hlines(y, *_extent(series), color=LIGHT, linewidth=0.8, zorder=1)
    for i, (name, values) in enumerate(series.items()):
        axes.plot(
            values,
            y,
            _MARKERS[i % len(_MARKERS)],
            color=PALETTE[i % len(PALETTE)],
            label=name,
            markersize=7,
            zorder=3,
        )
    for name, value in (marks or {}).items():
        axes.axvline(value, color=GREY, linestyle=":", label=name, zorder=2)
    # A dollar sign would begin a formula.
    axes.set_yticks(y, [label.replace("$", r"\$") for label in labels], fontsize=NOTE)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend(figure, axes, ax, "outside lower center", ncols=3, fontsize=TICK)
    return figure


def _extent(series: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    values = [v for row in series.values() for v in row if v == v]
    return (min(values), max(values)) if values else (0.0, 1.0)
