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
            if not _finite(read, value):
                raise PlanError(
                    f"{which}: what {read.site} holds at {read.where} is NaN or infinite: {CAUSES}."
                )


def _finite(read: Read, value: Tensor) -> bool:
    if read.reduce is not None or value.ndim < 3:
        return bool(value.isfinite().all())
    # Rows that select fewer tokens than the longest are filled up with NaN; a model of NaN has nothing else.
    filled = ~value.isnan().all(-1)
    return bool(filled.any()) and bool(value[filled].isfinite().all())
