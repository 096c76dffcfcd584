"""execute(): plan and run in one call, with the model's own executor; what every method uses."""

from collections.abc import Sequence
from typing import Any

from bkdinterp.engine._local import Local
from bkdinterp.engine._plan import DEFAULT_BUDGET, plan
from bkdinterp.engine._run import Run, RunResult


def execute(
    model: Any, runs: Sequence[Run], *, budget: int = DEFAULT_BUDGET, executor: Any = None
) -> tuple[RunResult, ...]:
    """Plan ``runs`` and run them; one result per run.

    Args:
        model: a ``Model``.
        runs: what to compute.
        budget: bytes for one chunk.
        executor: instead of ``model.executor`` (None: locally).
    """
    return (executor or model.executor or Local()).run(plan(model, runs, budget=budget), model)
