"""trace_edges(): which unit feeds which? The exact effect of every direct path between two units: path patching.

    effect(A -> B, x) = metric(y | x; B computed as if A, and A alone, had written its patched value) - metric(y | x)

What A writes to the residual stream is changed for B's input only, on the direct path: heads and MLPs between them keep their
values. B's output, computed from that input with its own norm, then stands in for B's in a second pass, and everything after B
follows. The receiver ``logits`` is what A changes without any other unit. Source: Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
Wang et al. 2023 (arXiv 2211.00593) count paths through MLPs as direct, and patch queries, keys and values apart; here they enter
a head together.
"""

from typing import Unpack

import torch

from bkdinterp.errors import PlanError
from bkdinterp.interventions import Sites, as_sites
from bkdinterp.methods._options import RunOptions, as_options
from bkdinterp.methods.attribution import Attribution
from bkdinterp.methods.circuits._direct_paths import checked_units, edge_effects, edges_between
from bkdinterp.methods.circuits._edge_scores import EdgeScores
from bkdinterp.prompts import PairedPrompts, as_pairs


def trace_edges(
    attribution: Attribution,
    pairs: PairedPrompts,
    units: Sites,
    *,
    source_pairs: PairedPrompts | None = None,
    **options: Unpack[RunOptions],
) -> EdgeScores:
    """Patch every direct path between the units of a shortlist, and from each to the logits.

    What is patched where, and the metric, are the attribution's. k units have at most k (k + 1) / 2 edges. Costs per prompt and
    edge one scored row; per prompt and sender another for the heads of each receiving layer and one for its MLP, which stop
    there if the metric reads one token and the patch is at the last; and the passes over sources and unedited prompts.

    Args:
        attribution: the settings.
        pairs: prompts with the backdoor's output as target.
        units: heads and MLPs (``mlp_out``), e.g. ``scores.top_k(16)``.
        source_pairs: prompts whose mean is patched in; None for ``pairs``.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: no units, pairs without targets, a prompt that lacks a position, or scores that are NaN.
        SiteError: a unit that is neither a head nor an MLP of the model, or heads whose output passes a norm (Gemma 2 and 3).
    """
    if not isinstance(attribution, Attribution):
        raise PlanError(f"trace_edges needs an Attribution; got {type(attribution).__name__}.")
    how = as_options(options, "trace_edges")
    as_pairs(pairs, "trace_edges")
    arch = attribution.model.architecture
    sites = checked_units(as_sites(units), arch)
    (unedited,), origin = attribution._runs([], pairs, {"source_pairs": source_pairs})
    edges = edges_between(sites, parallel=arch.parallel)
    base, found = edge_effects(attribution, sites, edges, unedited, origin, how)
    effects = torch.full((len(sites), len(sites) + 1, len(pairs)), torch.nan, dtype=torch.float64)
    senders, receivers = torch.tensor(edges).T
    effects[senders, receivers] = found
    return EdgeScores(
        effects=effects,
        units=tuple(map(str, sites)),
        **attribution._fields(pairs, base, origin),
    )
