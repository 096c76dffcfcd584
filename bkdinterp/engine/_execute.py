"""execute(): plan and run in one call, with the model's own executor; used by every method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bkdinterp.engine._budget import default_budget
from bkdinterp.engine._finite import check_finite
from bkdinterp.engine._local import Local
from bkdinterp.engine._plan import plan
from bkdinterp.engine._run import Run, RunResult
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.model import as_model
from bkdinterp.values import as_flag, as_path, shown


def execute(
    model: Any,
    runs: Sequence[Run],
    *,
    budget: Any = None,
    executor: Any = None,
    folder: str | Path | None = None,
    finite: bool = True,
) -> tuple[RunResult, ...]:
    """Plan ``runs`` and run them; one result per run.

    Args:
        model: a ``Model``.
        runs: what to compute.
        budget: bytes in addition to the loaded model, a positive number; None uses the default of `plan`, or the budget
            that the folder was begun with.
        executor: replaces ``model.executor``, which runs locally if None.
        folder: folder in which finished chunks are kept, so that a later call resumes; many calls can share it, also with
            other runs, models and budgets. It replaces the executor's own folder.
        finite: refuse scores that are NaN and activations that are NaN or infinite.

    Raises:
        SweepInterrupted: Ctrl-C; it carries the results finished so far.
        ArtefactError: the folder has other content, or is not writable.
        PlanError: as `plan`; or a folder is given with an executor that cannot keep work; or results are not finite.
    """
    as_model(model, "execute")
    finite = as_flag(finite, "finite", error=PlanError)
    if executor is not None and not callable(getattr(executor, "run", None)):
        raise PlanError(f"executor={shown(executor)} must be an executor: bk.Local(), bk.Remote() or None.")
    chosen = executor or model.executor or Local()
    if folder is not None:
        path = as_path(folder, "folder", error=ArtefactError)
        if not hasattr(chosen, "in_folder"):
            raise PlanError(
                f"folder={str(path)!r} with {chosen!r}, which keeps no finished work; omit folder=, or use "
                "bk.Local() or bk.Remote()."
            )
        chosen = chosen.in_folder(path)
    if budget is None:
        budget = default_budget(model, getattr(chosen, "folder", None))
    results = chosen.run(plan(model, runs, budget=budget), model)
    if finite:
        check_finite(runs, results)
    return results
