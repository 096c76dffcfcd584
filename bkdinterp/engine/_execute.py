"""execute(): plan and run in one call, with the model's own executor; what every method uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bkdinterp.engine._finite import check_finite
from bkdinterp.engine._local import Local
from bkdinterp.engine._plan import DEFAULT_BUDGET, plan
from bkdinterp.engine._run import Run, RunResult
from bkdinterp.errors import PlanError


def execute(
    model: Any,
    runs: Sequence[Run],
    *,
    budget: int = DEFAULT_BUDGET,
    executor: Any = None,
    folder: str | Path | None = None,
    finite: bool = True,
) -> tuple[RunResult, ...]:
    """Plan ``runs`` and run them; one result per run.

    Args:
        model: a ``Model``.
        runs: what to compute.
        budget: bytes for one chunk.
        executor: instead of ``model.executor`` (None: locally).
        folder: save chunk after chunk there, and go on from what it holds; runs locally.
        finite: refuse scores that are NaN and activations that are NaN or infinite.

    Raises:
        SweepInterrupted: Ctrl-C; it carries what was finished.
        ArtefactError: the folder holds the chunks of other runs, another model or another budget.
        PlanError: a folder and an executor of one's own (give the folder to the executor), or results that are not finite.
    """
    chosen = executor or model.executor
    if folder is not None and chosen is not None:
        raise PlanError(f"folder={str(folder)!r} with {chosen!r}: give the folder to the executor itself.")
    results = (chosen or Local(folder=folder)).run(plan(model, runs, budget=budget), model)
    if finite:
        check_finite(runs, results)
    return results
