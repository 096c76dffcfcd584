"""Maps over the model: effects of heads (BkdAttr fig. 3) and a probe's transfer between layers (ICLA)."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import GREY, LABEL, LIGHT, TICK, dress, new_figure
from bkdinterp.sites import HeadId

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.cm
    import matplotlib.colors
    import matplotlib.figure


def heatmap(
    values: Float[Tensor, "layer head"] | Float[np.ndarray, "layer head"],
    *,
    title: str = "Effect of each head",
    label: str = "effect",
    marks: Iterable[HeadId | tuple[int, int]] = (),
    dotted: Iterable[HeadId | tuple[int, int]] = (),
    limit: float | int | None = None,
) -> "matplotlib.figure.Figure":
    """Layers down the y axis, heads along x, with a diverging colour scale centred at 0; NaN cells are grey.

    Args:
        values: one number per head.
        title: title of the figure.
        label: label of the colour scale, with unit, e.g. ``"ACIE (nats per token)"``.
        marks: heads to outline, e.g. the top k.
        dotted: the heads in ``marks`` whose outline is dotted, e.g. because they may be noise.
        limit: the colour scale is [-limit, limit]; use the same for figures to compare. Default: the largest absolute
            value.

    Raises:
        BkdinterpError: matplotlib is missing, ``limit <= 0``, or a mark outside the grid.
    """
    data = _array(values)
    n_layers, n_heads = data.shape
    if limit is None:
        finite = np.abs(data[np.isfinite(data)])
        limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    if limit <= 0:
        raise BkdinterpError(f"limit={limit}: the colour scale is [-limit, limit], so it must be positive.")
    figure, axes = new_figure(*_size(n_layers, n_heads))
    image = axes.imshow(
        data, cmap=_colours("RdBu_r"), vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    _grid(axes, n_layers, n_heads)
    from matplotlib.patches import Rectangle

    doubtful = {HeadId.parse(mark) for mark in dotted}
    for mark in marks:
        head = HeadId.parse(mark)
        if head.layer >= n_layers or head.head >= n_heads:
            raise BkdinterpError(
                f"Mark {head} is outside the {n_layers} layers x {n_heads} heads of this map."
            )
        axes.add_patch(
            Rectangle(
                (head.head - 0.5, head.layer - 0.5),
                1,
                1,
                fill=False,
                edgecolor="black",
                linewidth=1.6,
                linestyle=":" if head in doubtful else "-",
                zorder=3,
            )
        )
    dress(axes, title=title, xlabel="head", ylabel="layer")
    _bar(figure, axes, image, label)
    return figure


def matrix(
    values: Float[Tensor, "layer layer"] | Float[np.ndarray, "layer layer"],
    *,
    title: str = "Transfer of the probe between layers",
    label: str = "accuracy",
    chance: float | int = 0.5,
    layers: Sequence[int] | None = None,
) -> "matplotlib.figure.Figure":
    """``values[train, test]`` as a map: train layer up the y axis, test layer along x, colours from ``chance`` to 1.

    Args:
        values: accuracy, 0..1, of the probe trained on the row's layer and tested on the column's.
        title: title of the figure.
        label: label of the colour scale; the level of chance is added to it.
        chance: lower end of the scale; cells below it have a separate colour.
        layers: layer of each row and column; default 0, 1, 2, ...

    Raises:
        BkdinterpError: matplotlib is missing, ``chance`` is outside [0, 1), or ``layers`` has the wrong length.
    """
    data = _array(values)
    n = len(data)
    if not 0 <= chance < 1:
        raise BkdinterpError(f"chance={chance}: give a rate of at least 0 and below 1.")
    if layers is not None and len(layers) != n:
        raise BkdinterpError(f"{len(layers)} layers were named for a matrix of {n}.")
    figure, axes = new_figure(*_size(n, n))
    colours = _colours("viridis").with_extremes(under="#20142b", bad=LIGHT)
    image = axes.imshow(
        data, cmap=colours, vmin=chance, vmax=1.0, aspect="equal", origin="lower", interpolation="nearest"
    )
    _grid(axes, n, n)
    if layers is not None:
        shown = list(range(0, n, max(1, -(-n // 12))))
        names = [str(layers[i]) for i in shown]
        axes.set_xticks(shown, names)
        axes.set_yticks(shown, names)
    dress(axes, title=title, xlabel="test layer", ylabel="train layer")
    below = bool((data < chance).any())
    _bar(figure, axes, image, f"{label} (chance = {chance:g})", extend="min" if below else "neither")
    return figure


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    out = (
        values.detach().cpu().double().numpy()
        if isinstance(values, Tensor)
        else np.asarray(values, dtype=np.float64)
    )
    if out.ndim != 2 or 0 in out.shape:
        raise BkdinterpError(f"A map needs a grid of at least 1 x 1; got shape {out.shape}.")
    return out


def _size(n_rows: int, n_columns: int) -> tuple[float, float]:
    # Cells of about 0.2 inch, within the size of a page or notebook.
    cell = 0.21
    return min(11.0, max(4.6, cell * n_columns + 2.0)), min(9.5, max(3.4, cell * n_rows + 1.3))


def _colours(name: str) -> "matplotlib.colors.Colormap":
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=LIGHT)


def _grid(axes: "matplotlib.axes.Axes", n_rows: int, n_columns: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(12, n_columns), integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=min(12, n_rows), integer=True))
    if n_rows <= 48 and n_columns <= 48:
        # Thin white lines make single heads countable.
        axes.set_xticks(np.arange(n_columns - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(n_rows - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)


def _bar(
    figure: "matplotlib.figure.Figure",
    axes: "matplotlib.axes.Axes",
    image: "matplotlib.cm.ScalarMappable",
    label: str,
    extend: str = "neither",
) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=28, pad=0.02, extend=extend)
    bar.set_label(label, fontsize=LABEL)
    bar.ax.tick_params(labelsize=TICK, color=GREY, length=3)
    bar.outline.set_visible(False)  # type: ignore[operator]
