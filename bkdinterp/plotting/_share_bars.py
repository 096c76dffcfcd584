"""Shares of several groups and rows, one thin bar per kind of prompt, e.g. attention by part of the prompt. No forward pass."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._bars import whiskers
from bkdinterp.plotting._style import LIGHT, PALETTE, PROMPTS, TICK, dress, group_names, legend, new_figure
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure

_GAP = 0.7  # gap between groups, in rows, for the group's name


def share_bars(
    groups: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    *,
    title: str = "",
    xlabel: str = "share",
    xlim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """Rows of horizontal bars in named groups; the kinds of prompts of a row lie against each other, each with its interval.

    Args:
        groups: group -> row -> kind of prompt (``"clean"``, ``"triggered"`` or others) -> share from 0 to 1. A row need not
            have every kind.
        title: title of the figure.
        xlabel: label of the axis of shares.
        xlim: limits of that axis; None for (0, 1).
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, there is nothing to draw, or there are more kinds than colours.
    """
    kinds = list(dict.fromkeys(k for rows in groups.values() for bars in rows.values() for k in bars))
    if not kinds or not all(groups.values()):
        raise BkdinterpError("share_bars() needs at least one group with one row and one share.")
    kinds.sort(key=lambda kind: list(PROMPTS).index(kind) if kind in PROMPTS else len(PROMPTS))
    spare = [colour for colour in PALETTE if colour not in PROMPTS.values()]
    others = [kind for kind in kinds if kind not in PROMPTS]
    if len(others) > len(spare):
        raise BkdinterpError(
            f"share_bars() draws up to {len(spare)} kinds of prompts; got {', '.join(kinds)}."
        )
    colours = PROMPTS | dict(zip(others, spare, strict=False))
    n_rows = sum(map(len, groups.values()))
    height = 0.78 / len(kinds)
    figure, axes = new_figure(7.0, 1.5 + (0.26 + 0.07 * len(kinds)) * (n_rows + _GAP * len(groups)), ax)
    axes.grid(axis="x", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    ticks: dict[float, str] = {}
    names: dict[float, str] = {}
    y = _GAP
    for group, rows in groups.items():
        names[y - 0.44] = group
        for row, bars in rows.items():
            ticks[y] = row
            for k, kind in enumerate(kinds):
                if kind in bars:
                    place = y + (k - (len(kinds) - 1) / 2) * height
                    _bar(axes, place, bars[kind], 0.92 * height, colours[kind])
            y += 1.0
        y += _GAP
    axes.set_yticks(list(ticks), list(ticks.values()), parse_math=False)
    axes.set_ylim(y - _GAP - 0.4, -0.3)
    axes.set_xlim(*(xlim or (0, 1)))
    group_names(axes, names)
    dress(axes, title=title, xlabel=xlabel, ylabel="")
    axes.tick_params(axis="y", length=0)
    if len(kinds) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=colours[kind], label=kind) for kind in kinds]
        legend(figure, axes, ax, "outside lower center", handles=handles, ncols=len(kinds), fontsize=TICK)
    return figure


def _bar(axes: Any, y: float, share: Interval, height: float, colour: str) -> None:
    axes.barh(y, share.estimate, height=height, color=colour)
    ends = [np.array([v]) for v in (y, share.estimate, share.low, share.high)]
    whiskers(axes, *ends, along="x", cap=2.0)
