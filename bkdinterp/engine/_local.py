"""Local: runs a plan's chunks on this machine, one trace per forward pass, and assembles the results."""

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import nnsight
import torch

from bkdinterp.engine import program
from bkdinterp.engine._assemble import Store
from bkdinterp.engine._plan import Chunk, Plan
from bkdinterp.engine._run import RunResult
from bkdinterp.progress import track


@runtime_checkable
class Traceable(Protocol):
    """What an executor needs of a model."""

    @property
    def nn(self) -> Any:
        """The nnsight model."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        ...


class Executor(ABC):
    """Something that can run a plan."""

    @abstractmethod
    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """One result per run, in the runs' order."""


class Local(Executor):
    """Runs chunk after chunk in this process, without gradients.

    Args:
        progress: show a progress bar for plans of more than a few chunks.
    """

    def __init__(self, *, progress: bool = True) -> None:
        self.progress = progress

    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """One result per run. Costs ``plan.cost``."""
        store = Store(plan, model.dtype)
        state: dict[str, Any] = {}
        with torch.no_grad():
            for chunk in track(plan.chunks, "running chunks", show=self.progress and len(plan.chunks) > 4):
                chunk = store.resolve(chunk)
                score = plan.scores.get(chunk["score_name"]) if chunk["score"] is not None else None
                if chunk["kind"] in ("base", "generate"):
                    state.clear()
                out: dict[str, Any] = {}
                step: Chunk | None = chunk
                while step is not None:
                    out = _forward(model, step, state, score)
                    step = program.advance(step, out, state)
                store.add(chunk, out, out.get("tokens"))
        return store.results()

    def __repr__(self) -> str:
        return "Local()"


def _forward(
    model: Traceable, chunk: Chunk, state: dict[str, Any], score: Any = None
) -> dict[str, Any]:
    """One forward pass of one chunk."""
    nn_model, device = model.nn, model.device
    inputs = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v
        for k, v in program.prepare(chunk, state).items()
    }
    with nn_model.trace(**inputs):
        out = nnsight.save(program.execute(nn_model, chunk, score, state))
    return out
