"""Labelled estimates with intervals, and estimates over layers. No forward pass.

Bars with labels are horizontal, so that long labels stay readable.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bkdinterp.plotting._curves import Column, drawable
from bkdinterp.plotting._style import (
    GREY,
    LABEL,
    LIGHT,
    NOTE,
    PALETTE,
    dress,
    group_names,
    legend,
    new_figure,
    same_length,
)

if TYPE_CHECKING:
    import matplotlib.figure


def bar_intervals(
    labels: Sequence[str],
    estimates: Column,
    lows: Column | None = None,
    highs: Column | None = None,
    *,
    xlabel: str,
    title: str = "",
    ylabel: str = "",
    reference: float | int | None = None,
    reference_label: str = "",
    null: tuple[float | int, float | int] | None = None,
    null_label: str = "null",
    notes: Sequence[str] | None = None,
    groups: Mapping[int, str] | None = None,
    faint: Collection[int] = (),
    xlim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One horizontal bar per label, with its interval, if it has one, as a whisker; the first label is on top.

    Args:
        labels: conditions.
        estimates: one per label, all in the same unit.
        lows: lower ends of the intervals; None without intervals. Infinite ends (e.g. of a single example) are not drawn, nor
            are intervals without width, which would look like certainty.
        highs: upper ends of the intervals.
        xlabel: label of the x axis, with unit.
        title: title of the figure.
        ylabel: label of the conditions.
        reference: a value to mark with a dashed line, e.g. that of the unedited model.
        reference_label: label of the reference.
        null: (low, high) of the null's values, drawn as a vertical grey band.
        null_label: label of the band.
        notes: a short note at the end of each bar; None writes 0 where nothing can be seen.
        groups: row -> a name that is written above it, for it and the rows below.
        faint: rows that are nulls, drawn grey.
        xlim: limits of the x axis; ``(0, 1)`` for rates.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, or the columns are empty or of unequal length.
    """
    n = same_length(labels=labels, estimates=estimates, lows=lows, highs=highs, notes=notes)
    estimate = drawable(estimates)
    named = dict(groups or {})
    y = np.arange(n) + 0.85 * np.cumsum([i in named for i in range(n)])
    figure, axes = new_figure(8.4 if named else 7.0, 1.4 + 0.38 * (n + 0.85 * len(named)), ax)
    axes.grid(axis="x", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    if null is not None:
        axes.axvspan(null[0], null[1], color=GREY, alpha=0.22, linewidth=0, label=null_label)
    paint = [GREY if i in faint else PALETTE[0] for i in range(n)]
    axes.barh(y, estimate, height=0.62, color=paint, alpha=0.85)
    shown = whiskers(axes, y, estimate, lows, highs, along="x")
    if (np.minimum(shown[0], estimate) < 0).any():
        axes.axvline(0, color=GREY, linewidth=0.9)
    # A bar of length 0 without a whisker would look like a missing one.
    empty = (estimate == 0) & (shown[0] == 0) & (shown[1] == 0)
    for i, note in enumerate(notes or ["0" if e else "" for e in empty]):
        if not note:
            continue
        end = np.nanmax([shown[1][i], estimate[i], 0.0])
        axes.annotate(
            note, (end, y[i]), xytext=(4, 0), textcoords="offset points", va="center", ha="left", fontsize=NOTE, color=GREY,
            annotation_clip=False,
        )  # fmt: skip
    if reference is not None:
        axes.axvline(reference, color="black", linestyle="--", linewidth=1.2, label=reference_label or None)
    axes.set_yticks(y, list(labels), parse_math=False)
    axes.set_ylim(y[-1] + 0.6, y[0] - (1.0 if 0 in named else 0.6))
    group_names(axes, {float(y[i]) - 0.36: name for i, name in named.items()})
    if xlim is None and empty.all() and not reference and null is None:
        xlim = (0, 1)  # not around 0, where a bar would begin in the middle
    if xlim is not None:
        axes.set_xlim(*xlim)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="y", length=0)
    if axes.get_legend_handles_labels()[1]:
        legend(figure, axes, ax, "outside lower center", ncols=2, fontsize=LABEL - 1)
    return figure


def layer_bars(
    layers: Sequence[int],
    estimates: Column,
    lows: Column | None = None,
    highs: Column | None = None,
    *,
    ylabel: str,
    xlabel: str = "layer",
    title: str = "",
    ylim: tuple[float | int, float | int] | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One vertical bar per layer from a line at zero, with its interval, if it has one, as a whisker.

    Args:
        layers: x positions of the bars; missing layers stay empty.
        estimates: one per layer, all in the same unit.
        lows: lower ends of the intervals, as in `bar_intervals`.
        highs: upper ends.
        ylabel: label of the y axis, with unit.
        xlabel: label of the layers.
        title: title of the figure.
        ylim: limits of the y axis.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, or the columns are empty or of unequal length.
    """
    from matplotlib.ticker import MaxNLocator

    n = same_length(layers=layers, estimates=estimates, lows=lows, highs=highs)
    figure, axes = new_figure(max(4.6, min(11.0, 1.6 + 0.2 * n)), 4.2, ax)
    axes.grid(axis="y", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    x, estimate = np.asarray(layers), drawable(estimates)
    axes.bar(x, estimate, width=0.72, color=PALETTE[0], alpha=0.85)
    whiskers(axes, x, estimate, lows, highs, along="y", cap=1.5)
    axes.axhline(0, color="black", linewidth=0.9)
    axes.set_xlim(x.min() - 0.8, x.max() + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    if ylim is not None:
        axes.set_ylim(*ylim)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="x", length=0)
    return figure


def whiskers(
    axes: Any,
    place: np.ndarray,
    estimate: np.ndarray,
    lows: Column | None,
    highs: Column | None,
    *,
    along: Literal["x", "y"],
    cap: float | int = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Whiskers of the intervals with a width; and the ends of all intervals, or the estimate if there is none."""
    if lows is None or highs is None:
        return estimate, estimate
    low, high = drawable(lows), drawable(highs)
    # A percentile interval may miss its own estimate on very skewed data; whiskers cannot be negative.
    arms = np.stack([np.maximum(estimate - low, 0), np.maximum(high - estimate, 0)])
    wide = np.isfinite(arms).all(0) & (arms.sum(0) > 0)
    if wide.any():
        at = (estimate[wide], place[wide]) if along == "x" else (place[wide], estimate[wide])
        style: Any = {"fmt": "none", "ecolor": "black", "elinewidth": 1.3, "capsize": cap}
        axes.errorbar(*at, **{f"{along}err": arms[:, wide]}, **style)
    return np.where(wide, estimate - arms[0], estimate), np.where(wide, estimate + arms[1], estimate)
