"""RunOptions: how a method runs. One set of keywords for every method that runs a model, checked and carried out here."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from bkdinterp.engine import Executor, Local, Run, RunResult, execute
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.model import Model
from bkdinterp.values import as_flag, as_number, as_path, shown

BATCH_BYTES = 2**30
"""What one batch outside of the engine may take where no budget is given."""


class RunOptions(TypedDict, total=False):
    """Keywords of every method that runs a model; none of them changes a result beyond rounding.

    Attributes:
        budget: bytes that the work may take above the loaded model (see `plan`); None: as many as `plan` takes by itself.
        folder: finished work is kept there and taken up again; one folder serves many calls.
        executor: what runs the forward passes, instead of the model's own (None: that, or this machine). A method that
            runs several models, as `evaluate` with a twin, runs all of them there.
        progress: show a bar on a terminal; True unless the executor says otherwise.
    """

    budget: float | int | None
    folder: str | Path | None
    executor: Executor | None
    progress: bool


def as_options(given: Mapping[str, object], who: str, also: Sequence[str] = ()) -> RunOptions:
    """The options that were set, normalised; ``also`` are a method's own keywords, which are left out.

    Raises:
        TypeError: a keyword that is none of these.
        PlanError: a budget that is no number of bytes, something else than an executor, a flag that is none.
        ArtefactError: a folder that is no path.
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
    """Plan the runs and execute them as a method's options say; one result per run.

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
