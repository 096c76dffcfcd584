"""Map of a probe's transfer between layers (ICLA), above and below chance. No forward pass."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._maps import colour_bar, colours, grid_of, map_key, map_size, outline, rule
from bkdinterp.plotting._style import dress, head_panels, new_panels, reach

if TYPE_CHECKING:
    import matplotlib.figure

Square = Float[Tensor, "layer layer"] | Float[np.ndarray, "layer layer"]


def matrix(
    values: Square | Mapping[str, Square],
    *,
    title: str = "Transfer of the probe between layers",
    label: str = "accuracy",
    chance: float | int = 0.5,
    layers: Sequence[int] | None = None,
    chosen: int | Sequence[int] | None = None,
    limit: float | int | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """``values[train, test]`` as a map, train layer down and test layer along; white is chance, red above, blue below.

    Args:
        values: accuracy, 0..1, of the probe trained on the row's layer and tested on the column's; or several such matrices
            by name, drawn side by side on one scale.
        title: title of the figure.
        label: label of the colour scale; the level of chance is added to it.
        chance: the centre of the scale.
        layers: layer of each row and column; default 0, 1, 2, ...
        chosen: index of the layer chosen on validation, whose own cell is outlined; a list for several matrices.
        limit: the colours run from chance - limit to chance + limit. Default: up to accuracy 1, and equally far down.
        ax: matplotlib axes to draw into, or a list for several matrices; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, ``chance`` is outside [0, 1), ``limit <= 0``, matrices have different sizes,
            ``layers`` or ``chosen`` have the wrong length, or the numbers of axes and matrices differ.
    """
    grids = (
        {n: grid_of(v) for n, v in values.items()} if isinstance(values, Mapping) else {"": grid_of(values)}
    )
    sizes = {len(data) for data in grids.values()}
    if len(sizes) != 1:
        raise BkdinterpError(f"Matrices side by side need equal sizes; got {sorted(sizes) or 'no matrix'}.")
    (n,) = sizes
    if not 0 <= chance < 1:
        raise BkdinterpError(f"chance={chance}: give a rate of at least 0 and below 1.")
    if layers is not None and len(layers) != n:
        raise BkdinterpError(f"{len(layers)} layers were named for a matrix of {n}.")
    cells = [chosen] * len(grids) if chosen is None or isinstance(chosen, int) else list(chosen)
    if len(cells) != len(grids) or any(c is not None and not 0 <= c < n for c in cells):
        raise BkdinterpError(f"chosen={chosen}: give one index below {n} for each of {len(grids)} matrices.")
    span = reach(limit) or 1 - chance
    width, height = map_size(n, n)
    several, marked = len(grids) > 1, any(c is not None for c in cells)
    width = min(15.0, len(grids) * (width - 1.6) + 1.6) if several else width
    height += 0.3 * several + 0.3 * marked
    figure, panels = new_panels(width, height, [1.0] * len(grids), ax, across=True)
    for i, (axes, data, cell) in enumerate(zip(panels, grids.values(), cells, strict=True)):
        axes.imshow(
            data,
            cmap=colours("RdBu_r"),
            vmin=chance - span,
            vmax=chance + span,
            aspect="equal",
            interpolation="nearest",
        )
        rule(axes, n, n)
        if layers is not None:
            shown = list(range(0, n, max(1, -(-n // 12))))
            names = [str(layers[i]) for i in shown]
            axes.set_xticks(shown, names)
            axes.set_yticks(shown, names)
        if cell is not None:
            outline(axes, cell, cell, "black", 0.0)
        dress(axes, title="" if several else title, xlabel="test layer", ylabel="" if i else "train layer")
    if several:
        head_panels(figure, panels, title, list(grids), ax)
    if marked:
        from matplotlib.patches import Patch

        box = Patch(fill=False, edgecolor="black", linewidth=1.5, label="layer chosen on validation")
        map_key(figure, panels[0], [box], ax)
    low = any(bool((data < chance - span).any()) for data in grids.values())
    high = any(bool((data > chance + span).any()) for data in grids.values())
    extend = "both" if low and high else "min" if low else "max" if high else "neither"
    colour_bar(figure, panels, f"{label} (white: chance = {chance:g})", extend)
    return figure
