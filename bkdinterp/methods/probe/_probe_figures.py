"""Figures of a probe: its transfer between layers, and its accuracy per layer with random directions. No forwards."""

from typing import TYPE_CHECKING, Any

import torch

from bkdinterp.methods.probe._probe_scores import ProbeScores
from bkdinterp.plotting import curves, ends, mark_value, matrix, panels
from bkdinterp.results import beside_names, caption, model_words

if TYPE_CHECKING:
    import matplotlib.figure


def plot_matrix(
    scores: ProbeScores, beside: ProbeScores | None, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Matrix of train layer by test layer; two matrices share one scale, centred on the first one's chance."""
    what = "Probe transfer between layers"
    if beside is None:
        text = _title(scores, f"{what}; chosen: layer {scores.chosen_layer}")
        return matrix(
            scores.accuracy,
            title=title or text,
            chance=scores.chance,
            chosen=scores.chosen_layer,
            limit=limit,
            ax=ax,
        )
    own, other = _names(scores, beside)
    return matrix(
        {own: scores.accuracy, other: beside.accuracy},
        title=title or f"{what}\nn={scores.n_test} test prompts",
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
        return _diagonal(scores, ax, limit, title=title or _title(scores, "Probe of each layer"))
    own, other = _names(scores, beside)
    draws = {
        own: lambda axes: _diagonal(scores, axes, limit, key=False),
        other: lambda axes: _diagonal(beside, axes, limit, key=False),
    }
    return panels(draws, title=title or f"Probe of each layer\nn={scores.n_test} test prompts", ax=ax)


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
    mark_value(figure, scores.chosen_layer, "chosen on validation", axis="x", axes=ax)
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
