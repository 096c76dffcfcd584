"""Runs of the map of a trigger: every layer's residual stream patched at each position, with the partner's own value there.

The effect of a unit is that of `Attribution` with ``source="pair"``, one position at a time (causal tracing, Meng et al.
2022, arXiv 2202.05262, with a clean partner in place of noise). Costs one scored row per position, layer and prompt, and
one pass over the partners.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, RunResult
from bkdinterp.errors import PlanError, SweepInterrupted
from bkdinterp.methods._guards import check_scores
from bkdinterp.methods._options import RunOptions, run
from bkdinterp.methods.attribution._patch_source import Direction, Origin, edited_side, giving_side, side
from bkdinterp.methods.attribution._position_scores import PositionScores
from bkdinterp.methods.attribution._prompt_positions import layouts
from bkdinterp.metrics import Score
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts
from bkdinterp.sites import Component, Site, Where

Cell = tuple[int, int]
"""Layer and number of the position."""


def sweep_positions(
    model: Model,
    pairs: PairedPrompts,
    kinds: Sequence[str],
    layers: Sequence[int],
    *,
    direction: Direction,
    score: Score,
    options: RunOptions,
) -> PositionScores:
    """Score the positions of these kinds in these layers.

    Raises:
        PlanError: a position has no counterpart, or the metric is NaN.
        SweepInterrupted: on Ctrl-C; ``.partial`` holds the scores of the finished prompts, if there are any.
    """
    found, texts = layouts(model.builder, pairs, kinds, several_from_one=direction == "denoising")
    names = list(texts)
    runs: list[Run] = []
    # For each run its pairs and its cell; None for the unedited run.
    places: list[tuple[tuple[int, ...], Cell | None]] = []
    for layout in found:
        part = pairs.subset(layout.pairs)
        prompts = side(part, edited_side(direction))
        value = Run(side(part, giving_side(direction, "pair")))
        runs.append(Run(prompts, score=score))
        places.append((layout.pairs, None))
        for p in layout.positions:
            own, other = (p.triggered, p.clean) if direction == "denoising" else (p.clean, p.triggered)
            origin = Origin(Where(own), value, Where(other), None, None)
            for layer in layers:
                runs.append(Run(prompts, origin.patch(Site(layer, Component.resid_post)), score=score))
                places.append((layout.pairs, (layer, names.index(p.name))))
    size = (model.architecture.n_layers, len(names), len(pairs))

    def result(results: Sequence[RunResult], kept: Sequence[int]) -> PositionScores:
        effects, base = _gathered(results, places, size)
        chosen = list(kept)
        part, some = pairs.subset(chosen), effects[..., chosen]
        there = ~some.isnan().all(0).all(-1)
        return PositionScores(
            model.fingerprint(part.fingerprint),
            some[:, there],
            base[chosen],
            score.name,
            score.sense,
            direction,
            tuple(name for name, here in zip(names, there.tolist(), strict=True) if here),
            tuple(texts[name] for name, here in zip(names, there.tolist(), strict=True) if here),
        )

    try:
        results = run(model, runs, options, finite=False)
    except SweepInterrupted as stop:
        stop.partial = _partial(stop.results, places, result)
        raise
    for (_, cell), outcome in zip(places, results, strict=True):
        name = "The unedited run" if cell is None else f"The run patched at L{cell[0]}, {names[cell[1]]}"
        if outcome.scores is None:
            raise PlanError(f"{name} gave no scores.")
        check_scores(outcome.scores, name, score.name)
    return result(results, range(len(pairs)))


def _gathered(
    results: Sequence[RunResult],
    places: Sequence[tuple[tuple[int, ...], Cell | None]],
    size: tuple[int, int, int],
) -> tuple[Float[Tensor, "layer position example"], Float[Tensor, " example"]]:
    """Effects of all cells and scores of the unedited runs; NaN for what was not reached."""
    like = next((r.scores for r in results if r.scores is not None), torch.empty(0))
    base, effects = like.new_full((size[2],), torch.nan), like.new_full(size, torch.nan)
    for (members, cell), outcome in zip(places, results, strict=True):
        if outcome.scores is None:
            continue
        at = list(members)
        if cell is None:
            base[at] = outcome.scores
        else:
            effects[cell[0], cell[1], at] = outcome.scores
    return effects - base, base


def _partial(
    results: Sequence[RunResult],
    places: Sequence[tuple[tuple[int, ...], Cell | None]],
    result: Callable[[Sequence[RunResult], Sequence[int]], PositionScores],
) -> PositionScores | None:
    """The result on the prompts for which every run is finished; None if there is none."""
    done: dict[int, bool] = {}
    for (members, _), outcome in zip(places, results, strict=True):
        for k, i in enumerate(members):
            there = outcome.scores is not None and not bool(outcome.scores[k].isnan())
            done[i] = done.get(i, True) and there
    kept = sorted(i for i, whole in done.items() if whole)
    return result(results, kept) if kept else None


def check_settings(source: Any, where: Any, source_where: Any, source_pairs: Any) -> None:
    """Raise PlanError if an attribution has settings that a map of positions has no place for."""
    if source not in (None, "pair"):
        raise PlanError(
            f"Attribution.positions patches the value of each prompt's own partner; with source={source!r} it would mix "
            "different words. Leave source=None, or 'pair'."
        )
    if Where.of(where) != Where("last") or source_where is not None:
        raise PlanError(
            "Attribution.positions goes through the positions itself; leave where= and source_where= out, and give "
            "positions=."
        )
    if source_pairs is not None:
        raise PlanError("Attribution.positions takes each prompt's own partner; leave source_pairs= out.")
