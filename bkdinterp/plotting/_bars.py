"""Shares of outcomes per condition, and labelled estimates with intervals. No forward pass.

Bars are horizontal, so that long labels stay readable.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._curves import Column, drawable
from bkdinterp.plotting._style import (
    GREY,
    LABEL,
    LIGHT,
    NOTE,
    PALETTE,
    TICK,
    dress,
    legend,
    new_figure,
    same_length,
)

if TYPE_CHECKING:
    import matplotlib.figure

# Fixed, so that an outcome has the same colour in every figure.
_OUTCOME_COLOURS = {
    "payload": "#D55E00",
    "other_refusal": "#E69F00",
    "broken": "#8c8c8c",
    "answered": "#0072B2",
}


def grouped_bars(
    rows: Mapping[str, Mapping[str, int]],
    *,
    title: str = "Outcomes",
    xlabel: str = "share of outputs (%)",
    ylabel: str = "",
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One stacked bar per condition, with its number of outputs; the first condition is on top.

    Args:
        rows: condition -> outcome -> count, e.g. from ``metrics.outcome_counts``; a missing outcome counts 0.
        title: title of the figure.
        xlabel: label of the axis of shares.
        ylabel: label of the conditions.
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
    outcomes = list(dict.fromkeys(str(outcome) for counts in rows.values() for outcome in counts))
    known = [o for o in _OUTCOME_COLOURS if o in outcomes]
    outcomes = known + [o for o in outcomes if o not in known]
    spare = [c for c in PALETTE if c not in _OUTCOME_COLOURS.values()]
    colours = _OUTCOME_COLOURS | {o: spare[i % len(spare)] for i, o in enumerate(outcomes[len(known) :])}
    totals = np.array([sum(counts.values()) for counts in rows.values()])
    figure, axes = new_figure(7.4, 1.6 + 0.42 * len(rows), ax)
    y, left = np.arange(len(rows)), np.zeros(len(rows))
    for outcome in outcomes:
        counts = np.array([{str(o): c for o, c in row.items()}.get(outcome, 0) for row in rows.values()])
        share = 100 * counts / totals
        axes.barh(y, share, left=left, height=0.68, color=colours[outcome], label=outcome.replace("_", " "))
        for i in np.flatnonzero(share >= 7):
            dark = outcome in ("payload", "answered") or outcome not in _OUTCOME_COLOURS
            axes.text(
                left[i] + share[i] / 2, y[i], f"{share[i]:.0f}", ha="center", va="center",
                color="white" if dark else "black", fontsize=NOTE,
            )  # fmt: skip
        left = left + share
    axes.set_xlim(0, 100)
    axes.set_yticks(y, [f"{name}  (n={n})" for name, n in zip(rows, totals, strict=True)])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend(figure, axes, ax, "outside lower center", ncols=min(4, len(outcomes)), fontsize=TICK)
    return figure


def bar_intervals(
    labels: Sequence[str],
    estimates: Column,
    lows: Column,
    highs: Column,
    *,
    xlabel: str,
    title: str = "",
    ylabel: str = "",
    reference: float | int | None = None,
    reference_label: str = "",
    null: tuple[float | int, float | int] | None = None,
    null_label: str = "null",
    xlim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One horizontal bar per label, with its interval as a whisker; the first label is on top.

    Args:
        labels: conditions.
        estimates: one per label, all in the same unit.
        lows: lower ends of the intervals; an infinite end (of a single example, for instance) is not drawn.
        highs: upper ends of the intervals.
        xlabel: label of the x axis, with unit.
        title: title of the figure.
        ylabel: label of the conditions.
        reference: a value to mark with a dashed line, e.g. that of the unedited model.
        reference_label: label of the reference.
        null: (low, high) of the null's values, drawn as a vertical grey band.
        null_label: label of the band.
        xlim: limits of the x axis; ``(0, 1)`` for rates.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, or the columns are empty or of unequal length.
    """
    n = same_length(labels=labels, estimates=estimates, lows=lows, highs=highs)
    estimate, low, high = (drawable(c) for c in (estimates, lows, highs))
    figure, axes = new_figure(7.0, 1.4 + 0.38 * n, ax)
    axes.grid(axis="x", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    if null is not None:
        axes.axvspan(null[0], null[1], color=GREY, alpha=0.22, linewidth=0, label=null_label)
    # A percentile interval may miss its own estimate on very skewed data; whiskers cannot be negative.
    whiskers = np.stack([np.maximum(estimate - low, 0), np.maximum(high - estimate, 0)])
    axes.barh(
        # Whiskers without width would look like certainty.
        np.arange(n), estimate, xerr=whiskers if whiskers.any() else None, height=0.62, color=PALETTE[0], alpha=0.85,
        error_kw={"ecolor": "black", "elinewidth": 1.3, "capsize": 3},
    )  # fmt: skip
    if (low < 0).any():
        axes.axvline(0, color=GREY, linewidth=0.9)
    if reference is not None:
        axes.axvline(reference, color="black", linestyle="--", linewidth=1.2, label=reference_label or None)
    axes.set_yticks(np.arange(n), list(labels))
    axes.set_ylim(n - 0.4, -0.6)
    if xlim is not None:
        axes.set_xlim(*xlim)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="y", length=0)
    if axes.get_legend_handles_labels()[1]:
        legend(figure, axes, ax, "outside lower center", ncols=2, fontsize=LABEL - 1)
    return figure
