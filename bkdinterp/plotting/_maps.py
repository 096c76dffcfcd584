"""Maps over the model: effects of heads (BkdAttr fig. 3), one map or several on one scale, with outlined heads."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._style import GREY, LABEL, LIGHT, TICK, dress, head_panels, legend, new_panels, reach
from bkdinterp.sites import HeadId

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.colors
    import matplotlib.figure

Grid = Float[Tensor, "layer head"] | Float[np.ndarray, "layer head"]
Heads = Iterable[HeadId | tuple[int, int]]
# Colours of the outlines of the groups of marks, and their distance from the cell's edge, so that neighbouring boxes stay
# separate and two groups on one cell stay visible.
_OUTLINES = (("black", 0.08), ("#009E73", 0.2), ("#CC79A7", 0.3))


def heatmap(
    values: Grid | Mapping[str, Grid],
    *,
    title: str = "Effect of each head",
    label: str = "effect",
    marks: Heads | Mapping[str, Heads] = (),
    dotted: Heads = (),
    dotted_label: str = "",
    missing_label: str = "",
    limit: float | int | None = None,
    ax: Any = None,
) -> "matplotlib.figure.Figure":
    """Layers down the y axis, heads along x, with a diverging colour scale centred at 0; NaN cells are grey.

    Args:
        values: one number per head; or several such grids by name, drawn side by side on one scale.
        title: title of the figure.
        label: label of the colour scale, with unit, e.g. ``"ACIE (logprob, nats per token)"``.
        marks: heads to outline; or a mapping from legend label to heads, up to three groups, each in its own colour.
        dotted: the heads in ``marks`` whose outline is dotted, e.g. because they may be noise.
        dotted_label: meaning of a dotted outline, for the legend.
        missing_label: meaning of the grey cells, for the legend.
        limit: the colour scale is [-limit, limit]; use the same for figures to compare. Default: the largest absolute value.
        ax: matplotlib axes to draw into, or a list for several grids; None makes a figure.

    Raises:
        BkdinterpError: matplotlib is missing, ``limit <= 0``, there is no grid, grids have different shapes, there are more
            than three groups of marks, a mark is outside the grid, or the numbers of axes and grids differ.
    """
    grids = (
        {n: grid_of(v) for n, v in values.items()} if isinstance(values, Mapping) else {"": grid_of(values)}
    )
    shapes = {data.shape for data in grids.values()}
    if len(shapes) != 1:
        raise BkdinterpError(f"Maps side by side need equal shapes; got {sorted(shapes) or 'no map'}.")
    ((n_layers, n_heads),) = shapes
    limit = reach(limit) or _largest(grids.values())
    groups = {w: _heads(m, n_layers, n_heads) for w, m in _by_words(marks).items()}
    doubtful = set(_heads(dotted, n_layers, n_heads))
    width, height = map_size(n_layers, n_heads)
    several = len(grids) > 1
    width = min(15.0, len(grids) * max(2.5, width - 2.0) + 2.2) if several else width
    grey = missing_label if any(bool(np.isnan(data).any()) for data in grids.values()) else ""
    height += 0.3 * several + 0.3 * (bool(grey) or (len(groups) > 0 and "" not in groups))
    figure, panels = new_panels(width, height, [1.0] * len(grids), ax, across=True)
    for i, (axes, data) in enumerate(zip(panels, grids.values(), strict=True)):
        axes.imshow(
            data, cmap=colours("RdBu_r"), vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        rule(axes, n_layers, n_heads)
        for (colour, inset), heads in zip(_OUTLINES, groups.values(), strict=False):
            for head in heads:
                outline(axes, head.layer, head.head, colour, inset, dotted=head in doubtful)
        dress(axes, title="" if several else title, xlabel="head", ylabel="" if i else "layer")
    if several:
        head_panels(figure, panels, title, list(grids), ax)
    _key(figure, panels, groups, doubtful, dotted_label, grey, ax)
    colour_bar(figure, panels, label)
    return figure


def outline(
    axes: "matplotlib.axes.Axes", row: int, column: int, colour: str, inset: float, *, dotted: bool = False
) -> None:
    """Draw a box inside one cell, with a white rim, so that it is visible on dark colours."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, withStroke

    side = 1 - 2 * inset
    box = Rectangle(
        (column - 0.5 + inset, row - 0.5 + inset), side, side, fill=False, edgecolor=colour, linewidth=1.5
    )
    box.set(linestyle=":" if dotted else "-", zorder=3)
    box.set_path_effects([withStroke(linewidth=2.4, foreground="white"), Normal()])
    axes.add_patch(box)


def grid_of(values: Tensor | np.ndarray) -> np.ndarray:
    """The values as a float64 grid; raises BkdinterpError unless there are two axes and at least one cell."""
    out = (
        values.detach().cpu().double().numpy()
        if isinstance(values, Tensor)
        else np.asarray(values, dtype=np.float64)
    )
    if out.ndim != 2 or 0 in out.shape:
        raise BkdinterpError(f"A map needs a grid of at least 1 x 1; got shape {out.shape}.")
    return out


def map_size(n_rows: int, n_columns: int) -> tuple[float, float]:
    """Width and height of a figure with one map, in inches."""
    # Cells of about 0.2 inch, within the size of a page or notebook.
    cell = 0.21
    return min(11.0, max(4.6, cell * n_columns + 2.0)), min(9.5, max(3.4, cell * n_rows + 1.3))


def colours(name: str) -> "matplotlib.colors.Colormap":
    """A colour map with light grey for missing cells."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=LIGHT)


def rule(axes: "matplotlib.axes.Axes", n_rows: int, n_columns: int) -> None:
    """Set whole numbers as ticks, and draw thin white lines so that single cells can be counted."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(12, n_columns), integer=True))
    rule_rows(axes, n_rows, n_columns, most=48)


def rule_rows(axes: "matplotlib.axes.Axes", n_rows: int, n_columns: int, *, most: int) -> None:
    """Set whole numbers as ticks of the rows; with up to ``most`` rows and columns, thin white lines between the cells."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=min(12, n_rows), integer=True))
    if n_rows <= most and n_columns <= most:
        axes.set_xticks(np.arange(n_columns - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(n_rows - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)


def colour_bar(
    figure: "matplotlib.figure.Figure",
    panels: "list[matplotlib.axes.Axes]",
    label: str,
    extend: str = "neither",
    place: Any = None,
) -> None:
    """Draw one colour bar for all panels, which share their scale, beside them or into the axes ``place``."""
    where: dict[str, Any] = (
        {"ax": panels, "shrink": 0.85, "aspect": 28, "pad": 0.02} if place is None else {"cax": place}
    )
    bar = figure.colorbar(panels[0].images[0], extend=extend, **where)
    bar.set_label(label, fontsize=LABEL)
    bar.ax.tick_params(labelsize=TICK, color=GREY, length=3)
    bar.outline.set_visible(False)  # type: ignore[operator]


def missing_patch(label: str) -> Any:
    """What a grey cell means, for a legend."""
    from matplotlib.patches import Patch

    return Patch(color=LIGHT, label=label)


def map_key(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", handles: list[Any], ax: Any
) -> None:
    """Draw the legend of a map below it, so that it hides no cell."""
    if not handles:
        return
    letters = max(len(handle.get_label()) for handle in handles) + 7
    columns = max(1, min(len(handles), int(11 * figure.get_size_inches()[0] / letters)))
    below = "outside lower center"
    legend(figure, axes, ax, below, handles=handles, ncols=columns if ax is None else 1, fontsize=TICK)


def _key(
    figure: Any,
    panels: list[Any],
    groups: dict[str, list[HeadId]],
    doubtful: set[HeadId],
    words: str,
    grey: str,
    ax: Any,
) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(fill=False, edgecolor=colour, linewidth=1.5, label=label)
        for (colour, _), (label, heads) in zip(_OUTLINES, groups.items(), strict=False)
        if label and heads
    ]
    if words and doubtful & {head for heads in groups.values() for head in heads}:
        handles.append(Patch(fill=False, edgecolor="black", linewidth=1.5, linestyle=":", label=words))
    if grey:
        handles.append(missing_patch(grey))
    map_key(figure, panels[0], handles, ax)


def _by_words(marks: Heads | Mapping[str, Heads]) -> Mapping[str, Heads]:
    groups: Any = marks if isinstance(marks, Mapping) else {"": marks}
    if len(groups) > len(_OUTLINES):
        raise BkdinterpError(f"heatmap() outlines up to {len(_OUTLINES)} groups of heads; got {len(groups)}.")
    return groups


def _heads(marks: Heads, n_layers: int, n_heads: int) -> list[HeadId]:
    found = [HeadId.parse(mark) for mark in marks]
    for head in found:
        if head.layer >= n_layers or head.head >= n_heads:
            raise BkdinterpError(
                f"Mark {head} is outside the {n_layers} layers x {n_heads} heads of this map."
            )
    return found


def _largest(grids: Iterable[np.ndarray]) -> float:
    size = max((float(np.abs(g[np.isfinite(g)]).max(initial=0.0)) for g in grids), default=0.0)
    return size or 1.0
