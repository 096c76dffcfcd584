"""Curves and bars over layers that say their numbers at the pointer, with intervals as bands. No forward pass."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._curves import drawable, line_colours
from bkdinterp.plotting._hover_figure import key_width, new_hover_figure, rule_values
from bkdinterp.plotting._hover_text import escaped, hover_texts, need_columns
from bkdinterp.plotting._style import GREY, PALETTE, ends
from bkdinterp.stats import interval_columns

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")


def hover_curves(
    panels: "Mapping[str, Mapping[str, tuple[pandas.DataFrame, str]]]",
    *,
    x: str,
    name: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str = "",
    style: Literal["lines", "bars"] = "lines",
    faint: Collection[str] = (),
    mark: tuple[str, str] | None = None,
    level: tuple[str, str] | None = None,
    limit: tuple[float | int, float | int] | None = None,
) -> "plotly.graph_objects.Figure":
    """One panel per name on one scale, with a curve, or bars, per table in it; at the pointer, the row of the table.

    A column's interval (see `bkdinterp.stats.interval_columns`) is a band, or the whisker of a bar.

    Args:
        panels: name of a panel -> label of a curve -> its table, and the column of its values.
        x: column of the x values.
        name: columns that name a point at the pointer.
        xlabel: label of the x axes.
        ylabel: label of the y axis, with unit.
        title: title of the figure.
        style: ``"bars"`` stand on a line at zero and leave a gap where the table has no row; ``"lines"`` join the points.
        faint: labels of the curves that are nulls, drawn grey and dashed or dotted.
        mark: a column of yes and no, and what its yes means; a dotted line stands where the panel's first table has it.
        level: a column of one value, and what it is; a dashed line in each panel, as its first table has it.
        limit: ends of the y axis.

    Raises:
        BkdinterpError: plotly is missing, there is no panel, a panel has no curve or more than 7, or a table lacks a column.
    """
    for panel, tables in panels.items():
        if not 1 <= len(tables) <= len(PALETTE):
            raise BkdinterpError(f"Panel {panel!r} has {len(tables)} curves; give 1 to {len(PALETTE)}.")
        for frame, value in tables.values():
            need_columns(frame, x, value, *(extra[0] for extra in (mark, level) if extra is not None))
    scale = ends(limit)
    looks = _looks(list(dict.fromkeys(label for tables in panels.values() for label in tables)), faint)
    words = [*looks, *(extra[1] for extra in (mark, level) if extra is not None)]
    several = len(words) > 1
    figure: Any = new_hover_figure(
        list(panels),
        (560.0 if len(panels) == 1 else 400.0, 340.0),
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        right=key_width(words) if several else 0.0,
    )
    known: set[str] = set()

    def keyed(label: str) -> dict[str, Any]:
        """One entry in the legend for all panels."""
        new = several and label not in known
        known.add(label)
        return {"name": escaped(label), "legendgroup": escaped(label), "showlegend": new}

    for column, tables in enumerate(panels.values(), start=1):
        for label, (frame, value) in tables.items():
            *band, curve = _traces(frame.sort_values(x), x, value, name, style, looks[label])
            for trace in (
                *(shape.update(legendgroup=escaped(label)) for shape in band),
                curve.update(keyed(label)),
            ):
                figure.add_trace(trace, row=1, col=column)
        first = next(iter(tables.values()))[0]
        if mark is not None:
            line = {"color": "black", "dash": "dashdot", "width": 1}
            for at in first.loc[first[mark[0]].astype(bool), x]:
                figure.add_vline(float(at), line=line, **keyed(mark[1]), row=1, col=column)
        if level is not None:
            line = {"color": "black", "dash": "dash", "width": 1}
            for at in first[level[0]].head(1):
                figure.add_hline(float(at), line=line, **keyed(level[1]), row=1, col=column)
    rule_values(figure, scale)
    reached = [float(at) for tables in panels.values() for frame, _ in tables.values() for at in frame[x]]
    figure.update_xaxes(range=[min(reached, default=0.0) - 0.8, max(reached, default=1.0) + 0.8])
    return figure


def _looks(labels: list[str], faint: Collection[str]) -> dict[str, dict[str, Any]]:
    """Label -> how its curve is drawn."""
    strong = [label for label in labels if label not in faint]
    found: dict[str, dict[str, Any]] = {}
    for label, colour, symbol in zip(strong, line_colours(strong), MARKERS, strict=False):
        found[label] = {"line": {"color": colour, "width": 2}, "marker": {"symbol": symbol, "size": 7}}
    for i, label in enumerate(label for label in labels if label in faint):
        found[label] = {
            "line": {"color": GREY, "width": 1.5, "dash": ("dash", "dot")[i % 2]},
            "mode": "lines",
        }
    return {label: found[label] for label in labels}


def _traces(
    frame: "pandas.DataFrame", x: str, value: str, name: Sequence[str], style: str, look: dict[str, Any]
) -> list[Any]:
    """What draws one table: the band, if it has an interval, and last the curve; or bars with whiskers."""
    import plotly.graph_objects as go

    def numbers(column: str) -> np.ndarray:
        return drawable(frame[column].to_numpy(dtype=np.float64))

    at, estimate, colour = numbers(x), numbers(value), look["line"]["color"]
    low, high = map(numbers, interval_columns(frame).get(value, (value, value)))
    # As in the other figures, an interval without width is not drawn: it would look like certainty.
    wide = np.isfinite(low) & np.isfinite(high) & (high > low)
    said: dict[str, Any] = {
        "x": at,
        "y": estimate,
        "hovertext": hover_texts(frame, name),
        "hoverinfo": "text",
    }
    if style == "bars":
        # A percentile interval may miss its own estimate on very skewed data; whiskers cannot be negative.
        up, down = (np.where(wide, np.maximum(arm, 0), np.nan) for arm in (high - estimate, estimate - low))
        arms = {"array": up, "arrayminus": down, "symmetric": False}
        whisker = {**arms, "color": "black", "thickness": 1.3, "width": 2}
        return [go.Bar(**said, marker={"color": colour, "opacity": 0.85}, error_y=whisker)]
    curve = go.Scatter(**said, **({"mode": "lines+markers"} | look))
    if not wide.any():
        return [curve]
    round_ = {"x": np.r_[at[wide], at[wide][::-1]], "y": np.r_[high[wide], low[wide][::-1]]}
    quiet: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False, "line": {"width": 0}, "opacity": 0.18}
    return [go.Scatter(**round_, **quiet, mode="lines", fill="toself", fillcolor=colour), curve]
