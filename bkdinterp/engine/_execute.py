"""execute(): plan and run in one call, with the model's own executor; what every method uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bkdinterp.engine._local import Local
from bkdinterp.engine._plan import DEFAULT_BUDGET, plan
from bkdinterp.engine._run import Run, RunResult
from bkdinterp.errors import PlanError
from bkdinterp.model import as_model


def execute(
    model: Any,
    runs: Sequence[Run],
    *,
    budget: int = DEFAULT_BUDGET,
    executor: Any = None,
    folder: str | Path | None = None,
) -> tuple[RunResult, ...]:
    """Plan ``runs`` and run them; one result per run.

    Args:
        model: a ``Model``.
        runs: what to compute.
        budget: bytes for one chunk.
        executor: instead of ``model.executor`` (None: locally).
        folder: save chunk after chunk there, and go on from what it holds; runs locally.

    Raises:
        SweepInterrupted: Ctrl-C; it carries what was finished.
        ArtefactError: the folder holds the chunks of other runs, another model or another budget.
        PlanError: a folder and an executor of one's own; give the folder to the executor.
    """
    as_model(model, "execute")
    chosen = executor or model.executor
    if folder is not None and chosen is not None:
        raise PlanError(f"folder={str(folder)!r} with {chosen!r}: give the folder to the executor itself.")
    return (chosen or Local(folder=folder)).run(plan(model, runs, budget=budget), model)
