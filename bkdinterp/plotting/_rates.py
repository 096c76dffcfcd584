"""Rates of several models, conditions and kinds of prompts side by side, as in the 2x2 design. No forward pass."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._bars import whiskers
from bkdinterp.plotting._style import (
    LABEL,
    LIGHT,
    NOTE,
    PROMPTS,
    TICK,
    dress,
    group_names,
    head_panels,
    legend,
    new_panels,
)
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure

_OTHERS = ("#009E73", "#000000", "#8c8c8c")
_BAR, _GAP = 1.0, 1.1


def rate_panels(
    panels: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    *,
    singles: Mapping[tuple[str, str, str], Sequence[float]] | None = None,
    labels: Mapping[str, str] | None = None,
    title: str = "Rates",
    xlabel: str = "rate (%), 95 % intervals",
    xlim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One panel per model, stacked; in each, a group of bars per condition with a bar and interval per kind of prompt.

    Args:
        panels: model -> condition -> kind of prompt (``"clean"``, ``"sham"``, ``"triggered"`` or others) -> rate from 0
            to 1.
        singles: (model, condition, kind) -> rates of single controls, drawn as small marks.
        labels: kind -> its label in the legend.
        title: title of the figure.
        xlabel: label of the shared axis.
        xlim: limits of the axis of rates, in %; None for (0, 110).
        ax: matplotlib axes to draw into, or a list for several panels; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, there is nothing to draw, there are more than six kinds, or the numbers of axes
            and panels differ.
    """
    kinds = list(dict.fromkeys(k for groups in panels.values() for bars in groups.values() for k in bars))
    if not kinds or not all(panels.values()):
        raise BkdinterpError("rate_panels() needs at least one model with one condition and one rate.")
    spare = iter(_OTHERS)
    colours = {k: PROMPTS.get(k) or next(spare, None) for k in kinds}
    if None in colours.values():
        raise BkdinterpError(f"rate_panels() draws up to six kinds of prompts; got {', '.join(kinds)}.")
    sizes = [sum(len(bars) * _BAR + _GAP for bars in groups.values()) for groups in panels.values()]
    figure, all_axes = new_panels(7.0, 1.5 + 0.5 * len(panels) + 0.235 * sum(sizes), sizes, ax)
    for axes, (name, groups) in zip(all_axes, panels.items(), strict=True):
        _panel(axes, name, groups, colours, singles or {})
        axes.set_xlim(*(xlim or (0, 110)))
        for marks in axes.lines:
            marks.set_clip_on(xlim is not None)  # half of a control at 0 would be cut off
    all_axes[-1].set_xlabel(xlabel, fontsize=LABEL)
    head_panels(figure, all_axes, title, list(panels), ax)
    _legend(figure, all_axes[-1], {k: (labels or {}).get(k, k) for k in kinds}, colours, bool(singles), ax)
    return figure


def _panel(
    axes: Any,
    name: str,
    groups: Mapping[str, Mapping[str, Interval]],
    colours: Mapping[str, str | None],
    singles: Mapping[tuple[str, str, str], Sequence[float]],
) -> None:
    y = _GAP
    ticks: dict[float, str] = {}
    names: dict[float, str] = {}
    for condition, bars in groups.items():
        names[y - 0.46] = condition
        for kind, rate in bars.items():
            ticks[y] = kind
            estimate, low, high = (100 * v for v in (rate.estimate, rate.low, rate.high))
            axes.barh(y, estimate, height=0.86, color=colours[kind])
            one = [np.array([v]) for v in (y, estimate, low, high)]
            whiskers(axes, *one, along="x", cap=2.5)
            marks = [100 * m for m in singles.get((name, condition, kind), ())]
            axes.plot(
                marks, [y] * len(marks), "o", markersize=4, markerfacecolor="white", markeredgecolor="black",
                markeredgewidth=0.8, zorder=4,
            )  # fmt: skip
            end = max(high, estimate, *marks) + 1.5
            axes.text(end, y, f"{estimate:.0f}", va="center", ha="left", fontsize=NOTE)
            y += _BAR
        y += _GAP
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(y - _GAP - 0.35, -0.2)
    group_names(axes, names)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    dress(axes, title="", xlabel="", ylabel="")
    axes.tick_params(axis="y", length=0)


def _legend(
    figure: "matplotlib.figure.Figure",
    axes: Any,
    words: Mapping[str, str],
    colours: Mapping[str, str | None],
    singles: bool,
    ax: Any,
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colours[k], label=text) for k, text in words.items()]
    if singles:
        handles.append(
            Line2D(
                [],
                [],
                color="black",
                marker="o",
                markerfacecolor="white",
                linestyle="",
                label="a single control",
            )
        )
    legend(figure, axes, ax, "outside lower center", handles=handles, ncols=2, fontsize=TICK)
