"""Sweep: a plan's finished chunks in a folder, so that a killed run goes on where it stopped. No forwards.

Each chunk is an item of a `Store`, named by its plan and its place in it; one folder serves all plans of a method, and of
several methods. A kept unedited run (``_share``) is not stored but computed again when a chunk that needs it is to do.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine._digest import plan_digest
from bkdinterp.engine._plan import Chunk, Plan
from bkdinterp.results import Store

Output = tuple[dict[str, Any], Tensor | None]


class Sweep:
    """Finished chunks of one plan on one model.

    Args:
        folder: made if it does not exist; plans on models keep out of each other's way in it.
        plan: the plan that will be run.
        model: what identifies the weights.

    Raises:
        ArtefactError: the folder holds something else, or cannot be made.
    """

    def __init__(self, folder: str | Path, plan: Plan, model: str) -> None:
        self._store = Store(folder)
        self._plan = plan_digest(plan)
        self._of = plan
        self._model = model
        self._chunks = len(plan.chunks)

    def load(self, index: int) -> Output | None:
        """Output of a finished chunk and its generated tokens; None where it is still to do, or is damaged."""
        found = self._store.read(*self._item(index))
        if found is None or not self._fits(found[0], self._of.chunks[index]):
            return None
        out = dict(found[0])
        return out, out.pop("tokens", None)

    def save(self, index: int, out: dict[str, Any], tokens: Tensor | None) -> None:
        """Store a finished chunk's output.

        Raises:
            ArtefactError: the disk is full or cannot be written to; the chunks before are kept.
        """
        kept = {key: out[key] for key in ("scores", "reads") if key in out}
        self._store.put(*self._item(index), kept if tokens is None else kept | {"tokens": tokens})

    def path(self, index: int) -> Path:
        """Where a chunk lies, finished or not."""
        return self._store.path(*self._item(index))

    def _fits(self, out: Any, chunk: Chunk) -> bool:
        """Whether an output has the parts and sizes of this chunk's: a file may have been made by somebody else."""
        if not isinstance(out, dict) or not isinstance(out.get("reads"), dict):
            return False
        rows = len(chunk["examples"]) * (1 if chunk.get("shared_rows") else len(chunk["nodes"]))
        scores, tokens, reads = out.get("scores"), out.get("tokens"), out["reads"]
        if (chunk["score"] is None) != (scores is None) or (chunk["kind"] == "generate") != (
            tokens is not None
        ):
            return False
        # Rows that an edit is compared with may follow.
        if scores is not None and not (_is(scores, 1, rows) and scores.is_floating_point()):
            return False
        if tokens is not None and not (
            _is(tokens, 2, rows) and tokens.dtype == torch.int64 and bool((tokens >= 0).all())
        ):
            return False
        if set(reads) != set(chunk["places"]):
            return False
        for key, place in chunk["places"].items():
            mean = self._of.nodes[key[0]].reads[key[1]].reduce == "mean"
            rows = 1 if mean else len(place["example"])
            if not _is(reads[key], 1 if mean else 2, rows) or not reads[key].is_floating_point():
                return False
        return True

    def _item(self, index: int) -> tuple[str, dict[str, Any]]:
        key = {"plan": self._plan, "model": self._model, "chunks": self._chunks}
        return f"{self._plan}/chunk-{index:06d}", key


def _is(value: Any, ndim: int, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == ndim and len(value) >= rows
