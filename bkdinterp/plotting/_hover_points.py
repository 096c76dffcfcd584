"""Points of several groups that say their numbers at the pointer, e.g. estimate against exact effect. No forward pass."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._curves import drawable
from bkdinterp.plotting._hover_figure import key_width, new_hover_figure, rule_values
from bkdinterp.plotting._hover_text import escaped, hover_texts, need_columns
from bkdinterp.plotting._style import GREY, LIGHT, PALETTE, ends

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects


def hover_points(
    groups: "Mapping[str, pandas.DataFrame]",
    *,
    x: str,
    y: str,
    name: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str = "",
    faint: Collection[str] = (),
    diagonal: bool = False,
    xlimit: tuple[float | int, float | int] | None = None,
    limit: tuple[float | int, float | int] | None = None,
) -> "plotly.graph_objects.Figure":
    """One colour per group; at the pointer, the row of the table.

    Args:
        groups: label -> its table; tables without a row are left out.
        x: column of the x values.
        y: column of the y values.
        name: columns that name a point at the pointer.
        xlabel: label of the x axis, with unit.
        ylabel: label of the y axis, with unit.
        title: title of the figure.
        faint: labels of the groups that are drawn grey, e.g. because they may be noise.
        diagonal: draw the line on which x and y are equal.
        xlimit: ends of the x axis.
        limit: ends of the y axis.

    Raises:
        BkdinterpError: plotly is missing, a table lacks a column, or there are no groups or more than colours.
    """
    for frame in groups.values():
        need_columns(frame, x, y)
    drawn = {label: frame for label, frame in groups.items() if len(frame)}
    strong = [label for label in drawn if label not in faint]
    if not drawn or len(strong) > len(PALETTE):
        raise BkdinterpError(
            f"hover_points() draws 1 to {len(PALETTE)} groups with points; got {len(drawn)}."
        )
    scales = (ends(xlimit), ends(limit))
    figure: Any = new_hover_figure(
        [""], (560.0, 420.0), title=title, xlabel=xlabel, ylabel=ylabel, right=key_width(list(drawn))
    )
    colours = dict(zip(strong, PALETTE, strict=False))
    # Grey below the others.
    for label in sorted(drawn, key=lambda label: label in colours):
        frame, colour = drawn[label], colours.get(label, GREY)
        figure.add_scatter(
            x=drawable(frame[x].to_numpy(dtype=np.float64)),
            y=drawable(frame[y].to_numpy(dtype=np.float64)),
            hovertext=hover_texts(frame, name),
            hoverinfo="text",
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.75},
            name=escaped(label),
            showlegend=True,
            legendrank=list(drawn).index(label),
        )
    rule_values(figure, None)
    figure.update_yaxes(range=scales[1])
    figure.update_xaxes(showgrid=True, gridcolor=LIGHT, range=scales[0])
    if diagonal:
        both = [f[c] for f in drawn.values() for c in (x, y)]
        low, high = min(c.min() for c in both), max(c.max() for c in both)
        low, high = (min(low, scales[0][0]), max(high, scales[0][1])) if scales[0] else (low, high)
        line = {"color": GREY, "width": 1}
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=line, layer="below")
    return figure
