"""Check that results are finite, because a NaN in a mean, a vector or a score would spread unnoticed. No forwards."""

from collections.abc import Sequence

from torch import Tensor

from bkdinterp.engine._run import Run, RunResult
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Read

CAUSES = (
    "the model's weights are not finite, weights or dtype overflow (try float32), an edit is too strong, or your own score "
    "or function gives it"
)


def check_finite(runs: Sequence[Run], results: Sequence[RunResult]) -> None:
    """Raise PlanError if scores are NaN, or activations NaN or infinite; a read may be NaN beyond a row's tokens."""
    for i, (run, result) in enumerate(zip(runs, results, strict=True)):
        which = f"Run {i} ({run.edits})"
        if result.scores is not None and (bad := int(result.scores.isnan().sum())):
            raise PlanError(
                f"{which}: {run.score_name} is NaN for {bad} of {len(run.prompts)} prompts: {CAUSES}."
            )
        for read, value in zip(run.reads, result.reads, strict=True):
            if not _finite(run, read, value):
                raise PlanError(
                    f"{which}: the activation of {read.site} at {read.where} is NaN or infinite: {CAUSES}."
                )


def _finite(run: Run, read: Read, value: Tensor) -> bool:
    if read.reduce is not None:
        return bool(value.isfinite().all())
    # Rows without selected tokens, and positions beyond a row's tokens, are NaN.
    filled = ~value.isnan().all(-1)
    if read.where.prompt in ("last", "all"):
        # Every prompt has at least one such token.
        first = filled if filled.ndim < 2 else filled[:, 0]
        if not bool(first.all()):
            return False
    elif not bool(filled.any()):
        return read.where.prompt != "trigger" or not any(run.prompts.spans)
    return bool(value[filled].isfinite().all())
