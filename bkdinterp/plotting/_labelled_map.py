"""A map with a text for every column: an effect by layer and position, attention by query and key. No forward pass."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._maps import colour_bar, colours, grid_of, map_key, missing_patch, rule_rows
from bkdinterp.plotting._style import PROMPTS, TICK, dress, new_figure, reach

if TYPE_CHECKING:
    import matplotlib.figure


def labelled_map(
    values: Float[Tensor, "row column"] | Float[np.ndarray, "row column"],
    *,
    columns: Sequence[str],
    rows: Sequence[str] | None = None,
    scale: Literal["change", "share"] = "change",
    title: str = "",
    label: str = "",
    xlabel: str = "",
    ylabel: str = "",
    marked: Collection[int] = (),
    dotted: Collection[tuple[int, int]] = (),
    dotted_label: str = "",
    missing_label: str = "",
    limit: float | int | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """A map with written columns, which are turned upright if they are long; NaN cells are grey.

    Args:
        values: one number per cell.
        columns: texts of the columns.
        rows: texts of the rows; None counts them from 0, e.g. for layers.
        scale: ``"change"`` has a diverging scale centred at 0 (red is more, blue is less), ``"share"`` one from 0.
        title: title of the figure.
        label: label of the colour scale, with unit.
        xlabel: label of the columns.
        ylabel: label of the rows.
        marked: columns whose text is bold, in the colour of triggered prompts.
        dotted: (row, column) of cells with a small dot, e.g. because they may be 0.
        dotted_label: meaning of the dots, for the legend.
        missing_label: meaning of the grey cells, for the legend.
        limit: upper end of the scale, and its lower end with a minus for changes. Default: the largest absolute value.
        ax: matplotlib axes to draw into; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, ``limit <= 0``, or texts and values do not fit together.
    """
    data = grid_of(values)
    n_rows, n_columns = data.shape
    if len(columns) != n_columns or (rows is not None and len(rows) != n_rows):
        raise BkdinterpError(
            f"labelled_map() of {n_rows} x {n_columns} cells got {len(columns)} texts of columns"
            f"{'' if rows is None else f' and {len(rows)} of rows'}; give one for each."
        )
    finite = np.abs(data[np.isfinite(data)])
    limit = reach(limit) or float(finite.max(initial=0.0)) or 1.0
    longest = max(map(len, columns))
    upright = longest > 4
    cell = 0.24 if n_columns > 16 else 0.42
    width = min(16.0, max(5.2, 2.4 + cell * n_columns + (0.075 * max(map(len, rows)) if rows else 0)))
    below = 0.075 * min(longest, 24) if upright else 0.0
    words = [dotted_label if dotted else "", missing_label if bool(np.isnan(data).any()) else ""]
    height = min(16.0, max(3.2, 1.5 + below + 0.21 * n_rows)) + 0.3 * any(words)
    figure, axes = new_figure(width, height, ax)
    diverging = scale == "change"
    axes.imshow(
        data,
        cmap=colours("RdBu_r" if diverging else "Blues"),
        vmin=-limit if diverging else 0,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    rule_rows(axes, n_rows, n_columns, most=64)
    size = TICK if n_columns <= 24 else TICK - 2.5
    turned: dict[str, Any] = {"rotation": 90, "va": "top"} if upright else {}
    axes.set_xticks(range(n_columns), list(columns), parse_math=False, **turned)
    if rows is not None:
        axes.set_yticks(range(n_rows), list(rows), parse_math=False)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="x", labelsize=size)
    for k in marked:
        axes.get_xticklabels()[k].set(color=PROMPTS["triggered"], weight="bold")
    if rows is not None:
        axes.tick_params(axis="y", labelsize=TICK if n_rows <= 24 else TICK - 2.5)
    if dotted:
        at = np.array(sorted(dotted))
        axes.plot(at[:, 1], at[:, 0], ".", color="black", markersize=2.4, alpha=0.55)
    map_key(figure, axes, _handles(*words), ax)
    over = bool((data > limit).any())
    under = diverging and bool((data < -limit).any())
    colour_bar(
        figure, [axes], label, "both" if over and under else "max" if over else "min" if under else "neither"
    )
    return figure


def _handles(dot: str, grey: str) -> list[Any]:
    """Of the legend, for what is there."""
    from matplotlib.lines import Line2D

    style = {"color": "black", "marker": ".", "markersize": 3, "linestyle": ""}
    return ([Line2D([], [], label=dot, **style)] if dot else []) + ([missing_patch(grey)] if grey else [])
