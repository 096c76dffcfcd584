"""Tuning of PCP's scaling factors: a grid for few factors, Optuna's TPE for more; minimises any objective.

The paper tunes until the edited model's top-k shares equal the unedited model's (arXiv 2302.12461, appendix);
`MatchScores` is that objective. Costs one evaluation of the objective per trial.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods.pcp._pcp_study import PCPStudy
from bkdinterp.methods.pcp._principal_directions import PCP, as_pcp
from bkdinterp.methods.pcp._study_on_disk import (
    Objective,
    check_objective,
    draw,
    finished,
    import_optuna,
    objective_values,
    saved_study,
)
from bkdinterp.progress import track
from bkdinterp.values import as_flag, as_integer, as_items, as_seed, shown

if TYPE_CHECKING:
    pass

Bounds = tuple[float | int, float | int]


def tune_grid(
    pcp: PCP, objective: Objective, values: Sequence[float | int], *, progress: bool = True
) -> PCPStudy:
    """Try every combination of ``values`` for the factors; for rank 1, or few values.

    An objective with a method ``many(edits)`` gets all combinations in one call. ``progress`` shows a bar on a terminal.

    Raises:
        BkdinterpError: no values, values that are not finite, more than 10,000 combinations, or an objective that cannot be
            called or does not give finite numbers.
    """
    as_pcp(pcp, "tune_grid")
    progress = as_flag(progress, "progress")
    check_objective(objective)
    values = as_items(values, "tune_grid: values")
    if not all(_finite(x) for x in values):
        raise BkdinterpError(f"tune_grid: values={shown(values)} must be finite numbers.")
    n = len(values) ** len(pcp.names)
    if not 1 <= n <= 10_000:
        raise BkdinterpError(
            f"{len(values)} values for {len(pcp.names)} factors are {n} combinations; give 1 to 10,000, or use tune_tpe."
        )
    grid = torch.tensor(list(itertools.product(values, repeat=len(pcp.names))), dtype=torch.float64)
    edits = [pcp.replace(row) for row in grid]
    values_of = objective_values(objective, edits, grid.tolist())
    found = [value for _, value in zip(track(edits, "tuning factors", show=progress), values_of, strict=True)]
    return PCPStudy(pcp.fingerprint, grid, torch.tensor(found, dtype=torch.float64), pcp.names, "grid")


def tune_tpe(
    pcp: PCP,
    objective: Objective,
    *,
    n_trials: int = 200,
    bounds: Bounds | Mapping[str, Bounds] = (0.05, 2.0),
    signed: bool = False,
    seed: int = 0,
    batch: int = 1,
    folder: str | Path | None = None,
    progress: bool = True,
) -> PCPStudy:
    """Tune the factors with Optuna's tree-structured Parzen estimator.

    Args:
        pcp: fitted directions.
        objective: intervention -> value to minimise, e.g. a `MatchScores`.
        n_trials: total number of trials, including those already in ``folder``.
        bounds: smallest and largest factor, which may be negative; or a mapping from every factor's name (``pcp.names``) to
            its own bounds. `factor_scales` computes suitable bounds.
        signed: the range becomes ``(-bounds[1], bounds[1])``, whatever ``bounds[0]`` is: all factors up to that size,
            including 0 and values between 0 and ``bounds[0]``.
        seed: seed of the sampler; a resumed study draws what an uninterrupted one would have drawn.
        batch: number of trials drawn at once, without knowing each other's values; an objective with a method
            ``many(edits)`` gets all of them in one call. 10 needs a tenth of the calls and hardly worsens the search.
        folder: folder to which the study is written (``study.jsonl``, plain text) after each trial and from which it is
            resumed; an incomplete last line, left by a kill, is dropped.
        progress: show a progress bar on a terminal.

    Raises:
        BkdinterpError: optuna is missing, bounds, batch or number of trials are not valid, or the objective cannot be called
            or does not give finite numbers.
        ArtefactError: the folder is a file, or its study is damaged or has other factors, bounds, data, objective or
            version.
    """
    n_trials, seed = as_integer(n_trials, "n_trials", low=1), as_seed(seed)
    as_pcp(pcp, "tune_tpe")
    batch, signed = as_integer(batch, "batch", low=1), as_flag(signed, "signed")
    progress = as_flag(progress, "progress")
    check_objective(objective)
    ranges = _ranges(pcp, bounds, signed)
    optuna = import_optuna()
    saved, ranges = saved_study(optuna, pcp, objective, ranges, seed, batch, folder)
    # Draws depend only on the finished batches, so that an interrupted batch is drawn again unchanged.
    study = optuna.create_study(direction="minimize")
    known = saved.get_trials(deepcopy=False)
    for start in track(range(0, n_trials, batch), "tuning factors", show=progress):
        size = min(batch, n_trials - start)
        if len(known) >= start + size:
            study.add_trials(known[start : start + size])
            continue
        asked = [draw(optuna, study, ranges, seed, start + i) for i in range(size)]
        values = [t.value for t in known[start:]]
        todo = asked[len(values) :]
        edits = [pcp.replace([trial.params[name] for name in pcp.names]) for trial in todo]
        found = objective_values(objective, edits, [list(trial.params.values()) for trial in todo])
        for trial, value in zip(todo, found, strict=True):
            saved.add_trial(finished(optuna, trial, value))
            values.append(value)
        for trial, value in zip(asked, values, strict=True):
            study.tell(trial, value)
    trials = study.get_trials(deepcopy=False)
    return PCPStudy(
        pcp.fingerprint,
        torch.tensor([[t.params[name] for name in pcp.names] for t in trials], dtype=torch.float64),
        torch.tensor([t.value for t in trials], dtype=torch.float64),
        pcp.names,
        "tpe",
    )


def _ranges(pcp: PCP, bounds: Any, signed: bool) -> dict[str, tuple[float, float]]:
    """Factor -> its smallest and largest value."""
    each = isinstance(bounds, Mapping)
    if each and set(bounds) != set(pcp.names):
        raise BkdinterpError(
            f"tune_tpe: bounds for {', '.join(map(str, bounds))}; the factors are {', '.join(pcp.names)}."
        )
    found = {}
    for name in pcp.names:
        pair, label = bounds[name] if each else bounds, f"bounds[{name!r}]" if each else "bounds"
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(_finite(x) for x in pair):
            raise BkdinterpError(
                f"tune_tpe: {label}={shown(pair)} must be two finite numbers, e.g. (0.05, 2.0)."
            )
        low, high = (-pair[1], pair[1]) if signed else pair
        if not low < high:
            fix = f"{label}[1] must be positive" if signed else "the second must be larger"
            raise BkdinterpError(f"tune_tpe: {label}={pair!r} with signed={signed} span nothing; {fix}.")
        found[name] = (float(low), float(high))
    return found


def _finite(x: object) -> bool:
    return isinstance(x, Real) and math.isfinite(x)
