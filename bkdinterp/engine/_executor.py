"""Executor: something that can run a plan; KeepingExecutor: one that keeps finished work in a folder."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from bkdinterp.engine._chunk_loop import Traceable
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._run import RunResult
from bkdinterp.errors import ArtefactError, PlanError, RemoteError
from bkdinterp.model._attention import maskless_attention
from bkdinterp.values import as_path


class Executor(ABC):
    """Something that can run a plan."""

    @abstractmethod
    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """Run the plan; returns one result per run, in order."""

    def in_folder(self, folder: Path) -> Self:
        """The same executor, keeping its finished work in ``folder``.

        Raises:
            PlanError: it cannot keep finished work.
        """
        raise PlanError(f"folder={str(folder)!r}: {self!r} keeps no finished work; omit folder=.")


class KeepingExecutor(Executor):
    """An executor with a folder for finished work."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else as_path(folder, "folder", error=ArtefactError)

    def in_folder(self, folder: Path) -> Self:
        """The same executor, keeping its finished work in ``folder``."""
        other = copy.copy(self)
        other.folder = folder
        return other


def check_here(plan: Plan, model: Traceable) -> None:
    """Check that a model's weights are here, and that its attention accepts the plan's masks.

    Raises:
        RemoteError: the model was loaded for a server.
        PlanError: packed copies need a mask that the model's attention implementation does not accept.
    """
    if getattr(getattr(model, "executor", None), "remote", False) and not model.nn.dispatched:
        # nnsight would load the weights now, without the checks of `Model.load`.
        raise RemoteError(
            "This model was loaded for a server and has no weights here; load it again without a remote executor."
        )
    name = maskless_attention(model.nn._module)
    if name is not None and any(outline.packed for outline in plan.chunks.outlines()):
        raise PlanError(
            f"The model's attention, attn_implementation={name!r}, does not accept our masks, which runs that share a prefix "
            'need: call model.module.set_attn_implementation("sdpa") (or "eager"), or make the plan with naive=True.'
        )
