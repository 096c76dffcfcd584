"""Linear estimates of the effects of all direct paths between units: edge attribution patching. No unit is patched.

    estimate(A -> B, x) = sum over the patched tokens of (what A writes when patched - what it writes now) . g_B

g_B is the metric's derivative by what B alone reads from the residual stream (`engine._path_gradients`), so the estimate is the
derivative of the exact effect of `trace_edges` along the change. Over all receivers of a sender the estimates sum to that of
attribution patching, if the units are all of the model's. Costs one forward of the scored prompts; of their tokens from the first
patched one on two forward and two backward passes, and per receiver two more through its own layer; and the pass over the source
prompts. Source: Syed et al. 2023 (arXiv 2310.10348).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import known_start
from bkdinterp.engine._allocator import Allocator
from bkdinterp.engine._path_gradients import path_gradients
from bkdinterp.methods._options import BATCH_BYTES, RunOptions
from bkdinterp.methods.attribution._linear_effects import (
    batches_of,
    changes,
    patched_values,
)
from bkdinterp.methods.attribution._patch_source import Origin
from bkdinterp.methods.circuits._direct_paths import edges_between
from bkdinterp.metrics import Score
from bkdinterp.model import Model
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Site


def linear_edges(
    model: Model, prompts: Prompts, sites: Sequence[Site], origin: Origin, score: Score, options: RunOptions
) -> tuple[Float[Tensor, "edge example"], Float[Tensor, " edge"]]:
    """Estimated effect of each edge, in the order of `edges_between`; and its mean with the norms' scales frozen.

    Args:
        model: the suspect, with weights on this machine.
        prompts: the scored prompts.
        sites: units in the order of a forward pass.
        origin: what is patched in, and where.
        score: the metric; not one that compares with the unedited run.
        options: how it runs.
    """
    arch, dtype = model.architecture, torch.promote_types(model.dtype, torch.float32)
    groups = _groups(sites, parallel=arch.parallel)
    wholes = [group.whole for group in groups]
    patched = patched_values(model, wholes, origin, options)
    tokens = model.builder.tokenize(prompts)
    receivers = (*sites, None)
    # Of a prompt: the slopes that all receivers read by, and what the heads of a layer write.
    n_columns = int(tokens.selection(origin.where).any(0).sum())
    kept = (len(receivers) + arch.n_heads) * n_columns * arch.d_model
    budget = options.get("budget") or BATCH_BYTES
    width = sum(map(arch.width, wholes))
    batches = list(batches_of(arch, tokens, origin.where, score, width, budget, more=kept))
    n_edges, allocator = groups[-1].edges.stop, Allocator(int(budget))
    plain, frozen = torch.empty(n_edges, len(prompts), dtype=dtype), torch.zeros(n_edges, dtype=dtype)
    for rows, batch, first in track(batches, "estimates", show=options.get("progress", True)):
        chosen = batch.selection(origin.where)
        columns = chosen.any(0).nonzero().flatten().tolist()
        chosen = chosen[:, columns]
        start = known_start(model, batch, first, score)
        for held in (False, True):
            found = path_gradients(
                model,
                batch,
                score,
                receivers,
                values=wholes,
                columns=columns,
                frozen_norms=held,
                start=start,
            )
            # Slopes of padding may be NaN, and 0 times NaN is not 0.
            left_out = ~chosen[:, None, :, None].to(found.read.device)
            read = found.read.to(dtype).masked_fill(left_out, 0)
            for group in groups:
                value = found.values[group.whole].to(dtype)
                change = changes(value, chosen, patched[group.whole], rows, origin)
                written = _written(model, group, change)
                by_receiver = written.flatten(2) @ read[:, group.first :].flatten(2).mT
                estimate = by_receiver.permute(1, 2, 0).flatten(0, 1).cpu()
                if held:
                    frozen[group.edges] += estimate.double().sum(1).to(dtype) / len(prompts)
                else:
                    plain[group.edges, rows] = estimate
            # The next pass takes their room.
            del found, read
        del start
        allocator.settle()
    return plain, frozen


@dataclass(frozen=True)
class _Group:
    """The heads of a layer, or its MLP: senders that have the same receivers, namely all from one on.

    Attributes:
        whole: the site that holds them.
        heads: the heads; None for an MLP.
        first: the first receiver.
        edges: their edges in the order of `edges_between`.
    """

    whole: Site
    heads: tuple[int, ...] | None
    first: int
    edges: slice


def _groups(sites: Sequence[Site], *, parallel: bool) -> list[_Group]:
    groups: list[_Group] = []
    first: dict[int, int] = {}
    for i, j in edges_between(sites, parallel=parallel):
        first.setdefault(i, j)
    stop = 0
    for _, numbered in groupby(enumerate(sites), key=lambda numbered: numbered[1].order):
        at, members = zip(*numbered, strict=True)
        heads = tuple(site.head for site in members if site.head is not None)
        start, stop = stop, stop + len(members) * (len(sites) + 1 - first[at[0]])
        whole = Site(members[0].layer, members[0].component)
        groups.append(_Group(whole, heads or None, first[at[0]], slice(start, stop)))
    return groups


def _written(
    model: Model, group: _Group, change: Float[Tensor, "row column width"]
) -> Float[Tensor, "row sender column d_model"]:
    """What a change of an activation changes in the residual stream, for each sender of a group."""
    if group.heads is None:
        return change[:, None]
    arch, heads = model.architecture, list(group.heads)
    weights = arch.output_weights(model.module, group.whole.layer)[heads].to(change)
    by_head = change.unflatten(-1, (arch.n_heads, -1))[:, :, heads]
    return torch.einsum("rchk,hkd->rhcd", by_head, weights)
