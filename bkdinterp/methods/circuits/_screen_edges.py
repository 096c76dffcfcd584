"""screen_edges(): which of all edges between all units matter? Estimate every one, verify the best, audit the rest."""

from typing import Unpack

import torch
from torch import Tensor

from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Sites, as_sites
from bkdinterp.methods._options import RunOptions, as_options
from bkdinterp.methods.attribution import Attribution
from bkdinterp.methods.attribution._unit_effects import strongest_sign
from bkdinterp.methods.attribution._verified_screen import check_slope, choose
from bkdinterp.methods.circuits._direct_paths import all_units, checked_units, edge_effects, edges_between
from bkdinterp.methods.circuits._linear_edges import linear_edges
from bkdinterp.methods.circuits._screened_edges import ScreenedEdges
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.results import Store
from bkdinterp.values import as_integer


def screen_edges(
    attribution: Attribution,
    pairs: PairedPrompts,
    units: Sites | None = None,
    *,
    keep: float | int = 64,
    audit: float | int = 32,
    seed: float | int = 0,
    source_pairs: PairedPrompts | None = None,
    **options: Unpack[RunOptions],
) -> ScreenedEdges:
    """Find the strongest of all direct paths between units, and from each to the logits, without patching them all.

    Every edge is estimated by edge attribution patching, twice: plainly, and with the norms' scales frozen, since either alone
    may miss edges that the other finds. The ``keep`` best of each are then patched exactly, as by `trace_edges`, and so are
    ``audit`` others, drawn at random: ``found.audit(k)`` says what they tell of the rest.

    What is patched where, and the metric, are the attribution's. k units have at most k (k + 1) / 2 edges. Costs two forwards
    and two backward passes of the scored prompts, for each unit two backward passes through its own layer (with the 300 units of
    SmolLM2-135M all of it takes as long as ten forwards), one pass over the source prompts, and for each of at most
    ``2 * keep + audit`` edges at most two scored rows per prompt. A backward pass runs only on this machine. Source: Syed et al.
    2023 (arXiv 2310.10348), here held against exact effects.

    Args:
        attribution: the settings.
        pairs: prompts with the backdoor's output as target.
        units: heads and MLPs (``mlp_out``); None for all of the model (where heads pass a norm, as in Gemma 2 and 3, all MLPs).
        keep: edges of each estimate that are verified; about twice as many as are wanted.
        audit: edges drawn from the others.
        seed: of that draw.
        source_pairs: prompts whose mean is patched in; None for ``pairs``.
        **options: how it runs; see `RunOptions`. With ``folder``, estimates and finished chunks are kept there.

    Raises:
        PlanError: no units, pairs without targets, a prompt that lacks a position, a score that compares with the unedited run
            (it has no slope there), or scores that are NaN.
        SiteError: a unit that is neither a head nor an MLP of the model, heads whose output passes a norm (Gemma 2 and 3), or
            ``keep`` is below 1.
        RemoteError: weights that are not here.
        SweepInterrupted: on Ctrl-C while edges are verified; ``.partial`` is None.
    """
    if not isinstance(attribution, Attribution):
        raise PlanError(f"screen_edges needs an Attribution; got {type(attribution).__name__}.")
    how = as_options(options, "screen_edges")
    as_pairs(pairs, "screen_edges")
    model, score = attribution.model, attribution._score
    arch = model.architecture
    sites = all_units(arch) if units is None else checked_units(as_sites(units), arch)
    keep = as_integer(keep, "keep", low=1, error=SiteError)
    drawn = as_integer(audit, "audit", low=0, error=SiteError)
    seed = as_integer(seed, "seed", error=PlanError)
    check_slope(model, score, "screen_edges")
    (unedited,), origin = attribution._runs([], pairs, {"source_pairs": source_pairs})
    names = tuple(map(str, sites))

    def estimate() -> tuple[Tensor, Tensor]:
        return linear_edges(model, unedited.prompts, sites, origin, score, how)

    folder = how.get("folder")
    if folder is None:
        plain, frozen = estimate()
    else:
        known = attribution._known(pairs, source_pairs, origin)
        key = (model.weights_id, model.builder.fingerprint, score, names, known)
        plain, frozen = Store(folder).get("linear-edges", key, estimate)
    estimates = torch.stack([plain.mean(1), frozen])
    sign = strongest_sign(score.sense, attribution.direction)
    best, sampled = choose(estimates, sign=sign, keep=keep, drawn=drawn, seed=seed)
    chosen = [*best, *sampled]
    edges = edges_between(sites, parallel=arch.parallel)
    base, found = edge_effects(attribution, sites, [edges[i] for i in chosen], unedited, origin, how)
    places = torch.tensor([i * (len(sites) + 1) + j for i, j in edges])
    effects, verified = (_spread(x, places, len(sites)) for x in (plain, torch.zeros(len(edges)).bool()))
    effects[places[chosen]], verified[places[chosen]] = found.to(effects), True
    grid = len(sites), len(sites) + 1
    return ScreenedEdges(
        effects=effects.unflatten(0, grid),
        units=names,
        verified=verified.unflatten(0, grid),
        estimates=torch.stack([_spread(row, places, len(sites)) for row in estimates]).unflatten(1, grid),
        sampled=places[sampled],
        **attribution._fields(pairs, base, origin),
    )


def _spread(values: Tensor, places: Tensor, n_senders: int) -> Tensor:
    """Values of edges at their places among all pairs of sender and receiver; NaN, or False, elsewhere."""
    fill = torch.nan if values.is_floating_point() else False
    whole = torch.full((n_senders * (n_senders + 1), *values.shape[1:]), fill, dtype=values.dtype)
    whole[places] = values
    return whole
