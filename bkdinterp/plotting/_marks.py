"""Marks on a figure that is already drawn: a chosen layer, chance. No forward pass."""

from typing import TYPE_CHECKING, Any, Literal

from bkdinterp.plotting._style import GREY, NOTE

if TYPE_CHECKING:
    import matplotlib.figure


def mark_value(
    figure: "matplotlib.figure.Figure",
    value: float | int,
    label: str,
    *,
    axis: Literal["x", "y"] = "x",
    axes: Any = None,
) -> "matplotlib.figure.Figure":
    """Draw a thin dotted line at ``value`` with its label beside it; returns the same figure.

    Args:
        figure: the figure to mark; it is changed in place.
        value: value in the unit of the axis.
        label: label of the line, e.g. ``"chosen on validation"``.
        axis: ``"x"`` for a vertical line, ``"y"`` for a horizontal one.
        axes: axes of the figure; None takes the first.
    """
    axes = figure.axes[0] if axes is None else axes
    style = {"color": GREY, "linestyle": ":", "linewidth": 1.2, "zorder": 1}
    text = {"color": GREY, "fontsize": NOTE}
    if axis == "x":
        axes.axvline(value, **style)
        # Beside the line, on the side with more room.
        low, high = axes.get_xlim()
        right = value > (low + high) / 2
        axes.annotate(
            label, (value, 0.02), xycoords=("data", "axes fraction"), xytext=(-4 if right else 4, 0),
            textcoords="offset points", ha="right" if right else "left", va="bottom", **text,
        )  # fmt: skip
    else:
        axes.axhline(value, **style)
        axes.annotate(
            label, (1.0, value), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", ha="left", va="center", annotation_clip=False, **text,
        )  # fmt: skip
    return figure
