"""Figures of a logit lens: shares of a vocabulary, probability and rank of the target, a grid of tokens. No forward pass."""

from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods.readout._lens_curve_result import LensCurve
from bkdinterp.methods.readout._lens_readings import LensReadings
from bkdinterp.plotting import bar_intervals, curves, ends, hover_curves, panels, token_grid
from bkdinterp.results import beside_names, caption
from bkdinterp.stats import bootstrap_mean

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects


def plot_share(
    found: LensReadings, vocabulary: str, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Share of a vocabulary among the top tokens of each site."""
    shares = [found.interval(site, vocabulary) for site in found.sites]
    _, n, k = found.top_ids.shape
    return bar_intervals(
        found.sites,
        [i.estimate for i in shares],
        [i.low for i in shares],
        [i.high for i in shares],
        xlabel=f"share of {vocabulary} among the top {k} tokens, 95 % intervals",
        title=title or caption("Logit lens", found.fingerprint, f"{found.where} token", f"n={n}"),
        xlim=ends(limit) or (0, 1),
        ax=ax,
    )


def plot_target(found: LensReadings, title: str | None, ax: Any, limit: Any) -> "matplotlib.figure.Figure":
    """Mean probability of the target's first token at each site, annotated with its median rank."""
    means = [bootstrap_mean(row) for row in found.target_probabilities]
    # Between the middle two of an even number; torch.median takes the lower one.
    ranks = [] if found.target_ranks is None else found.target_ranks.double().quantile(0.5, 1).tolist()
    what = "Logit lens: the target's first token"
    return bar_intervals(
        found.sites,
        [i.estimate for i in means],
        [i.low for i in means],
        [i.high for i in means],
        xlabel="probability, mean over prompts with 95 % interval; median rank",
        title=title or caption(what, found.fingerprint, f"n={found.top_ids.shape[1]}"),
        notes=[f"rank {rank:,.0f}" for rank in ranks],
        xlim=ends(limit) or (0, 1),
        ax=ax,
    )


def plot_tokens(
    found: LensReadings, example: int, ranks: int, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """The most likely tokens of every site on one prompt; the target's first token is outlined."""
    ids = found.top_ids[:, example, :ranks].tolist()
    target = None if found.target_ids is None else int(found.target_ids[example])
    places = [(i, k) for i, row in enumerate(ids) for k, token in enumerate(row) if token == target]
    return token_grid(
        [[found.tokens[str(token)] for token in row] for row in ids],
        found.probabilities[:, example, :ranks],
        rows=found.sites,
        title=title or caption(f"Logit lens on prompt {example}", found.fingerprint, f"{found.where} token"),
        marked=places,
        marked_label="" if target is None else f"the target's first token, {found.tokens[str(target)]!r}",
        limit=limit,
        ax=ax,
    )


def plot_curve(
    found: LensCurve, kind: str, beside: LensCurve | None, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Curves over layers of one kind, of both, or of two models."""
    whole = title or _title(found, beside)
    if beside is not None:
        if kind == "both":
            raise BkdinterpError("kind='both' draws one result; beside= takes 'probability' or 'rank'.")
        own, other = beside_names(found, beside, n=(found.n, beside.n))
        draws = {
            own: lambda axes: _curve(found, kind, axes, limit, key=False),
            other: lambda axes: _curve(beside, kind, axes, limit, key=False),
        }
        return panels(draws, title=whole, ax=ax)
    if kind != "both":
        return _curve(found, kind, ax, limit, title=whole)
    draws = {
        "mean probability": lambda axes: _curve(found, "probability", axes, limit, key=False),
        "median rank": lambda axes: _curve(found, "rank", axes, None, key=False),
    }
    return panels(draws, title=whole, share="x", width=5.0, ax=ax)


def hover_curve(
    found: LensCurve, beside: LensCurve | None, title: str | None, limit: Any
) -> "plotly.graph_objects.Figure":
    """Curves of the probability, one per set of prompts, whose points say their numbers."""
    tables = {"": found.to_frame()}
    if beside is not None:
        own, other = beside_names(found, beside, n=(found.n, beside.n))
        tables = {own: found.to_frame(beside=beside), other: beside.to_frame(beside=found)}
    return hover_curves(
        {
            panel: {name: (frame.loc[frame["prompts"] == name], "probability") for name in found.sets}
            for panel, frame in tables.items()
        },
        x="layer",
        name=("name", "prompts"),
        title=title or _title(found, beside),
        xlabel="layer",
        ylabel="probability of the token",
        limit=ends(limit) or (0, 1),
    )


def _title(found: LensCurve, beside: LensCurve | None) -> str:
    what = f"Logit lens by layer ({found.component}): the target's first token"
    if beside is not None:
        return f"{what}\nn={found.n}, each point with its 95 % interval"
    return caption(what, found.fingerprint, f"n={found.n}", "each point with its 95 % interval")


def _curve(found: LensCurve, kind: str, ax: Any, limit: Any, **words: Any) -> "matplotlib.figure.Figure":
    layers = sorted(found.layers)
    of = found.probability if kind == "probability" else found.rank
    series: dict[str, Any] = {}
    for name in found.sets:
        points = [of(name, layer) for layer in layers]
        series[name] = tuple([getattr(i, k) for i in points] for k in ("estimate", "low", "high"))
    ylabel = (
        "probability of the token" if kind == "probability" else "rank of the token, 1 is the most likely"
    )
    scale = ends(limit) or ((0, 1) if kind == "probability" else None)
    ylim = scale if kind == "probability" else None
    figure = curves(layers, series, xlabel="layer", ylabel=ylabel, ylim=ylim, ax=ax, **words)
    if kind == "rank":
        axes = figure.axes[0] if ax is None else ax
        axes.set_yscale("log")
        low, high = scale or (1.0, max(10.0, float(found.ranks.max())))
        axes.set_ylim(high * 1.3, max(low, 1e-3) / 1.3)
    return figure
