"""Shares of outcomes as stacked bars, with the kinds of prompts of one condition grouped together. No forward pass."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._bars import whiskers
from bkdinterp.plotting._style import NOTE, PALETTE, TICK, dress, group_names, legend, new_figure
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure

# Fixed, so that an outcome has the same colour in every figure.
_COLOURS = {
    "payload": "#D55E00",
    "other_refusal": "#E69F00",
    "broken": "#8c8c8c",
    "answered": "#0072B2",
}
_GAP = 0.95  # gap between groups, in bars, for the group's name
Row = str | tuple[str, str]


def grouped_bars(
    rows: Mapping[Row, Mapping[str, int]],
    *,
    intervals: Mapping[Row, Interval] | None = None,
    title: str = "Outcomes",
    xlabel: str = "share of outputs (%)",
    ylabel: str = "",
    xlim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One stacked bar per row, first on top, with its number of outputs; rows of a group are together under its name.

    Args:
        rows: condition -> outcome -> count, e.g. from ``metrics.outcome_counts``; a missing outcome counts 0. A key
            ``(group, row)`` puts the row under the group's name.
        intervals: row -> interval of the rate of its first outcome (``"payload"``, if there is one), 0..1, drawn as a
            whisker.
        title: title of the figure.
        xlabel: label of the axis of shares.
        ylabel: label of the conditions.
        xlim: limits of the axis of shares; None for (0, 100).
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, no rows, a row without outputs, or a negative count.
    """
    if not rows:
        raise BkdinterpError("grouped_bars() needs at least one condition.")
    for name, counts in rows.items():
        if sum(counts.values()) <= 0 or min(counts.values()) < 0:
            raise BkdinterpError(
                f"Condition {name!r} has counts {dict(counts)}; it needs at least one output."
            )
    outcomes, colours = _outcomes(rows)
    totals = np.array([sum(counts.values()) for counts in rows.values()])
    y, names, groups = _places(list(rows))
    figure, axes = new_figure(7.4, 1.6 + 0.36 * (y[-1] + 1), ax)
    left = np.zeros(len(rows))
    for outcome in outcomes:
        counts = np.array([{str(o): c for o, c in row.items()}.get(outcome, 0) for row in rows.values()])
        share = 100 * counts / totals
        there = share > 0
        axes.barh(
            y[there],
            share[there],
            left=left[there],
            height=0.74,
            color=colours[outcome],
        )
        for i in np.flatnonzero(share >= 7):
            dark = outcome in ("payload", "answered") or outcome not in _COLOURS
            axes.text(
                left[i] + share[i] / 2, y[i], f"{share[i]:.0f}", ha="center", va="center",
                color="white" if dark else "black", fontsize=NOTE,
            )  # fmt: skip
        left = left + share
    for i, row in enumerate(rows):
        if intervals and row in intervals:
            found = [100 * np.array([getattr(intervals[row], k)]) for k in ("estimate", "low", "high")]
            # Below the middle, because the numbers are in the middle.
            whiskers(axes, y[i : i + 1] + 0.26, *found, along="x", cap=2.0)
    axes.set_xlim(*(xlim or (0, 100)))
    axes.set_yticks(y, [f"{name}  (n={n})" for name, n in zip(names, totals, strict=True)])
    axes.set_ylim(y[-1] + 0.6, -0.6 - _GAP * (0 in groups))
    group_names(axes, {float(y[i]) - 0.42: name for i, name in groups.items()})
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[o], label=o.replace("_", " ")) for o in outcomes]
    legend(
        figure, axes, ax, "outside lower center", handles=handles, ncols=min(4, len(outcomes)), fontsize=TICK
    )
    return figure


def _outcomes(rows: Mapping[Row, Mapping[str, int]]) -> tuple[list[str], dict[str, str]]:
    """All outcomes, the known ones first in their fixed order, and their colours."""
    found = list(dict.fromkeys(str(outcome) for counts in rows.values() for outcome in counts))
    known = [o for o in _COLOURS if o in found]
    others = [o for o in found if o not in known]
    spare = [c for c in PALETTE if c not in _COLOURS.values()]
    return known + others, _COLOURS | {o: spare[i % len(spare)] for i, o in enumerate(others)}


def _places(rows: list[Row]) -> tuple[np.ndarray, list[str], dict[int, str]]:
    """Position and label of each row, and the groups' names by their first row."""
    y, names, groups, last = [], [], {}, None
    place = 0.0
    for i, row in enumerate(rows):
        group, name = row if isinstance(row, tuple) else (None, row)
        if group is not None and group != last:
            groups[i] = group
            place += _GAP if i else 0.0
        last = group
        y.append(place)
        names.append(name)
        place += 1.0
    return np.array(y), names, groups
