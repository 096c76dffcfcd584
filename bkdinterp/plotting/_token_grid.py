"""A grid of tokens coloured by probability, with one row per site and the most likely token first; or a text in lines.

No forward pass.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._maps import colour_bar, colours, grid_of, map_key, outline
from bkdinterp.plotting._style import NOTE, dress, new_figure, reach

if TYPE_CHECKING:
    import matplotlib.figure

_LONGEST = 11  # most letters of a token that fit into its cell


def token_grid(
    tokens: Sequence[Sequence[str]],
    probabilities: Float[Tensor, "site rank"] | Float[np.ndarray, "site rank"],
    *,
    rows: Sequence[str],
    title: str = "",
    label: str = "probability",
    xlabel: str = "rank of the token",
    marked: Collection[tuple[int, int]] = (),
    marked_label: str = "",
    limit: float | int | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """Grid with sites down the y axis and ranks along x; each cell shows its token, coloured by probability.

    Args:
        tokens: texts of each row's tokens, most likely first.
        probabilities: their probabilities, 0..1, or attention to them; NaN for a cell without a token.
        rows: names of the sites, or of the lines of a text.
        title: title of the figure.
        label: label of the colour scale.
        xlabel: label of the columns.
        marked: (row, rank from 0) of cells to outline, e.g. the target's.
        marked_label: label of the outlined cells in the legend.
        limit: the colour scale is [0, limit]. Default: 1.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, ``limit <= 0``, or tokens, probabilities and rows do not fit together.
    """
    data = grid_of(probabilities)
    n_rows, n_ranks = data.shape
    if len(rows) != n_rows or len(tokens) != n_rows or any(len(row) != n_ranks for row in tokens):
        raise BkdinterpError(
            f"token_grid() needs a name and {n_ranks} tokens for each of the {n_rows} rows of probabilities."
        )
    limit = reach(limit) or 1.0
    figure, axes = new_figure(2.3 + 0.95 * n_ranks, 1.5 + 0.27 * n_rows + 0.3 * bool(marked), ax)
    axes.imshow(data, cmap=colours("Blues"), vmin=0, vmax=limit, aspect="auto", interpolation="nearest")
    for i, row in enumerate(tokens):
        for k, text in enumerate(row):
            axes.text(
                k, i, visible(text), ha="center", va="center", fontsize=NOTE - 0.5, parse_math=False,
                color="white" if data[i, k] > 0.6 * limit else "black",
            )  # fmt: skip
    for row, rank in marked:
        outline(axes, row, rank, "#D55E00", 0.04)
    axes.set_xticks(range(n_ranks), [str(k + 1) for k in range(n_ranks)])
    axes.set_yticks(range(n_rows), list(rows))
    dress(axes, title=title, xlabel=xlabel, ylabel="")
    if marked and marked_label:
        from matplotlib.patches import Patch

        box = Patch(fill=False, edgecolor="#D55E00", linewidth=1.5, label=marked_label)
        map_key(figure, axes, [box], ax)
    colour_bar(figure, [axes], label, "max" if (data > limit).any() else "neither")
    return figure


def visible(text: str) -> str:
    """A token's text with visible spaces and line breaks, without control characters, and cut to 11 letters."""
    seen = text.replace(" ", "\N{OPEN BOX}").replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    seen = "".join(c if c.isprintable() else "\N{WHITE SQUARE}" for c in seen)
    return seen if len(seen) <= _LONGEST else seen[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
