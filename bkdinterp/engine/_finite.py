"""What a run gives must be numbers: a NaN in a mean, a vector or a score would go on unseen. No forwards."""

from collections.abc import Sequence

from torch import Tensor

from bkdinterp.engine._run import Run, RunResult
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Read

CAUSES = (
    "the model's weights are not finite, they or its dtype overflow (try float32), an edit is too strong, or a score or "
    "function of your own gives it"
)


def check_finite(runs: Sequence[Run], results: Sequence[RunResult]) -> None:
    """Raises PlanError where scores are NaN, or activations NaN or infinite; a read's rows beyond its tokens may be NaN."""
    for i, (run, result) in enumerate(zip(runs, results, strict=True)):
        which = f"Run {i} ({run.edits})"
        if result.scores is not None and (bad := int(result.scores.isnan().sum())):
            raise PlanError(
                f"{which}: {run.score_name} is NaN for {bad} of {len(run.prompts)} prompts: {CAUSES}."
            )
        for read, value in zip(run.reads, result.reads, strict=True):
            if not _finite(run, read, value):
                raise PlanError(
                    f"{which}: what {read.site} holds at {read.where} is NaN or infinite: {CAUSES}."
                )


def _finite(run: Run, read: Read, value: Tensor) -> bool:
    if read.reduce is not None:
        return bool(value.isfinite().all())
    # A row that selects no token, and what lies beyond a row's tokens, is NaN.
    filled = ~value.isnan().all(-1)
    if read.where.prompt in ("last", "all"):
        # Every prompt has a first such token.
        first = filled if filled.ndim < 2 else filled[:, 0]
        if not bool(first.all()):
            return False
    elif not bool(filled.any()):
        return read.where.prompt != "trigger" or not any(run.prompts.spans)
    return bool(value[filled].isfinite().all())
