"""ChunkLoop: runs resolved chunks in a plan's order on a model of this process, and keeps what later ones reuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import nnsight
import torch

from bkdinterp.engine import program
from bkdinterp.engine._assemble import Store
from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._plan import Plan
from bkdinterp.model._attention import WHOLE_CACHE, cache_name


@runtime_checkable
class Traceable(Protocol):
    """What an executor needs from a model."""

    @property
    def nn(self) -> Any:
        """The nnsight model."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of its inputs."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its weights."""
        ...


class ChunkLoop:
    """Runs chunks one after another; what they reuse stays until a chunk that reuses something else."""

    def __init__(self, model: Traceable, scores: Mapping[str, Any]) -> None:
        self._model, self._scores = model, scores
        self._key: str | None = None
        self._always = {"whole_cache": WHOLE_CACHE, "cache_name": cache_name(model.nn._module)}
        self._state: dict[str, Any] = {**self._always}

    def run(self, chunk: Chunk, before: Sequence[Chunk] = ()) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Run one chunk; returns its output and generated tokens.

        Args:
            chunk: resolved (`Store.resolve`).
            before: those that it reuses and that did not run yet (`AtHand`), resolved, too.
        """
        if chunk.prefix != self._key:
            self._state.clear()
            self._state |= self._always
            self._key = chunk.prefix
        for reused in before:
            # Its scores are already known.
            sent = replace(reused, score=None).wire()
            program.advance(sent, _forward(self._model, sent, self._state), self._state)
        score = self._scores.get(chunk.score_name or "") if chunk.score is not None else None
        step: dict[str, Any] | None = chunk.wire()
        out: dict[str, Any] = {}
        while step is not None:
            out = _forward(self._model, step, self._state, score)
            step = program.advance(step, out, self._state)
        return out, out.pop("tokens", None)


@dataclass
class AtHand:
    """Which of the chunks that others reuse have run, while chunks run in a plan's order and some are skipped."""

    key: str | None = None
    n_run: int = 0

    def before(self, plan: Plan, store: Store, index: int, chunk: Chunk) -> tuple[Chunk, ...]:
        """Those that have to run before this one, resolved; they and it count as run from now on."""
        firsts = plan.chunks.firsts_of(index)
        if chunk.prefix != self.key:
            self.key, self.n_run = chunk.prefix, 0
        missing = firsts[self.n_run :]
        self.n_run = max(self.n_run, len(firsts)) + (chunk.kind in ("base", "start"))
        return tuple(store.resolve(plan.chunks[first]) for first in missing)


def _forward(
    model: Traceable, chunk: dict[str, Any], state: dict[str, Any], score: Any = None
) -> dict[str, Any]:
    """One forward pass of one chunk."""
    nn_model, device = model.nn, model.device
    inputs = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v
        for k, v in program.prepare(chunk, state).items()
    }
    with nn_model.trace(**inputs) as tracer:
        out = nnsight.save(program.execute(nn_model, chunk, score, state))
        if chunk["score"] is None and not chunk["want"]:
            # The chunk only reads, so stop after the last step.
            tracer.stop()
    return out
