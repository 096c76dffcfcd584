"""Parts of a tuning: checks of the objective, Optuna's draws, and the study on disk."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bkdinterp.engine import digest_of
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.interventions import Intervention
from bkdinterp.methods.pcp._principal_directions import PCP
from bkdinterp.results import versions
from bkdinterp.results._files import drop_broken_tail
from bkdinterp.values import as_path, shown

Objective = Callable[[Intervention], float]
# Factor -> smallest and largest value.
Ranges = Mapping[str, tuple[float, float]]
# Bounds with a smaller relative difference count as equal, measured on different machines.
SAME_BOUNDS = 1e-3
JOURNAL = "study.jsonl"


def check_objective(objective: Any) -> None:
    """Raise BkdinterpError if the objective cannot be called."""
    if not callable(objective) or isinstance(objective, type):
        raise BkdinterpError(
            f"The objective {shown(objective)} cannot be called; give intervention -> number, or a bk.pcp.MatchScores."
        )


def objective_values(
    objective: Any, edits: Sequence[Intervention], factors: Sequence[Sequence[float]]
) -> Iterator[float]:
    """The objective of each edit, in single calls or, if it has a method ``many(edits)``, in one call.

    Raises:
        BkdinterpError: a value is not a finite number, or there is not one value per edit.
    """
    many = getattr(objective, "many", None)
    if many is None:
        found: Any = (objective(edit) for edit in edits)
    else:
        given = many(edits)
        try:
            found = list(given)
        except TypeError:
            raise BkdinterpError(
                f"The objective's many(edits) gave {given!r}; it must give a list."
            ) from None
        if len(found) != len(edits):
            raise BkdinterpError(
                f"The objective's many(edits) gave {len(found)} values for {len(edits)} edits; give one each."
            )
    for value, where in zip(found, factors):
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):  # None, text, a tensor of several numbers
            number = math.nan
        if not math.isfinite(number):
            raise BkdinterpError(
                f"The objective gave {value!r} at factors {[round(x, 4) for x in where]}; it must give a finite number."
            )
        yield number


def draw(optuna: Any, study: Any, ranges: Ranges, seed: int, number: int) -> Any:
    """Draw a trial with its own sampler; pending trials of the batch count as bad, so that draws spread out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(seed=seed * 1_000_003 + number, constant_liar=True)
    trial = study.ask()
    for name, (low, high) in ranges.items():
        trial.suggest_float(name, low, high)
    return trial


def finished(optuna: Any, trial: Any, value: float) -> Any:
    """The trial completed with its value."""
    return optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=value)


def import_optuna() -> Any:
    """Import Optuna, and silence its logging.

    Raises:
        BkdinterpError: Optuna is missing.
    """
    try:
        import optuna
    except ImportError as error:
        raise BkdinterpError("tune_tpe needs optuna: pip install 'bkdinterp[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def saved_study(
    optuna: Any,
    pcp: PCP,
    objective: Objective,
    ranges: Ranges,
    seed: int,
    batch: int,
    folder: str | Path | None,
) -> tuple[Any, Ranges]:
    """The study on disk, which holds only finished trials, and its bounds.

    Measured bounds differ by rounding between machines; a study keeps the bounds that it began with.

    Raises:
        ArtefactError: the folder cannot be created, or holds another study.
    """
    if folder is None:
        return optuna.create_study(direction="minimize"), ranges
    path = as_path(folder, "folder", error=ArtefactError)
    try:
        path.mkdir(parents=True, exist_ok=True)
        drop_broken_tail(path / JOURNAL)
    except OSError as error:
        raise ArtefactError(
            f"folder={str(path)!r} is not a folder and cannot be created ({error.strerror}); give another."
        ) from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        storage = JournalStorage(JournalFileBackend(str(path / JOURNAL)))
        study = optuna.create_study(
            storage=storage, study_name="pcp", direction="minimize", load_if_exists=True
        )
    # Optuna raises many kinds of error for lines that are missing or not its own.
    except Exception as error:
        raise ArtefactError(
            f"{path / JOURNAL} is not a readable study ({type(error).__name__}: {error}); give another folder, or delete "
            "it to start again."
        ) from error
    origin = {
        "names": list(pcp.names),
        "bounds": [list(pair) for pair in ranges.values()],
        "seed": seed,
        "batch": batch,
    }
    origin |= {"model": pcp.fingerprint.model, "data": pcp.fingerprint.data, "kind": pcp.kind}
    origin |= {"objective": digest_of(objective), "version": versions()["bkdinterp"]}
    known = study.user_attrs.get("origin")
    if known is None:
        study.set_user_attr("origin", origin)
        return study, ranges
    saved = _saved_bounds(known.get("bounds", ()), len(ranges))
    if len(saved) == len(ranges) and all(map(_close, saved, ranges.values())):
        ranges = dict(zip(ranges, saved, strict=True))
        origin["bounds"] = known["bounds"]
    if known != origin:
        changed = [key for key in origin if known.get(key) != origin[key]]
        hint = (
            " (An objective is identified by its code and attributes. If some attributes do not affect its value, such as "
            "a counter, give it a `fingerprint` attribute.)"
        )
        raise ArtefactError(
            f"{path} holds a study with other {', '.join(changed)}; give another folder."
            + hint * ("objective" in changed)
        )
    return study, ranges


def _saved_bounds(bounds: Sequence[Any], n: int) -> list[tuple[float, float]]:
    """One pair per factor; early studies saved a single pair for all."""
    if len(bounds) == 2 and not isinstance(bounds[0], list):
        bounds = [bounds] * n
    return [(low, high) for low, high in bounds]


def _close(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether bounds are equal up to the rounding of an fp32 forward, about 1e-5 between kinds of processors."""
    return all(math.isclose(x, y, rel_tol=SAME_BOUNDS) for x, y in zip(a, b, strict=True))
