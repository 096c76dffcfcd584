"""PCP replacements on the toys: fitted on one draw of prompts, tuned there, measured on another.

Three forms of the same thing: the paper's (h -> A h), the released code's directions (docs/papers.md, Deviations), and A h
with the module's mean output added back, which the definition leaves out. Cost: one evaluation of every set per
trial; trials share batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bkdinterp.interventions import INPUT_OF, Intervention, Steer
from bkdinterp.methods import PCP, Activations, MatchScores, Means, tune_grid, tune_tpe
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Site, Where
from papers.lamparth.toy_measurements import Measured, measure
from papers.lamparth.toys import PCA_KINDS, Toy, load_toys, sizes
from papers.paper import Job

EVERYWHERE = Where("all", generated=True)
Row = Sequence[float]
# Factors are looked for within these; an MLP's input has norm 8 and its output up to some tens.
BOUND = 20.0
BATCH = 10
L1, L3, BOTH = "L0.mlp_out", "L2.mlp_out", "L0.mlp_out L2.mlp_out"
A2, A23 = "L1.attn_out", "L1.attn_out L2.attn_out"


@dataclass(frozen=True)
class Spec:
    """One replacement.

    Args:
        sites: the modules.
        rank: of each.
        form: ``"pc"`` (the paper's definition), ``"released"`` directions, or ``"mean"`` added back.
    """

    sites: str
    rank: int
    form: str = "pc"

    @property
    def name(self) -> str:
        """For units' names."""
        return f"{self.sites.replace(' ', '+')}-rank{self.rank}-{self.form}"


def specs(sentiments: int) -> dict[str, Spec]:
    """Heading of the tables' column -> the replacement, MLPs (tables III to VI)."""
    rank = sentiments - 1
    return {
        "L1 MLP": Spec(L1, rank),
        "L3 MLP": Spec(L3, rank),
        "L1 & L3 MLPs": Spec(BOTH, rank),
        "L1 MLP, released directions": Spec(L1, rank, "released"),
        "L1 MLP, mean added back": Spec(L1, rank, "mean"),
    }


# Tables VII, XIII, XIV.
ATTENTION = {"L2 attention": Spec(A2, 4), "L2 & L3 attention": Spec(A23, 4)}


def work(job: Job) -> Iterator[tuple[Toy, Spec]]:
    """Everything to be tuned."""
    for k in (2, 3):
        for toy in load_toys(job, k, max(1, sizes(job).seeds)):
            chosen = [*specs(k).values(), *(ATTENTION.values() if toy.seed == 0 else ())]
            for spec in chosen:
                yield toy, spec


def tune(job: Job) -> None:
    """All fits and studies; a study that was cut off goes on."""
    for toy, spec in work(job):
        tuned(job, toy, spec)


@dataclass(frozen=True, eq=False)
class Objective:
    """The paper's objective for one form of the replacement."""

    goal: MatchScores
    shift: Intervention | None

    def fingerprint(self) -> tuple[object, ...]:
        """What its study is known by: the shift is measured, and differs by rounding between machines."""
        return self.goal, self.shift is not None

    def many(self, edits: Sequence[Intervention]) -> list[float]:
        """For several edits in one plan."""
        return self.goal.many([shifted(edit, self.shift) for edit in edits])

    def __call__(self, edit: Intervention) -> float:
        """For one."""
        return self.many([edit])[0]


def shifted(edit: Intervention, shift: Intervention | None) -> Intervention:
    """The replacement, then the mean."""
    return edit if shift is None else edit.then(shift)


def fit(toy: Toy, spec: Spec) -> tuple[PCP, Intervention | None]:
    """Directions on the fitting draw, and what is added afterwards."""
    pools = toy.pool(PCA_KINDS[toy.sentiments])
    directions = "released" if spec.form == "released" else "pc"
    pcp = PCP.fit(toy.model, pools, spec.sites, rank=spec.rank, directions=directions)
    if spec.form != "mean":
        return pcp, None
    means = Means.collect(toy.model, pools, spec.sites)
    (site,) = means.sites
    return pcp, Steer(site, means[site], where=EVERYWHERE)


def tuned(job: Job, toy: Toy, spec: Spec) -> dict[str, Any]:
    """``factors`` (of the best trials those with the smallest largest factor), ``value``, ``trials``, ``explained``,
    ``linear``: how well the outputs' coordinates follow from the inputs' along the same directions."""
    n_factors = spec.rank * len(spec.sites.split())
    trials = toy.sizes.trials if n_factors > 1 else 2 * toy.sizes.grid + 1
    settings = toy.settings(unit=2, spec=spec.name, bound=BOUND, trials=trials)
    name = f"pcp/{toy.name}/{spec.name}"

    def compute() -> dict[str, Any]:
        pcp, shift = fit(toy, spec)
        goal = Objective(MatchScores.of(toy.model, toy.fit_sets, toy.negativity), shift)
        if n_factors == 1:
            study = tune_grid(pcp, goal, grid(toy.sizes.grid))
        else:
            folder = job.out / "studies" / job.store.path(name, settings).stem[-12:]
            study = tune_tpe(
                pcp,
                goal,
                n_trials=toy.sizes.trials,
                bounds=(0.0, BOUND),
                signed=True,
                batch=BATCH,
                folder=folder,
            )
        best = study.factors[study.values <= study.best_value + 1e-12]
        return {
            "factors": best[int(best.abs().amax(1).argmin())].tolist(),
            "value": study.best_value,
            "trials": len(study.values),
            "explained": {site: float(x.sum()) for site, x in pcp.explained.items()},
            "linear": _linear(toy, pcp),
        }

    return job.unit(name, settings, compute)


def grid(n: int) -> list[float]:
    """0, and ``n`` sizes from .05 to the bound in equal ratios, with both signs: what counts may be narrow and small."""
    sizes_ = [0.05 * (BOUND / 0.05) ** (i / (n - 1)) for i in range(n)]
    return [*(-x for x in reversed(sizes_)), 0.0, *sizes_]


def edit_of(toy: Toy, spec: Spec, factors: Sequence[float]) -> Intervention:
    """The replacement with these factors."""
    pcp, shift = fit(toy, spec)
    return shifted(pcp.replace(list(factors)), shift)


def replaced(job: Job, toy: Toy, chosen: Mapping[str, Spec]) -> Measured:
    """Every replacement with its tuned factors, measured on the other draw of prompts."""
    factors = {column: tuned(job, toy, spec)["factors"] for column, spec in chosen.items()}
    settings = toy.reported(unit=2, n_loss=toy.sizes.n_loss, specs=[s.name for s in chosen.values()])
    return job.unit(
        f"replaced/{toy.name}/{next(iter(chosen.values())).name}",
        settings | {"factors": factors},
        lambda: measure(
            toy, {column: edit_of(toy, spec, factors[column]) for column, spec in chosen.items()}
        ),
    )


def varied(job: Job, toy: Toy, spec: Spec, multiples: Mapping[str, Row | float]) -> Measured:
    """The tuned factors times something."""
    factors = torch.tensor(tuned(job, toy, spec)["factors"], dtype=torch.float64)
    settings = toy.reported(unit=2, n_loss=toy.sizes.n_loss, spec=spec.name, factors=factors.tolist())

    def compute() -> Measured:
        pcp, shift = fit(toy, spec)
        edits = {
            column: shifted(pcp.replace(factors * torch.as_tensor(m, dtype=torch.float64)), shift)
            for column, m in multiples.items()
        }
        return measure(toy, edits)

    shown = {name: list(m) if isinstance(m, Sequence) else m for name, m in multiples.items()}
    return job.unit(f"varied/{toy.name}/{spec.name}", settings | {"multiples": shown}, compute)


def _linear(toy: Toy, pcp: PCP) -> dict[str, list[float]]:
    """Site -> correlation of e_i . h with e_i . m(h) over the fitting prompts' last tokens, for every direction.

    A factor can only rescale the input's own coordinate; where that says little about the output's, no factor helps.
    """
    prompts, out = Prompts.concat(toy.pool(PCA_KINDS[toy.sentiments])), {}
    for name, e in pcp.directions.items():
        site = Site.parse(name)
        read = Site(site.layer, INPUT_OF[site.component])
        held = Activations.collect(toy.model, prompts, [read, site], where=pcp.where)
        x, y = (e.double() @ held[s].reshape(-1, e.shape[-1]).double().T for s in (read, site))
        out[name] = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(x, y, strict=True)]
    return out
