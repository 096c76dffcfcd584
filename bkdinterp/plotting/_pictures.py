"""Small pictures in rows, one column per class. No forward pass."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import GREY, LABEL, TICK, TITLE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


def picture_rows(
    rows: Mapping[str, Float[Tensor, "picture height width"] | Float[np.ndarray, "picture height width"]],
    columns: Sequence[str],
    *,
    title: str = "",
) -> "matplotlib.figure.Figure":
    """One row of pictures per label, all on one scale from 0 (white) to 1 (dark).

    Args:
        rows: label -> one picture per column.
        columns: their labels.
        title: of the figure.

    Raises:
        BkdinterpError: matplotlib is missing, no picture, or rows of another length than the columns.
    """
    lengths = {name: len(pictures) for name, pictures in rows.items()}
    if not columns or not rows or set(lengths.values()) != {len(columns)}:
        raise BkdinterpError(
            f"picture_rows() got {len(columns)} columns and rows of {lengths}; give one picture each."
        )
    n = len(columns)
    figure, spare = new_figure(1.6 + 0.85 * n, 1.0 + 1.05 * len(rows))
    spare.remove()
    grid = figure.subplots(len(rows), n, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(np.asarray(picture, dtype=np.float64), cmap="Greys", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_color(GREY)
        line[0].set_ylabel(name, fontsize=TICK)
    for axes, label in zip(grid[0], columns, strict=True):
        axes.set_title(label, fontsize=TICK)
    if title:
        figure.suptitle(title, fontsize=TITLE if n > 5 else LABEL, x=0.01, ha="left")
    return figure
