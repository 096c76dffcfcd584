"""Panels with several curves or bars on one scale, e.g. an organism beside its twin. No forward pass."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import LABEL, TICK, head_panels, new_panels

if TYPE_CHECKING:
    import matplotlib.figure

Draw = Callable[[Any], Any]


def panels(
    draws: Mapping[str, Draw],
    *,
    title: str,
    share: Literal["x", "y"] = "y",
    width: float | int = 4.6,
    height: float | int = 4.2,
    across: bool = True,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One panel per drawing, all with the widest of their scales, and one legend.

    Args:
        draws: name of a panel -> a function that draws into the given axes, e.g. with ``curves(..., ax=axes, key=False)``.
        title: title of the figure.
        share: the axis whose limits are made equal; side by side with ``"x"`` every panel has a y axis of its own.
        width: width of one panel in inches.
        height: height of one panel in inches.
        across: place panels side by side instead of stacking them.
        ax: a list of matplotlib axes, one for each panel; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, there is nothing to draw, or the number of axes is wrong.
    """
    if not draws:
        raise BkdinterpError("panels() needs at least one drawing.")
    n = len(draws)
    size = (n * width + 0.4, height + 0.7) if across else (width, n * height + 0.7)
    figure, drawn = new_panels(*size, [1.0] * n, ax, across=across, one_scale=share == "y")
    for i, (axes, draw) in enumerate(zip(drawn, draws.values(), strict=True)):
        draw(axes)
        if across and i and share == "y":
            axes.set_ylabel("")
        if not across and axes is not drawn[-1]:
            axes.set_xlabel("")
    if not across and ax is None:
        # Low panels have no room for separate labels.
        figure.supylabel(drawn[0].get_ylabel(), fontsize=LABEL)
        for axes in drawn:
            axes.set_ylabel("")
    get, put = f"get_{share}lim", f"set_{share}lim"
    found = [getattr(axes, get)() for axes in drawn]
    falling = found[0][0] > found[0][1]
    low, high = min(min(pair) for pair in found), max(max(pair) for pair in found)
    for axes in drawn:
        getattr(axes, put)(*((high, low) if falling else (low, high)))
    head_panels(figure, drawn, title, list(draws), ax)
    known: dict[str, Any] = {}
    for axes in drawn:
        handles, labels = axes.get_legend_handles_labels()
        known |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in known}
    if len(known) > 1 and ax is None:
        figure.legend(
            known.values(),
            known.keys(),
            loc="outside lower center",
            ncols=min(4, len(known)),
            frameon=False,
            fontsize=TICK,
        )
    elif len(known) > 1:
        drawn[0].legend(known.values(), known.keys(), loc="best", frameon=False, fontsize=TICK)
    return figure
