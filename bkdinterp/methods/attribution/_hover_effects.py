"""Hover figures of effects: maps of heads, positions and edges, bars of layers, points of neurons and of a screen. No forwards.

Every text at the pointer is a row of the result's own table.
"""

from typing import TYPE_CHECKING, Any

from bkdinterp.methods.attribution._unit_effects import DIFFERENCE, Effects
from bkdinterp.metrics import with_unit
from bkdinterp.plotting import hover_curves, hover_map, hover_points, reach

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

    from bkdinterp.methods.attribution._position_scores import PositionScores
    from bkdinterp.methods.attribution._screened_effects import ScreenedEffects
    from bkdinterp.methods.attribution._unit_scores import HeadScores, LayerScores, NeuronScores

VERIFIED, DRAWN = "screened and verified", "drawn from the others"


def hover_tables(scores: Effects, beside: Effects | None) -> "dict[str, tuple[pandas.DataFrame, str]]":
    """Panels with the column each draws: these scores, or with others both and their difference."""
    if beside is None:
        return {"": (scores.to_frame(), "acie")}
    mine, theirs = scores.to_frame(beside=beside), beside.to_frame(beside=scores)
    own, other = scores._panel_names(beside)
    return {own: (mine, "acie"), other: (theirs, "acie"), DIFFERENCE: (mine, "difference")}


def hover_heads(
    scores: "HeadScores", beside: "HeadScores | None", title: str | None, limit: Any
) -> "plotly.graph_objects.Figure":
    """Map of the heads, or of two results and their difference."""
    layers, heads = scores.grid
    return hover_map(
        hover_tables(scores, beside),
        row="layer",
        column="index",
        rows=range(layers),
        columns=range(heads),
        name=("head",),
        title=title or scores._caption("head", beside),
        label=scores._label,
        xlabel="head",
        ylabel="layer",
        limit=limit,
    )


def hover_layers(
    scores: "LayerScores", beside: "LayerScores | None", title: str | None, limit: Any
) -> "plotly.graph_objects.Figure":
    """Bars of the layers, or of two results and their difference."""
    return hover_curves(
        {panel: {"effect": table} for panel, table in hover_tables(scores, beside).items()},
        x="layer",
        name=("site",),
        style="bars",
        title=title or scores._title(beside),
        xlabel="layer",
        ylabel=scores._label,
        limit=limit,
    )


def hover_neurons(scores: "NeuronScores", title: str | None, limit: Any) -> "plotly.graph_objects.Figure":
    """Effect of every scored neuron against its index; those that may have none are grey."""
    frame = scores.to_frame()
    sure = frame["p_adjusted"] <= 0.05
    return hover_points(
        {"differs from 0": frame.loc[sure], "may be 0": frame.loc[~sure]},
        x="index",
        y="acie",
        name=("neuron",),
        faint=("may be 0",),
        title=title or scores._caption("neuron"),
        xlabel=f"neuron of layer {scores.layer}",
        ylabel=scores._label,
        limit=limit,
    )


def hover_screen(scores: "ScreenedEffects", title: str | None, limit: Any) -> "plotly.graph_objects.Figure":
    """Exact effect against estimate of the verified units."""
    frame, span = scores.to_frame(), reach(limit)
    scale = None if span is None else (-span, span)
    return hover_points(
        {VERIFIED: frame.loc[~frame["sampled"]], DRAWN: frame.loc[frame["sampled"]]},
        x="estimate",
        y="acie",
        # Sites or edges: a table begins with the unit's name.
        name=(frame.columns[0],),
        diagonal=True,
        title=title or scores._title,
        xlabel=f"estimated {scores._label}",
        ylabel=f"exact {scores._label}",
        xlimit=scale,
        limit=scale,
    )


def hover_positions(scores: "PositionScores", title: str | None, limit: Any) -> "plotly.graph_objects.Figure":
    """Map of layers by positions."""
    return hover_map(
        {"": (scores.to_frame(), "acie")},
        row="layer",
        column="position",
        rows=range(scores.effects.shape[0]),
        columns=scores.positions,
        texts=scores._labels,
        name=("site", "position", "token"),
        title=title or scores._title,
        label=f"ACIE ({with_unit(scores.metric)})",
        xlabel="position",
        ylabel="layer",
        limit=limit,
    )
