"""Maps that say their numbers at the pointer: effects by layer and head, position or receiver. No forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._hover_figure import LABEL, TICK, new_hover_figure, text_width, tick_texts
from bkdinterp.plotting._hover_text import escaped, hover_texts, need_columns, one_line
from bkdinterp.plotting._style import LIGHT, reach
from bkdinterp.stats import interval_columns

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

Place = tuple[int, int]
KEY = 24.0  # pixels below the map for its legend


def hover_map(
    panels: "Mapping[str, tuple[pandas.DataFrame, str]]",
    *,
    row: str,
    column: str,
    rows: Sequence[str | int],
    columns: Sequence[str | int],
    name: Sequence[str],
    title: str = "",
    label: str = "",
    xlabel: str = "",
    ylabel: str = "",
    texts: Mapping[str, str] | None = None,
    centre: float | int = 0.0,
    limit: float | int | None = None,
) -> "plotly.graph_objects.Figure":
    """One map per table, side by side on one diverging scale; at the pointer, the row of the table.

    Cells without a row, or whose value is NaN, are grey and say nothing. A dot marks cells whose interval (see
    `bkdinterp.stats.interval_columns`) includes the centre.

    Args:
        panels: name of a panel -> its table, and the column of its values; with one panel the name is not shown.
        row: column of the table that says a cell's row.
        column: column that says its column.
        rows: the map's rows, the first on top.
        columns: the map's columns.
        name: columns that name a cell at the pointer.
        title: title of the figure.
        label: label of the colour scale, with unit.
        xlabel: label of the columns.
        ylabel: label of the rows.
        texts: row or column -> another text for its label.
        centre: the white of the scale; red is more, blue is less.
        limit: the colours run from centre - limit to centre + limit. Default: the largest distance.

    Raises:
        BkdinterpError: plotly is missing, ``limit <= 0``, there is no panel, or a table lacks a column or names a cell that is
            not on the map.
    """
    down, along = _labels(rows, texts), _labels(columns, texts)
    cells = {
        panel: _cells(
            frame, value, _places(frame, (row, column), (rows, columns)), (len(rows), len(columns)), centre
        )
        for panel, (frame, value) in panels.items()
    }
    said = {panel: hover_texts(frame, name) for panel, (frame, _) in panels.items()}
    span = reach(limit) or _largest([found.values for found in cells.values()], centre)
    turned = text_width(along) > 4 * TICK
    # Cells that a pointer can meet, in a figure that a page can hold.
    size = (
        min(900.0, max(240.0, 23.0 * len(columns))),
        min(800.0, max(240.0, 23.0 * len(rows))),
    )
    figure: Any = new_hover_figure(
        list(panels),
        size,
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        left=max(0.0, text_width(down) - 3 * TICK),
        right=100.0,
        below=KEY + (text_width(along) if turned else 0.0),
    )
    for i, (panel, found) in enumerate(cells.items()):
        text = np.full(found.values.shape, "", dtype=object)
        for place, words in zip(found.places, said[panel], strict=True):
            text[place] = words
        look: dict[str, Any] = {"coloraxis": "coloraxis", "xgap": 1, "ygap": 1, "hoverongaps": False}
        figure.add_heatmap(z=found.values, hovertext=text, hoverinfo="text", **look, row=1, col=i + 1)
        if found.doubtful:
            figure.add_scatter(**_dots(found.doubtful, f"interval includes {centre:g}"), row=1, col=i + 1)
    bar = {"title": {"text": escaped(label), "side": "right", "font_size": LABEL}, "thickness": 16}
    ends = {"cmin": centre - span, "cmax": centre + span}
    figure.update_layout(plot_bgcolor=LIGHT, coloraxis={"colorscale": "RdBu_r", **ends, "colorbar": bar})
    for k, dots in enumerate(figure.select_traces(selector={"type": "scatter"})):
        dots.showlegend = not k
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    )
    figure.update_xaxes(**tick_texts(along, turned=turned), range=[-0.5, len(columns) - 0.5])
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5])
    figure.update_yaxes(**tick_texts(down), row=1, col=1)
    return figure


@dataclass(frozen=True)
class _Cells:
    """The values as a grid, the cell of each row of the table, and the cells whose interval includes the centre."""

    values: np.ndarray
    places: list[Place]
    doubtful: list[Place]


def _cells(
    frame: "pandas.DataFrame", value: str, places: list[Place], shape: Place, centre: float | int
) -> _Cells:
    need_columns(frame, value)
    values = np.full(shape, np.nan)
    for place, number in zip(places, frame[value], strict=True):
        values[place] = number
    ends = interval_columns(frame).get(value)
    if ends is None:
        return _Cells(values, places, [])
    inside = (frame[ends[0]] <= centre) & (frame[ends[1]] >= centre)
    return _Cells(values, places, [place for place, is_in in zip(places, inside, strict=True) if is_in])


def _places(
    frame: "pandas.DataFrame", names: tuple[str, str], axes: tuple[Sequence[str | int], Sequence[str | int]]
) -> list[Place]:
    """The cell of each row of the table."""
    need_columns(frame, *names)
    if not all(map(len, axes)):
        raise BkdinterpError(f"A map needs at least one cell; got {' x '.join(str(len(x)) for x in axes)}.")
    found = []
    for name, keys in zip(names, axes, strict=True):
        index = {key: i for i, key in enumerate(keys)}
        if strange := [key for key in frame[name] if key not in index]:
            raise BkdinterpError(f"The table has {name} {strange[0]!r}, which is not on the map.")
        found.append([index[key] for key in frame[name]])
    return list(zip(*found, strict=True))


def _dots(places: list[Place], meaning: str) -> dict[str, Any]:
    """Small dots, below the pointer's notice."""
    marker = {"color": "black", "size": 3, "opacity": 0.55}
    at = {"x": [column for _, column in places], "y": [row for row, _ in places]}
    return {
        **at,
        "mode": "markers",
        "marker": marker,
        "hoverinfo": "skip",
        "name": meaning,
        "legendgroup": "dots",
    }


def _labels(keys: Sequence[str | int], texts: Mapping[str, str] | None) -> list[str | int]:
    return [one_line((texts or {}).get(key, key)) if isinstance(key, str) else key for key in keys]


def _largest(grids: list[np.ndarray], centre: float) -> float:
    return (
        max((float(np.abs(g[np.isfinite(g)] - centre).max(initial=0.0)) for g in grids), default=0.0) or 1.0
    )
