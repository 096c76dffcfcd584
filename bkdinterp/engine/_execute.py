"""execute(): plan and run in one call, with the model's own executor; what every method uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bkdinterp.engine._finite import check_finite
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
    finite: bool = True,
) -> tuple[RunResult, ...]:
    """Plan ``runs`` and run them; one result per run.

    Args:
        model: a ``Model``.
        runs: what to compute.
        budget: bytes for one chunk.
        executor: instead of ``model.executor`` (None: locally).
        folder: save chunk after chunk there, and go on from what it holds; one folder serves many calls.
        finite: refuse scores that are NaN and activations that are NaN or infinite.

    Raises:
        SweepInterrupted: Ctrl-C; it carries what was finished.
        ArtefactError: a folder that cannot be written to, or that holds something else.
        PlanError: a folder, and an executor of a kind that keeps no chunks; or results that are not finite.
    """
    as_model(model, "execute")
    chosen = executor or model.executor or Local()
    if folder is not None:
        if not hasattr(chosen, "keeping"):
            raise PlanError(f"folder={str(folder)!r}: {chosen!r} keeps no chunks; leave out folder=.")
        chosen = chosen.keeping(folder)
    results = chosen.run(plan(model, runs, budget=budget), model)
    if finite:
        check_finite(runs, results)
    return results
