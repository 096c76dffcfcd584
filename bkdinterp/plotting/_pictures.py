"""Small pictures in rows, one column per class. No forward pass."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._maps import colour_bar, colours
from bkdinterp.plotting._style import GREY, dress, new_figure, reach

if TYPE_CHECKING:
    import matplotlib.figure

_GAP = 0.15  # between two pictures, as a share of a picture


def picture_rows(
    rows: Mapping[str, Float[Tensor, "picture height width"] | Float[np.ndarray, "picture height width"]],
    columns: Sequence[str],
    *,
    title: str = "",
    xlabel: str = "",
    label: str = "",
    limit: float | int | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """One row of pictures per label, all in one set of axes and on one scale from 0 (white) to 1 (dark).

    Args:
        rows: label -> one picture per column, all of one size.
        columns: their labels.
        title: of the figure.
        xlabel: of the columns.
        label: of the scale, which is drawn if it has one.
        limit: the scale is [0, limit]. Default: 1.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, ``limit <= 0``, no picture, rows of another length than the columns, or pictures
            of several sizes.
    """
    from matplotlib.patches import Rectangle

    end = reach(limit) or 1.0
    data = {
        name: (x.double().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float64))
        for name, x in rows.items()
    }
    shapes = {x.shape for x in data.values()}
    n = len(columns)
    if len(shapes) != 1 or not n or next(iter(shapes))[0] != n or 0 in next(iter(shapes)):
        raise BkdinterpError(
            f"picture_rows() got {n} columns and rows of {[x.shape for x in data.values()]}; give one picture each, all of "
            "one size."
        )
    height, width = next(iter(shapes))[1:]
    step = 1 + _GAP
    wide = max(6.6, 2.6 + 0.85 * n)
    # As high as the pictures get in this width.
    side = (wide - 0.4 - 0.075 * max(map(len, data)) - 0.9 * bool(label)) / (n * step - _GAP)
    tall = min(16.0, 1.75 + side * height / width * (len(data) * step - _GAP))
    figure, axes = new_figure(wide, tall, ax)
    for i, pictures in enumerate(data.values()):
        for k, picture in enumerate(pictures):
            left, top = k * step, i * step
            axes.imshow(
                picture, cmap=colours("Greys"), vmin=0, vmax=end, interpolation="nearest",
                extent=(left, left + 1, top + 1, top),
            )  # fmt: skip
            axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor=GREY, linewidth=0.8))
    axes.set_xlim(-0.02, n * step - _GAP + 0.02)
    axes.set_ylim(len(data) * step - _GAP + 0.02, -0.02)
    axes.set_aspect(height / width)
    axes.set_xticks([k * step + 0.5 for k in range(n)], list(columns), parse_math=False)
    axes.set_yticks([i * step + 0.5 for i in range(len(data))], list(data), parse_math=False)
    dress(axes, title=title, xlabel=xlabel, ylabel="")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if label:
        over = any((x > end).any() for x in data.values())
        # Inside of the axes, whose height the pictures change, or it would be higher than they are.
        place = axes.inset_axes((1.02, 0.0, 0.015, 1.0))
        colour_bar(figure, [axes], label, "max" if over else "neither", place)
    return figure
