"""Tuning PCP's scaling factors: a grid for few of them, Optuna's TPE for more, against any objective to be minimised.

The paper tunes until the edited model's top-k shares equal the unedited model's (arXiv 2302.12461, appendix; papers.md
6.6): `MatchScores` is that objective. Cost: one evaluation of the objective per trial.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, Score, execute
from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError
from bkdinterp.interventions import Intervention
from bkdinterp.methods._pcp import PCP
from bkdinterp.model import Model
from bkdinterp.plotting import curves
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts
from bkdinterp.results import Fingerprint, Result

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Objective = Callable[[Intervention], float]


@dataclass(frozen=True, eq=False)
class MatchScores:
    """Objective: how far the edited model's mean scores are from wanted ones.

        sum over the sets of weight * (mean score under the edit - wanted)^2

    Attributes:
        model: the suspect.
        sets: name -> prompts with targets.
        score: as in ``score_edits``.
        wanted: set -> mean score to reach; made by ``of`` from the unedited model.
        weights: set -> weight; 1 where absent.
    """

    model: Model
    sets: Mapping[str, Prompts]
    score: str | Score
    wanted: Mapping[str, float]
    weights: Mapping[str, float]

    @classmethod
    def of(
        cls,
        model: Model,
        sets: Mapping[str, Prompts],
        score: str | Score,
        *,
        wanted: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> "MatchScores":
        """Match the unedited model, except where ``wanted`` says otherwise (e.g. ``{"pt": 0.0}`` to weaken).

        Raises:
            PlanError: a wanted or weighted set that is not there.
        """
        given = dict(wanted or {})
        unknown = [name for name in (*given, *(weights or {})) if name not in sets]
        if not sets or unknown:
            raise PlanError(
                f"No set {', '.join(unknown) or 'of prompts'}; there are {', '.join(sets) or 'none'}."
            )
        open_sets = [name for name in sets if name not in given]
        runs = [Run(sets[name], score=score) for name in open_sets]
        results = execute(model, runs) if runs else ()
        unedited = {
            name: float(r.scores.double().mean())
            for name, r in zip(open_sets, results, strict=True)
            if r.scores is not None
        }
        return cls(model, dict(sets), score, unedited | given, dict(weights or {}))

    def __call__(self, edit: Intervention) -> float:
        """The sum for one edit; one scored row per prompt."""
        return self.many([edit])[0]

    def many(self, edits: Sequence[Intervention]) -> list[float]:
        """The sums for several edits, which share batches."""
        runs = [Run(prompts, edit, score=self.score) for prompts in self.sets.values() for edit in edits]
        results = iter(execute(self.model, runs))
        totals = [0.0] * len(edits)
        for name in self.sets:
            for i in range(len(edits)):
                scores = next(results).scores
                assert scores is not None
                gap = float(scores.double().mean()) - self.wanted[name]
                totals[i] += self.weights.get(name, 1.0) * gap**2
        return totals


@dataclass(frozen=True, eq=False, repr=False)
class PCPStudy(Result):
    """Every trial of a tuning.

    Attributes:
        factors: ``[trial factor]``, in the order of `names`.
        values: the objective of each trial.
        names: what each factor scales.
        method: ``"grid"`` or ``"tpe"``.
    """

    fingerprint: Fingerprint
    factors: Float[Tensor, "trial factor"]
    values: Float[Tensor, " trial"]
    names: tuple[str, ...]
    method: str

    @property
    def best(self) -> Float[Tensor, " factor"]:
        """The factors with the smallest objective; the first of equals."""
        return self.factors[int(self.values.argmin())]

    @property
    def best_value(self) -> float:
        """The smallest objective."""
        return float(self.values.min())

    def to_frame(self) -> "pandas.DataFrame":
        """One row per trial."""
        import pandas as pd

        columns = {name: self.factors[:, i].tolist() for i, name in enumerate(self.names)}
        return pd.DataFrame({"trial": range(len(self.values)), **columns, "objective": self.values.tolist()})

    def plot(self) -> "matplotlib.figure.Figure":
        """The objective of each trial, and the best so far."""
        values, best = self.values, self.values.cummin(0).values
        series = {"trial": (values, values, values), "best so far": (best, best, best)}
        return curves(
            range(1, len(self.values) + 1),
            series,
            xlabel="trial",
            ylabel="objective (smaller is better)",
            title=f"Tuning {len(self.names)} factors ({self.method})",
        )

    def describe(self) -> str:
        """Method, number of trials, best factors and their objective."""
        best = ", ".join(f"{name} = {v:.3g}" for name, v in zip(self.names, self.best.tolist(), strict=True))
        return f"{self.method}, {len(self.values)} trials, best objective {self.best_value:.3g} at {best}"


def tune_grid(pcp: PCP, objective: Objective, values: Sequence[float | int]) -> PCPStudy:
    """Try every combination of ``values`` for the factors: for rank 1, or few values.

    An objective with a method ``many(edits)`` is called with all combinations at once.

    Raises:
        BkdinterpError: no values, or more than 10,000 combinations.
    """
    n = len(values) ** len(pcp.names)
    if not 1 <= n <= 10_000:
        raise BkdinterpError(
            f"{len(values)} values for {len(pcp.names)} factors are {n} combinations; give 1 to 10,000, or use tune_tpe."
        )
    grid = torch.tensor(list(itertools.product(values, repeat=len(pcp.names))), dtype=torch.float64)
    edits = [pcp.replace(row) for row in grid]
    many = getattr(objective, "many", None)
    found = many(edits) if many is not None else [objective(e) for e in track(edits, "tuning factors")]
    return PCPStudy(pcp.fingerprint, grid, torch.tensor(found, dtype=torch.float64), pcp.names, "grid")


def tune_tpe(
    pcp: PCP,
    objective: Objective,
    *,
    n_trials: int = 200,
    bounds: tuple[float | int, float | int] = (0.05, 2.0),
    signed: bool = False,
    seed: int = 0,
    batch: int = 1,
    folder: str | Path | None = None,
) -> PCPStudy:
    """Tune the factors by Optuna's tree-structured Parzen estimator.

    Args:
        pcp: fitted directions.
        objective: intervention -> value to be minimised, e.g. a `MatchScores`.
        n_trials: trials in all, those found in ``folder`` included.
        bounds: smallest and largest factor.
        signed: allow each factor's negative too: the range becomes ``(-bounds[1], bounds[1])``.
        seed: of the sampler; an interrupted study, taken up again, draws what an unbroken one would have drawn.
        batch: trials drawn at once, each aware of the others but not of their values; an objective with a method
            ``many(edits)`` is called with all of them. 10 costs a tenth of the calls and little of the search.
        folder: the study is written there (``study.jsonl``, plain text) trial by trial, and taken up again.

    Raises:
        BkdinterpError: optuna is missing, or bounds, batch or trials that make no sense.
        ArtefactError: the folder holds a study of other factors, bounds or data.
    """
    low, high = (-bounds[1], bounds[1]) if signed else bounds
    if not low < high or min(n_trials, batch) < 1:
        raise BkdinterpError(
            f"tune_tpe: bounds={bounds} must rise, n_trials={n_trials} and batch={batch} be at least 1."
        )
    optuna = _optuna()
    saved = _study(optuna, pcp, (low, high), seed, batch, folder)
    # Draws depend on the finished batches alone, so that a batch cut off half-way is drawn again as it was.
    study = optuna.create_study(direction="minimize")
    known = saved.get_trials(deepcopy=False)
    for start in track(range(0, n_trials, batch), "tuning factors"):
        size = min(batch, n_trials - start)
        if len(known) >= start + size:
            study.add_trials(known[start : start + size])
            continue
        asked = [_ask(optuna, study, pcp, (low, high), seed, start + i) for i in range(size)]
        values = [t.value for t in known[start:]]
        todo = asked[len(values) :]
        edits = [pcp.replace([trial.params[name] for name in pcp.names]) for trial in todo]
        many = getattr(objective, "many", None)
        found = iter(many(edits)) if many is not None else (float(objective(edit)) for edit in edits)
        for trial, value in zip(todo, found, strict=True):
            if not math.isfinite(value):
                raise BkdinterpError(f"The objective gave {value} at {trial.params}.")
            saved.add_trial(_finished(optuna, trial, value))
            values.append(value)
        for trial, value in zip(asked, values, strict=True):
            study.tell(trial, value)
    trials = study.get_trials(deepcopy=False)
    return PCPStudy(
        pcp.fingerprint,
        torch.tensor([[t.params[name] for name in pcp.names] for t in trials], dtype=torch.float64),
        torch.tensor([t.value for t in trials], dtype=torch.float64),
        pcp.names,
        "tpe",
    )


def _ask(optuna: Any, study: Any, pcp: PCP, bounds: tuple[float, float], seed: int, number: int) -> Any:
    """Draw a trial, with a sampler of its own; pending ones of its batch count as bad, so that draws spread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(seed=seed * 1_000_003 + number, constant_liar=True)
    trial = study.ask()
    for name in pcp.names:
        trial.suggest_float(name, *bounds)
    return trial


def _finished(optuna: Any, trial: Any, value: float) -> Any:
    return optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise BkdinterpError("tune_tpe needs optuna: pip install 'bkdinterp[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(
    optuna: Any, pcp: PCP, bounds: tuple[float, float], seed: int, batch: int, folder: str | Path | None
) -> Any:
    """The study on disk, which holds finished trials only."""
    if folder is None:
        return optuna.create_study(direction="minimize")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(path / "study.jsonl")))
    study = optuna.create_study(storage=storage, study_name="pcp", direction="minimize", load_if_exists=True)
    origin = {"names": list(pcp.names), "bounds": list(bounds), "seed": seed, "batch": batch}
    origin |= {"model": pcp.fingerprint.model, "data": pcp.fingerprint.data, "kind": pcp.kind}
    known = study.user_attrs.get("origin")
    if known is None:
        study.set_user_attr("origin", origin)
    elif known != origin:
        changed = [key for key in origin if known.get(key) != origin[key]]
        raise ArtefactError(f"{path} holds a study with other {', '.join(changed)}; name another folder.")
    return study
