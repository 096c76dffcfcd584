"""Figures of a probe: its transfer between layers, and its accuracy per layer with random directions. No forwards."""

from typing import TYPE_CHECKING, Any

import torch

from bkdinterp.methods.probe._probe_scores import ProbeScores
from bkdinterp.plotting import curves, ends, hover_curves, hover_map, mark_value, matrix, panels
from bkdinterp.results import beside_names, caption, model_words

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import plotly.graph_objects

MATRIX, DIAGONAL = "Probe transfer between layers", "Probe of each layer"
CHOSEN = "chosen on validation"


def plot_matrix(
    scores: ProbeScores, beside: ProbeScores | None, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Matrix of train layer by test layer; two matrices share one scale, centred on the first one's chance."""
    if beside is None:
        return matrix(
            scores.accuracy,
            title=title or _title(scores, f"{MATRIX}; chosen: layer {scores.chosen_layer}"),
            chance=scores.chance,
            chosen=scores.chosen_layer,
            limit=limit,
            ax=ax,
        )
    own, other = _names(scores, beside)
    return matrix(
        {own: scores.accuracy, other: beside.accuracy},
        title=title or f"{MATRIX}\nn={scores.n_test} test prompts",
        chance=scores.chance,
        chosen=[scores.chosen_layer, beside.chosen_layer],
        limit=limit,
        ax=ax,
    )


def plot_in_layer(
    scores: ProbeScores, beside: ProbeScores | None, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Accuracy of each layer's probe on its own layer, with its nulls."""
    if beside is None:
        return _diagonal(scores, ax, limit, title=title or _title(scores, DIAGONAL))
    own, other = _names(scores, beside)
    draws = {
        own: lambda axes: _diagonal(scores, axes, limit, key=False),
        other: lambda axes: _diagonal(beside, axes, limit, key=False),
    }
    return panels(draws, title=title or f"{DIAGONAL}\nn={scores.n_test} test prompts", ax=ax)


def hover_matrix(
    scores: ProbeScores, beside: ProbeScores | None, title: str | None, limit: Any
) -> "plotly.graph_objects.Figure":
    """Matrix of train layer by test layer whose cells say their numbers; two matrices share one scale."""
    tables = _tables(scores, beside, "icla")
    layers = range(scores.n_layers)
    return hover_map(
        {panel: (frame, "accuracy") for panel, frame in tables.items()},
        row="train_layer",
        column="test_layer",
        rows=layers,
        columns=layers,
        name=("train_layer", "test_layer"),
        title=title or _hover_title(scores, beside, MATRIX),
        label=f"accuracy (white: chance = {scores.chance:g})",
        xlabel="test layer",
        ylabel="train layer",
        centre=scores.chance,
        limit=1 - scores.chance if limit is None else limit,
    )


def hover_in_layer(
    scores: ProbeScores, beside: ProbeScores | None, title: str | None, limit: Any
) -> "plotly.graph_objects.Figure":
    """Accuracy of each layer's probe on its own layer, with random directions, whose points say their numbers."""
    tables = _tables(scores, beside, "in_layer")
    probe, null = f"{scores.classifier} probe", "random directions"
    curves = ((probe, "accuracy"), (f"{null}: median", "random_median"), (f"{null}: best", "random_best"))
    return hover_curves(
        {panel: {label: (frame, value) for label, value in curves} for panel, frame in tables.items()},
        x="layer",
        name=("layer",),
        faint=[label for label, _ in curves[1:]],
        mark=("chosen", CHOSEN),
        level=("chance", "chance"),
        title=title or _hover_title(scores, beside, DIAGONAL),
        xlabel="layer",
        ylabel="accuracy (bands: 95 %)",
        limit=ends(limit) or (0.0, 1.0),
    )


def _tables(scores: ProbeScores, beside: ProbeScores | None, kind: str) -> "dict[str, pandas.DataFrame]":
    """One table, or both by name, each with the other's accuracies and the differences; and each one's chance."""
    if beside is None:
        return {"": scores.to_frame(kind).assign(chance=scores.chance)}
    return {
        panel: found.to_frame(kind, beside=other).assign(chance=found.chance)
        for panel, found, other in zip(
            _names(scores, beside), (scores, beside), (beside, scores), strict=True
        )
    }


def _hover_title(scores: ProbeScores, beside: ProbeScores | None, what: str) -> str:
    return _title(scores, what) if beside is None else f"{what}\nn={scores.n_test} test prompts"


def _diagonal(scores: ProbeScores, ax: Any, limit: Any, **words: Any) -> "matplotlib.figure.Figure":
    own = scores.in_layer
    levels = torch.tensor([0.025, 0.5, 0.975], dtype=scores.random_accuracy.dtype)
    low, middle, high = torch.quantile(scores.random_accuracy, levels, dim=1)
    n_random = scores.random_accuracy.shape[1]
    best = f"best of {n_random:,} of them"
    ends_of = ("estimate", "low", "high")
    series: dict[str, Any] = {
        f"{scores.classifier} probe": tuple([getattr(e, k) for e in own] for k in ends_of),
        "random directions": (middle, low, high),
        best: (scores.random_best, None, None),
    }
    figure = curves(
        list(range(scores.n_layers)),
        series,
        faint=("random directions", best),
        xlabel="layer",
        ylabel="accuracy (bands: 95 %)",
        ylim=ends(limit) or (0.0, 1.0),
        ax=ax,
        **words,
    )
    mark_value(figure, scores.chosen_layer, CHOSEN, axis="x", axes=ax)
    return mark_value(figure, scores.chance, "chance", axis="y", axes=ax)


def _names(scores: ProbeScores, beside: ProbeScores) -> tuple[str, str]:
    at_home = all(s.trained_on.label == s.fingerprint.label for s in (scores, beside))
    trained = (
        ("", "")
        if at_home
        else (f"on {model_words(scores.trained_on)}", f"on {model_words(beside.trained_on)}")
    )
    return beside_names(scores, beside, n=(scores.n_test, beside.n_test), trained=trained)


def _title(scores: ProbeScores, text: str) -> str:
    other = scores.trained_on.model != scores.fingerprint.model
    details = (
        f"n={scores.n_test} test prompts",
        f"trained on {model_words(scores.trained_on)}" if other else "",
    )
    return caption(text, scores.fingerprint, *details)
