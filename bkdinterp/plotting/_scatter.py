"""Points of several groups in a plane. No forward pass."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import (
    LABEL,
    LIGHT,
    MARKERS,
    NOTE,
    PALETTE,
    PROMPTS,
    dress,
    legend,
    new_figure,
    reach,
)

if TYPE_CHECKING:
    import matplotlib.figure


def scatter(
    groups: Mapping[str, Float[Tensor, "example 2"] | Float[np.ndarray, "example 2"]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    limit: float | int | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One colour and marker per group.

    Args:
        groups: label -> points.
        xlabel: label of the x axis, with unit.
        ylabel: label of the y axis, with unit.
        title: title of the figure.
        limit: both axes run from -limit to limit; use the same for figures to compare.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, ``limit <= 0``, or there are no groups or more than colours and markers can
            tell apart.
    """
    if not 1 <= len(groups) <= 2 * len(PALETTE):
        raise BkdinterpError(f"scatter() draws 1 to {2 * len(PALETTE)} groups, got {len(groups)}; drop some.")
    span = reach(limit)
    # If a kind of prompt is drawn, the colours of kinds of prompts are not used for other groups.
    palette = [c for c in PALETTE if not set(groups) & set(PROMPTS) or c not in PROMPTS.values()]
    figure, axes = new_figure(6.6, 4.6, ax)
    axes.grid(color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    for i, (label, points) in enumerate(groups.items()):
        data = np.asarray(points.double() if isinstance(points, Tensor) else points, dtype=np.float64)
        # Hollow markers when the colours repeat.
        turn = i // len(palette)
        colour = PROMPTS.get(label) or palette[i % len(palette)]
        axes.scatter(
            data[:, 0], data[:, 1], s=22, marker=MARKERS[(i + turn) % len(MARKERS)], alpha=0.75, label=label,
            facecolors=colour if turn == 0 else "none", edgecolors=colour, linewidths=0.9,
        )  # fmt: skip
    if span is not None:
        axes.set_xlim(-span, span)
        axes.set_ylim(-span, span)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    legend(figure, axes, ax, "outside right center", fontsize=NOTE if len(groups) > 4 else LABEL - 1)
    return figure
