"""Shared style of all figures: their creation, a colour-blind safe palette (Okabe-Ito) and font sizes."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.values import as_number, shown

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Fixed, so that a kind of prompt has the same colour in every figure.
PROMPTS = {"clean": "#56B4E9", "sham": "#CC79A7", "triggered": "#D55E00"}
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
    figure, (axes,) = new_panels(width, height, (1.0,), ax)
    return figure, axes


def new_panels(
    width: float,
    height: float,
    sizes: Sequence[float],
    ax: Any = None,
    *,
    across: bool = False,
    one_scale: bool = True,
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """A figure with stacked axes, one for each relative height in ``sizes``; or the given axes.

    Args:
        width: width of the figure in inches.
        height: height of the figure in inches.
        sizes: relative heights, or with ``across`` widths.
        ax: the axes to draw into, or a list for several; None makes a figure.
        across: place axes side by side, sharing their y axis instead of their x axis.
        one_scale: axes side by side share their y axis.

    Raises:
        BkdinterpError: matplotlib is missing, or ``ax`` is not matplotlib axes or has the wrong number of them.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BkdinterpError("Plotting needs matplotlib: pip install bkdinterp[plot]") from error
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        wrong = [x for x in given if not hasattr(x, "get_figure") or not hasattr(x, "barh")]
        if wrong:
            raise BkdinterpError(
                f"ax must be matplotlib axes, e.g. from plt.subplots(); got {type(wrong[0]).__name__}."
            )
        if len(given) != len(sizes):
            raise BkdinterpError(
                f"This figure has {len(sizes)} panel{'s' * (len(sizes) > 1)}: give ax= {len(sizes)} axes, e.g. from "
                f"plt.subplots({'1, ' * across}{len(sizes)}); got {len(given)}."
            )
        return given[0].get_figure(), given
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout, dpi=110)
    if across:
        axes = figure.subplots(1, len(sizes), sharey=one_scale, squeeze=False, width_ratios=list(sizes))
    else:
        axes = figure.subplots(len(sizes), sharex=True, squeeze=False, height_ratios=list(sizes))
    return figure, list(axes.flatten())


def ends(limit: Any) -> tuple[float, float] | None:
    """Check ``limit=`` of curves and bars: the ends of their value axis, or None.

    Raises:
        BkdinterpError: the limit is not two numbers in ascending order.
    """
    if limit is None:
        return None
    if not isinstance(limit, tuple | list) or len(limit) != 2:
        raise BkdinterpError(
            f"limit={shown(limit)}: curves and bars take (low, high), the ends of their value axis."
        )
    low, high = (as_number(x, "limit") for x in limit)
    if low >= high:
        raise BkdinterpError(f"limit={limit}: give the lower end first.")
    return low, high


def reach(limit: Any) -> float | None:
    """Check ``limit=`` of maps and points: the distance from the centre of the scale to its ends, or None.

    Raises:
        BkdinterpError: the limit is not a positive number.
    """
    if limit is None:
        return None
    if isinstance(limit, tuple | list):
        raise BkdinterpError(
            f"limit={limit}: maps and points take one number, the half-width of their scale."
        )
    if (number := as_number(limit, "limit")) <= 0:
        raise BkdinterpError(f"limit={limit}: this is the half-width of the scale, so it must be positive.")
    return number


def dress(axes: "matplotlib.axes.Axes", *, title: str, xlabel: str, ylabel: str) -> None:
    """Set title, labels and font sizes, and reduce the frame to the two axes with ticks."""
    entitle(axes, title)
    axes.set_xlabel(xlabel, fontsize=LABEL)
    axes.set_ylabel(ylabel, fontsize=LABEL)
    axes.tick_params(labelsize=TICK, color=GREY, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def entitle(axes: "matplotlib.axes.Axes", title: str) -> None:
    """Set a title that fits its panel, with smaller letters first and then with line breaks."""
    size = _fitting(title, axes)
    axes.set_title(_wrapped(title, axes, size), fontsize=size, loc="left", pad=10)


def head_panels(
    figure: "matplotlib.figure.Figure",
    axes: "Sequence[matplotlib.axes.Axes]",
    title: str,
    names: Sequence[str],
    ax: Any,
) -> None:
    """Set the figure's title above all panels, and each panel's name; in a user's axes the first panel has both."""
    for i, (panel, name) in enumerate(zip(axes, names, strict=True)):
        text = name if ax is None or i else f"{title}\n{name}"
        panel.set_title(_wrapped(text, panel, TICK), fontsize=TICK, loc="left", pad=6)
    if ax is None:
        width = int((float(figure.get_size_inches()[0]) - 0.3) / 0.09)
        lines = [
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
            for line in title.split("\n")
        ]
        figure.suptitle("\n".join(lines), fontsize=TITLE, x=0.01, ha="left")


def _fitting(title: str, axes: "matplotlib.axes.Axes") -> float:
    """A font size, at least 8, at which the longest line stays within the panel if possible."""
    longest = max(map(len, title.split("\n")))
    return min(float(TITLE), max(8.0, TITLE * _letters(axes, TITLE) / max(1, longest)))


def _wrapped(title: str, axes: "matplotlib.axes.Axes", size: float | int) -> str:
    """The title with lines that are still too long for the figure broken between words."""
    width = max(10, int(_letters(axes, size)))
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in title.split("\n")
    )


def _letters(axes: "matplotlib.axes.Axes", size: float | int) -> float:
    """Number of letters of this size that fit on a line of the panel, from the left edge of the axes."""
    figure: Any = axes.get_figure()
    width = float(figure.get_size_inches()[0])
    # With several panels a title stays within its panel; the title of a single panel may reach the edge of the figure. It
    # begins where the labels of the rows end.
    names = max((len(line) for t in axes.get_yticklabels() for line in t.get_text().split("\n")), default=0)
    room = (
        axes.get_position().width * width if len(figure.axes) > 1 else width - max(0.9, 0.3 + 0.075 * names)
    )
    return room / (0.09 * size / TITLE)


def group_names(axes: "matplotlib.axes.Axes", names: Mapping[float, str]) -> None:
    """Write the names of groups of horizontal bars above their first bars; ``names`` maps the bar's upper edge to the name."""
    for y, name in names.items():
        axes.annotate(
            name, (0, y), xycoords=("axes fraction", "data"), xytext=(0, 1.5), textcoords="offset points",
            va="bottom", ha="left", fontsize=TICK, weight="bold", annotation_clip=False, parse_math=False,
        )  # fmt: skip


def legend(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", ax: Any, loc: Any, **style: Any
) -> None:
    """Draw the legend beside or below the axes; if they are part of a user's figure, inside or below them."""
    if ax is None:
        figure.legend(loc=loc, frameon=False, **style)
    elif "lower" in loc:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False, **style)
    else:
        axes.legend(loc="best", frameon=False, **style)


def same_length(**columns: object) -> int:
    """Common length of the columns; raises BkdinterpError if lengths differ or are 0."""
    lengths = {name: len(column) for name, column in columns.items() if column is not None}  # type: ignore[arg-type]
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise BkdinterpError(f"A plot needs columns of equal length, at least 1; got {lengths}.")
    return next(iter(lengths.values()))
