"""Sweep: a plan's finished chunks in a store, so that a killed run can resume. No forwards.

All plans of a script can share one folder: each has its own sub-folder, named by a hash of what it computes and of the
weights. A kept unedited run (``_shared_prefix``) and its start are not stored, but computed again if an unfinished chunk
needs them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._plan_digest import plan_digest
from bkdinterp.errors import RemoteError
from bkdinterp.results import Store, digest_of
from bkdinterp.values import shown


@dataclass(frozen=True)
class SentJob:
    """A job at a server: its id, and when it was sent (seconds since 1970)."""

    id: str
    sent: float


# It becomes a part of an address.
JOB_ID = re.compile(r"[\w-]{1,200}")


class Sweep:
    """Finished chunks of one plan on one model.

    Args:
        folder: created if it does not exist.
        plan: the plan that will be run.
        model: identifies the weights, and where they are.

    Raises:
        ArtefactError: the folder cannot be used, or has other content.
    """

    def __init__(self, folder: str | Path, plan: Plan, model: str) -> None:
        self._store = Store(folder)
        self._store.claim()
        self._of = plan
        self._key = digest_of((model, plan_digest(plan), len(plan.chunks)))

    def load(self, index: int, chunk: Chunk | None = None) -> tuple[dict[str, Any], Tensor | None] | None:
        """Output of a finished chunk and its generated tokens; None if it is not finished, or damaged."""
        item = self._store.read(*self._place(index))
        if item is None or not self._fits(item.value, chunk or self._of.chunks[index]):
            return None
        out = dict(item.value)
        return out, out.pop("tokens", None)

    def save(self, index: int, out: dict[str, Any], tokens: Tensor | None) -> None:
        """Store a finished chunk's output: its reads, and its scores if there are any."""
        kept = {name: out[name] for name in ("reads", "scores") if name in out}
        self._store.put(*self._place(index), kept if tokens is None else kept | {"tokens": tokens})

    def job(self, index: int) -> SentJob | None:
        """The server's job that begins with a chunk, if one was sent; the file may come from somebody else."""
        item = self._store.read(*self._job_place(index))
        match None if item is None else item.value:
            case {"id": str(name), "sent": float(sent)} if JOB_ID.fullmatch(name):
                return SentJob(name, sent)
        return None

    def keep_job(self, index: int, job: SentJob | None) -> None:
        """Keep a job, or forget it.

        Raises:
            RemoteError: an id that could not be read back.
        """
        if job is not None and not JOB_ID.fullmatch(job.id):
            raise RemoteError(f"The server named a job {shown(job.id)}, which is no id.")
        self._store.put(*self._job_place(index), {} if job is None else {"id": job.id, "sent": job.sent})

    def _job_place(self, index: int) -> tuple[str, tuple[str, str, int]]:
        return f"plan-{self._key}/job-{index:06d}", (self._key, "job", index)

    def _fits(self, out: Any, chunk: Chunk) -> bool:
        """Whether an output has the parts and sizes of this chunk; the file may come from somebody else."""
        if not isinstance(out, dict) or not isinstance(out.get("reads"), dict):
            return False
        rows = len(chunk.examples) * (1 if chunk.shared_rows else len(chunk.nodes))
        scores, tokens, reads = out.get("scores"), out.get("tokens"), out["reads"]
        if (chunk.score is None) != (scores is None) or (chunk.kind == "generate") != (tokens is not None):
            return False
        # Unedited rows for comparison may follow.
        if scores is not None and not (_is(scores, 1, rows) and scores.is_floating_point()):
            return False
        if tokens is not None and not (
            _is(tokens, 2, rows) and tokens.dtype == torch.int64 and bool((tokens >= 0).all())
        ):
            return False
        if set(reads) != set(chunk.places):
            return False
        for key, place in chunk.places.items():
            mean = self._of.nodes[key[0]].reads[key[1]].reduce == "mean"
            rows = 1 if mean else len(place.example)
            if not _is(reads[key], 1 if mean else 2, rows) or not reads[key].is_floating_point():
                return False
        return True

    def _place(self, index: int) -> tuple[str, tuple[str, int]]:
        return f"plan-{self._key}/chunk-{index:06d}", (self._key, index)


def _is(value: Any, ndim: int, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == ndim and len(value) >= rows
