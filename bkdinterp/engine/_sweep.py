"""Sweep: a plan's finished chunks in a store, so that a killed run goes on where it stopped. No forwards.

One folder serves all the plans of a script: each has a sub-folder of its own, named by what it computes on which
weights. A kept unedited run (``_share``) is not stored but computed again when a chunk that needs it is still to do.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from bkdinterp.engine._digest import plan_digest
from bkdinterp.engine._plan import Plan
from bkdinterp.results import Store, digest_of


class Sweep:
    """Finished chunks of one plan on one model.

    Args:
        folder: made if it does not exist.
        plan: the plan that will be run.
        model: what identifies the weights, and where they are.

    Raises:
        ArtefactError: the folder cannot be used, or holds something else.
    """

    def __init__(self, folder: str | Path, plan: Plan, model: str) -> None:
        self._store = Store(folder)
        self._store.claim()
        self._key = digest_of((model, plan_digest(plan), len(plan.chunks)))

    def load(self, index: int) -> tuple[dict[str, Any], Tensor | None] | None:
        """Output of a finished chunk and its generated tokens; None where it is still to do, or damaged."""
        item = self._store.read(*self._place(index))
        return None if item is None else (item.value["out"], item.value["tokens"])

    def save(self, index: int, out: dict[str, Any], tokens: Tensor | None) -> None:
        """Store a finished chunk's output: its reads, and its scores if there are any."""
        kept = {name: out[name] for name in ("reads", "scores") if name in out}
        self._store.put(*self._place(index), {"out": kept, "tokens": tokens})

    def _place(self, index: int) -> tuple[str, tuple[str, int]]:
        return f"plan-{self._key}/chunk-{index:06d}", (self._key, index)
