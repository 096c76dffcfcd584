"""Estimates along a numeric axis (layer, number of heads, coefficient) with intervals and a null band."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import (
    GREY,
    LABEL,
    LIGHT,
    MARKERS,
    NOTE,
    PALETTE,
    PROMPTS,
    dress,
    legend,
    new_figure,
    same_length,
)

if TYPE_CHECKING:
    import matplotlib.figure

MOST_MARKERS = 40
Column = Float[Tensor, " row"] | Float[np.ndarray, " row"] | Sequence[float | int]


def curves(
    x: Sequence[float | int],
    series: Mapping[str, tuple[Column, Column | None, Column | None]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    null: tuple[float | int, float | int] | None = None,
    null_label: str = "null",
    null_colour: str = GREY,
    faint: Collection[str] = (),
    ylim: tuple[float | int, float | int] | None = None,
    key: bool = True,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One line per series, with its interval, if it has one, as a band.

    Args:
        x: shared x values.
        series: label -> (estimate, low, high), each as long as ``x``; infinite ends are not drawn. ``(estimate, None, None)``
            has no interval.
        xlabel: label of the x axis, with unit.
        ylabel: label of the y axis, with unit.
        title: title of the figure.
        null: (low, high) of the null's values, drawn as a horizontal band.
        null_label: label of the band, e.g. ``"20 random head sets"``.
        null_colour: colour of the band, e.g. if other nulls are grey.
        faint: labels of the series that are nulls, drawn grey and dashed or dotted.
        ylim: limits of the y axis; ``(0, 1)`` for rates.
        key: draw a legend if there is more than one item.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, no series, more than 7, or unequal lengths.
    """
    if not 1 <= len(series) <= len(PALETTE):
        raise BkdinterpError(
            f"curves() draws 1 to {len(PALETTE)} series, got {len(series)}; split the figure."
        )
    for label, (estimate, low, high) in series.items():
        same_length(**{"x": x, f"{label}: estimate": estimate, f"{label}: low": low, f"{label}: high": high})
        if (low is None) != (high is None):
            raise BkdinterpError(f"{label!r} has one end of an interval; give both, or None for both.")
    names = [*series, *([] if null is None else [null_label])] if key else []
    # The legend is beside the axes, and long names would leave them half of the figure.
    beside = max(map(len, names), default=0) if len(names) > 1 else 0
    figure, axes = new_figure(6.6 + min(2.4, 0.08 * max(0, beside - 12)), 4.0, ax)
    axes.grid(axis="y", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    if null is not None:
        axes.axhspan(null[0], null[1], color=null_colour, alpha=0.22, linewidth=0, label=null_label, zorder=1)
    styles = iter(zip(line_colours(series), MARKERS, strict=False))
    dashes = itertools.cycle(("--", ":"))
    for label, (estimate, low, high) in series.items():
        grey = label in faint
        colour, marker = (GREY, None) if grey else next(styles)
        if low is not None and high is not None:
            axes.fill_between(
                x,
                drawable(low),
                drawable(high),
                color=colour,
                alpha=0.18,
                linewidth=0,
                zorder=1.5 if grey else 2,
            )
        axes.plot(
            x,
            drawable(estimate),
            color=colour,
            # Markers on many points in a row would merge.
            marker=marker if len(x) <= MOST_MARKERS else None,
            markersize=4.5,
            linewidth=1.4 if grey else 1.8,
            linestyle=next(dashes) if grey else "-",
            label=label,
            zorder=2.5 if grey else 3,
        )
    if ylim is not None:
        # A small margin, so that lines at exactly 0 or 1 are not clipped.
        margin = 0.03 * (ylim[1] - ylim[0])
        axes.set_ylim(ylim[0] - margin, ylim[1] + margin)
    if all(float(v).is_integer() for v in x):
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    if key and (len(series) > 1 or null is not None):
        legend(figure, axes, ax, "outside right center", fontsize=NOTE if len(series) > 4 else LABEL - 1)
    return figure


def line_colours(labels: Collection[str]) -> Sequence[str]:
    """Colours of curves: those of kinds of prompts if all labels are kinds, else the palette."""
    return [PROMPTS[k] for k in labels] if set(labels) <= set(PROMPTS) else PALETTE


def drawable(column: Column) -> Float[np.ndarray, " row"]:
    """A float64 array with NaN for infinity, which a figure skips instead of stretching its axis."""
    out = np.asarray(column.double() if isinstance(column, Tensor) else column, dtype=np.float64)
    return np.where(np.isinf(out), np.nan, out)
