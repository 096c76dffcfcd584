"""The digest of what a plan computes, equal in every process: what a folder of finished chunks is known by."""

from bkdinterp.engine._plan import Plan
from bkdinterp.metrics import SCORES
from bkdinterp.results import digest_of

# Not what is computed, but how much of it there is; the scores are named in the chunks and come last.
_LEFT_OUT = ("bytes", "cost")


def plan_digest(plan: Plan) -> str:
    """16 hex digits of all that a plan's chunks compute; equal plans have equal ones."""
    chunks = [{k: v for k, v in chunk.items() if k not in _LEFT_OUT} for chunk in plan.chunks]
    # The package's own scores keep to their names: an update of Python must not orphan a folder.
    own = {
        name: score
        for name, score in plan.scores.items()
        if name not in SCORES or SCORES[name].fn is not score
    }
    return digest_of((chunks, own))
