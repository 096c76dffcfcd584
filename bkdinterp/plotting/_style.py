"""Shared style of all figures: their creation, a colour-blind safe palette (Okabe-Ito) and font sizes."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
LIGHT = "#d9d9d9"
TITLE, LABEL, TICK, NOTE = 12, 11, 9.5, 9


def new_figure(
    width: float, height: float, ax: Any = None
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    """A figure of ``width`` x ``height`` inches with one set of axes, or the given axes with their figure.

    Raises:
        BkdinterpError: matplotlib is missing, or ``ax`` is not matplotlib axes.
    """
    figure, axes = new_panels(width, height, (1.0,), ax)
    return figure, axes[0]


def new_panels(
    width: float, height: float, heights: Sequence[float], ax: Any = None
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """A figure with stacked axes of these relative heights that share their x axis, or the given single axes.

    Raises:
        BkdinterpError: as `new_figure`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BkdinterpError("Plotting needs matplotlib: pip install bkdinterp[plot]") from error
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if ax is not None:
        if not hasattr(ax, "get_figure") or not hasattr(ax, "barh"):
            raise BkdinterpError(
                f"ax must be matplotlib axes, e.g. of plt.subplots(); got {type(ax).__name__}."
            )
        return ax.get_figure(), [ax]
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout, dpi=110)
    axes = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=list(heights))
    return figure, list(axes[:, 0])


def dress(axes: "matplotlib.axes.Axes", *, title: str, xlabel: str, ylabel: str) -> None:
    """Set title, labels and font sizes, and reduce the frame to the two axes with ticks."""
    size = _fitting(title, axes)
    axes.set_title(_wrapped(title, axes, size), fontsize=size, loc="left", pad=10)
    axes.set_xlabel(xlabel, fontsize=LABEL)
    axes.set_ylabel(ylabel, fontsize=LABEL)
    axes.tick_params(labelsize=TICK, color=GREY, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def _fitting(title: str, axes: "matplotlib.axes.Axes") -> float:
    """A font size, at least 8, at which the longest line stays within the figure if possible."""
    longest = max(map(len, title.split("\n")))
    return min(float(TITLE), max(8.0, TITLE * _letters(axes, TITLE) / max(1, longest)))


def _wrapped(title: str, axes: "matplotlib.axes.Axes", size: float | int) -> str:
    """The title with lines that are still too long for the figure broken between words."""
    width = max(10, int(_letters(axes, size)))
    return "\n".join(textwrap.fill(line, width, break_long_words=False) for line in title.split("\n"))


def _letters(axes: "matplotlib.axes.Axes", size: float | int) -> float:
    """Number of letters of this size that fit on a line of the figure, from the left edge of the axes."""
    figure: Any = axes.get_figure()
    return (float(figure.get_size_inches()[0]) - 0.9) / (0.09 * size / TITLE)


def legend(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", ax: Any, loc: Any, **style: Any
) -> None:
    """Draw the legend beside the axes, or inside them if they are part of a user's figure."""
    if ax is None:
        figure.legend(loc=loc, frameon=False, **style)
    else:
        axes.legend(loc="best", frameon=False, **style)


def same_length(**columns: object) -> int:
    """Common length of the columns; raises BkdinterpError if lengths differ or are 0."""
    lengths = {name: len(column) for name, column in columns.items() if column is not None}  # type: ignore[arg-type]
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise BkdinterpError(f"A plot needs columns of equal length, at least 1; got {lengths}.")
    return next(iter(lengths.values()))
