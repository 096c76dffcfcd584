"""trace_circuits(): how much of the effect do the first k units of a ranking carry, and how much the others without them?

Costs two scored rows per prompt, ranking and size, and two more per prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Sites, as_sites
from bkdinterp.methods._guards import check_scores
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.attribution import Attribution
from bkdinterp.methods.attribution._patch_source import edited_side, side
from bkdinterp.methods.circuits._circuit_curve import CircuitCurve
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.sites import Component, HeadId, Site
from bkdinterp.values import as_integers


def trace_circuits(
    attribution: Attribution,
    pairs: PairedPrompts,
    rankings: Mapping[str, Sites],
    *,
    sizes: Sequence[int] | None = None,
    source_pairs: PairedPrompts | None = None,
    **options: Unpack[RunOptions],
) -> CircuitCurve:
    """Patch growing sets of units, and all units but these.

    What is patched where, and the metric, are the attribution's. Give the prompts that a ranking was not made on.

    Args:
        attribution: the settings.
        pairs: prompts to report on.
        rankings: name -> heads and MLPs (``mlp_out``), the most important first; e.g. a circuit's sites, ``scores.top_k(32)``,
            and random heads as a null.
        sizes: numbers of units; None: 1, 2, 4, ... up to the shortest ranking.
        source_pairs: prompts whose mean is patched in; None for ``pairs``.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: no ranking, one that is shorter than a size, or scores that are NaN.
        SiteError: a unit that is neither a head nor an MLP of the model.
    """
    if not isinstance(attribution, Attribution):
        raise PlanError(f"trace_circuits needs an Attribution; got {type(attribution).__name__}.")
    options = as_options(options, "trace_circuits")
    as_pairs(pairs, "trace_circuits")
    if not isinstance(rankings, Mapping) or not rankings:
        raise PlanError('trace_circuits needs rankings, name -> units, e.g. {"top": scores.top_k(32)}.')
    model = attribution.model
    units = _units(attribution)
    chosen = {name: _checked(name, as_sites(sites), set(units)) for name, sites in rankings.items()}
    shortest = min(map(len, chosen.values()))
    steps = _powers(shortest) if sizes is None else sorted(set(as_integers(sizes, "sizes", error=PlanError)))
    if not steps or steps[0] < 1 or steps[-1] > shortest:
        raise PlanError(f"sizes={steps} must be from 1 to {shortest}, the length of the shortest ranking.")
    origin = attribution._origin(pairs, source_pairs)
    prompts = side(pairs, edited_side(attribution.direction))
    score = attribution._score

    def patched(sites: Sequence[Site]) -> Run:
        return Run(prompts, origin.patch(*sites), score=score)

    runs = [Run(prompts, score=score), patched(units)]
    for sites in chosen.values():
        for k in steps:
            first = set(sites[:k])
            runs += [patched(sites[:k]), patched([site for site in units if site not in first])]
    rows: list[Tensor] = []
    for result in run(model, runs, options, finite=False):
        assert result.scores is not None
        rows.append(check_scores(result.scores.double().cpu(), "A patched set", score.name))
    both: dict[str, Any] = {}
    for i, name in enumerate(chosen):
        own = torch.stack(rows[2 + 2 * i * len(steps) :][: 2 * len(steps)])
        both[name] = own[0::2], own[1::2]
    return CircuitCurve(
        fingerprint=model.fingerprint(pairs.fingerprint),
        sizes=torch.tensor(steps),
        inside={name: inside for name, (inside, _) in both.items()},
        outside={name: outside for name, (_, outside) in both.items()},
        nothing=rows[0],
        whole=rows[1],
        metric=score.name,
        direction=attribution.direction,
        n_units=len(units),
    )


def _units(attribution: Attribution) -> tuple[Site, ...]:
    """All heads and MLPs of the model."""
    arch = attribution.model.architecture
    heads = [HeadId(layer, head).site for layer in range(arch.n_layers) for head in range(arch.n_heads)]
    return (*heads, *(Site(layer, Component.mlp_out) for layer in range(arch.n_layers)))


def _checked(name: str, sites: tuple[Site, ...], known: set[Site]) -> tuple[Site, ...]:
    if not sites:
        raise PlanError(f"Ranking {name!r} is empty.")
    for site in sites:
        if site not in known:
            raise SiteError(
                f"Ranking {name!r}: {site} is neither a head nor an MLP (L5.mlp_out) of this model."
            )
    return sites


def _powers(most: int) -> list[int]:
    found = [2**i for i in range(most.bit_length())]
    return found if found[-1] == most else [*found, most]
