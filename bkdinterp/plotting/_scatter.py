"""Points of several groups in a plane. No forward pass."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import LABEL, LIGHT, MARKERS, NOTE, PALETTE, dress, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


def scatter(
    groups: Mapping[str, Float[Tensor, "example 2"] | Float[np.ndarray, "example 2"]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> "matplotlib.figure.Figure":
    """One colour and marker per group.

    Args:
        groups: label -> points.
        xlabel: label of the x axis, with unit.
        ylabel: label of the y axis, with unit.
        title: title of the figure.

    Raises:
        BkdinterpError: matplotlib is missing, or there are no groups or more than colours and markers can tell apart.
    """
    if not 1 <= len(groups) <= 2 * len(PALETTE):
        raise BkdinterpError(f"scatter() draws 1 to {2 * len(PALETTE)} groups, got {len(groups)}; drop some.")
    figure, axes = new_figure(6.6, 4.6)
    axes.grid(color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    for i, (label, points) in enumerate(groups.items()):
        data = np.asarray(points, dtype=np.float64)
        turn = i // len(PALETTE)
        # Hollow markers when the colours repeat.
        colour = PALETTE[i % len(PALETTE)]
        axes.scatter(
            data[:, 0], data[:, 1], s=22, marker=MARKERS[(i + turn) % len(MARKERS)], alpha=0.75, label=label,
            facecolors=colour if turn == 0 else "none", edgecolors=colour, linewidths=0.9,
        )  # fmt: skip
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside right center", frameon=False, fontsize=NOTE if len(groups) > 4 else LABEL - 1)
    return figure
