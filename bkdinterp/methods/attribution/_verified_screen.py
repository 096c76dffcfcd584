"""Screen, then verify: linear estimates of all units, exact effects of the best and of a random sample of the rest."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, RemoteError
from bkdinterp.methods._guards import check_runs
from bkdinterp.methods._options import RunOptions, run
from bkdinterp.methods.attribution._linear_effects import Patched, Units, linear_effects, patched_values
from bkdinterp.methods.attribution._patch_source import KnownMeans, Origin
from bkdinterp.metrics import Score
from bkdinterp.model import Architecture, Model
from bkdinterp.results import Store
from bkdinterp.sites import Site

# Of what a folder keeps of estimates.
VERSION = 2


def check_slope(model: Model, score: Score, who: str) -> None:
    """Raise unless the score can be differentiated here.

    Args:
        model: the suspect.
        score: the metric.
        who: for messages, whose backward pass it is.

    Raises:
        PlanError: it compares with the unedited run.
        RemoteError: the weights are not here.
    """
    if getattr(model.executor, "remote", False):
        raise RemoteError(
            f"{who}() needs the weights on this machine, since a server runs no backward pass; load the model again without a "
            "remote executor, or patch exactly."
        )
    if score.needs_base:
        raise PlanError(
            f"Score {score.name!r} compares with the unedited run, from which it has no slope; screen with 'logprob' or another "
            "score of the target."
        )


def choose(
    estimates: Float[Tensor, "way unit"], *, sign: float, keep: int, drawn: int, seed: int
) -> tuple[list[int], list[int]]:
    """The ``keep`` best units of each way to estimate, and ``drawn`` others at random; both ascending."""
    n = estimates.shape[1]
    best = (sign * estimates).topk(min(keep, n), dim=1).indices.unique().tolist()
    rest = sorted(set(range(n)) - set(best))
    return best, sorted(random.Random(seed).sample(rest, min(drawn, len(rest))))


def screen_units(
    model: Model,
    unedited: Run,
    units: Units,
    origin: Origin,
    *,
    sign: float,
    keep: int,
    drawn: int,
    seed: int,
    known: Any,
    options: RunOptions,
) -> tuple[Float[Tensor, " example"], dict[str, Any]]:
    """Scores of the unedited prompts, and the fields of `ScreenedScores` that say what was found.

    Args:
        model: the suspect.
        unedited: the run of the scored prompts.
        units, origin: what is patched, and with what.
        sign: 1 if the largest effects matter most, -1 if the most negative do.
        keep, drawn, seed: as in `Attribution.screen`.
        known: what else decides the estimates; their key in the folder.
        options: how it runs.
    """
    score = unedited.declared
    assert score is not None
    folder = options.get("folder")

    def estimate() -> tuple[Tensor, Tensor, list[Patched]]:
        patched = patched_values(model, units.whole, origin, options)
        plain, frozen = linear_effects(model, unedited.prompts, units, origin, patched, score, options)
        # One value per example may be as large as the activations.
        return plain, frozen, list(patched.values()) if origin.reduce == "mean" else []

    if folder is None:
        plain, frozen, means = estimate()
    else:
        key = (VERSION, model.weights_id, model.builder.fingerprint, score, units.kind, units.layers, known)
        plain, frozen, means = Store(folder).get(f"linear-{units.kind}", key, estimate)
    estimates = torch.stack([plain.mean(1), frozen])
    best, sampled = choose(estimates, sign=sign, keep=keep, drawn=drawn, seed=seed)
    chosen = [*best, *sampled]
    sites = [units.site(i) for i in chosen]
    patches = [_patch(model.architecture, units, site, origin, means) for site in sites]
    runs = [unedited, *(Run(unedited.prompts, patch, score=score) for patch in patches)]
    found = torch.stack([r.scores for r in run(model, runs, options, finite=False) if r.scores is not None])
    check_runs(found, sites, unedited.score_name)
    effects = plain.to(found)
    effects[chosen] = found[1:] - found[0]
    verified = torch.zeros(len(units), dtype=torch.bool)
    verified[chosen] = True
    return found[0], {
        "effects": effects,
        "kind": units.kind,
        "layers": units.layers,
        "verified": verified,
        "estimates": estimates.to(found),
        "sampled": torch.tensor(sampled, dtype=torch.long),
    }


def _patch(arch: Architecture, units: Units, site: Site, origin: Origin, means: Sequence[Patched]) -> Any:
    """The intervention that patches a unit: with the means that the estimates took, or from the source's runs."""
    if not means:
        return origin.patch(site)
    new, less = means[units.layers.index(site.layer)]
    own = slice(*(arch.channels(site) or (0, arch.width(site))))
    return KnownMeans(site, origin.where, new[own], None if less is None else less[own])
