"""RunOptions: the keywords, shared by every method that runs a model, that say how it runs."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from bkdinterp.engine import Executor, Local, Run, RunResult, execute
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.model import Model
from bkdinterp.values import as_flag, as_number, as_path, shown

BATCH_BYTES = 2**30
"""Bytes that one batch outside of the engine may take if no budget is given."""


class RunOptions(TypedDict, total=False):
    """Keywords of every method that runs a model; they change results only by rounding.

    Attributes:
        budget: bytes that the work may take in addition to the loaded model (see `plan`); None uses the default of `plan`.
        folder: folder in which finished work is kept, so that a later call resumes it; many calls can share a folder.
        executor: runs the forward passes; None uses the model's own executor, or this machine. A method that runs several
            models, such as `evaluate` with a twin, uses it for all of them.
        progress: show a progress bar on a terminal; True unless the executor says otherwise.
    """

    budget: float | int | None
    folder: str | Path | None
    executor: Executor | None
    progress: bool


def as_options(given: Mapping[str, object], who: str, also: Sequence[str] = ()) -> RunOptions:
    """The given options, normalised; ``also`` lists a method's own keywords, which are left out.

    Raises:
        TypeError: a keyword is unknown.
        PlanError: the budget is not a number of bytes, the executor is not an executor, or the flag is not a flag.
        ArtefactError: the folder is not a path.
    """
    found: dict[str, Any] = {name: value for name, value in given.items() if name not in also}
    for name in found:
        if name not in RunOptions.__annotations__:
            known = ", ".join((*also, *RunOptions.__annotations__))
            raise TypeError(f"{who}() got an unexpected keyword argument {name!r}; it also takes {known}.")
    found = {name: value for name, value in found.items() if value is not None}
    if "budget" in found:
        as_number(found["budget"], "budget", low=1, error=PlanError)
    if "folder" in found:
        found["folder"] = as_path(found["folder"], "folder", error=ArtefactError)
    if "executor" in found and not callable(getattr(found["executor"], "run", None)):
        raise PlanError(
            f"executor={shown(found['executor'])} must be an executor: bk.Local(), bk.Remote() or None."
        )
    if "progress" in found:
        found["progress"] = as_flag(found["progress"], "progress", error=PlanError)
    return cast(RunOptions, found)


def run(
    model: Model, runs: Sequence[Run], options: RunOptions, *, finite: bool = True
) -> tuple[RunResult, ...]:
    """Plan the runs and execute them with a method's options; returns one result per run.

    Raises:
        SweepInterrupted, ArtefactError, PlanError: as `execute`.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if name != "progress"}
    if not options.get("progress", True):
        executor: Any = options.get("executor") or model.executor or Local()
        if getattr(executor, "progress", False):
            executor = copy.copy(executor)
            executor.progress = False
        given["executor"] = executor
    return execute(model, runs, finite=finite, **given)
