"""Linear estimates of the effects of all direct paths between units: edge attribution patching. No unit is patched.

    estimate(A -> B, x) = sum over the patched tokens of (what A writes when patched - what it writes now) . g_B

g_B is the metric's derivative by what B alone reads from the residual stream (`engine._path_gradients`), so the estimate is the
derivative of the exact effect of `trace_edges` along the change. Over all receivers of a sender the estimates sum to that of
attribution patching, if the units are all of the model's. Costs two forwards and two backward passes of the scored prompts, per
receiver two more through its own layer, and the pass over the source prompts. Source: Syed et al. 2023 (arXiv 2310.10348).
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine._allocator import Allocator
from bkdinterp.engine._path_gradients import path_gradients
from bkdinterp.methods._options import BATCH_BYTES, RunOptions
from bkdinterp.methods.attribution._linear_effects import changes, patched_values, rows_at_once
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
    arch = model.architecture
    groups = _groups(sites)
    wholes = [Site(group[0].layer, group[0].component) for group in groups]
    patched = patched_values(model, wholes, origin, options)
    tokens = model.builder.tokenize(prompts)
    selected = tokens.selection(origin.where)
    receivers = (*sites, None)
    width = sum(map(arch.width, wholes))
    # Of a prompt: the slopes that all receivers read by, and what the heads of a layer write.
    kept = (len(receivers) + arch.n_heads) * int(selected.any(0).sum()) * arch.d_model
    budget = options.get("budget") or BATCH_BYTES
    size, allocator = rows_at_once(arch, tokens, width, budget, more=kept), Allocator(int(budget))
    batches = [list(range(i, min(i + size, len(prompts)))) for i in range(0, len(prompts), size)]
    edges = edges_between(sites, parallel=arch.parallel)
    first = [len(receivers)] * len(sites)
    for i, j in edges:
        first[i] = min(first[i], j)
    dtype = torch.promote_types(model.dtype, torch.float32)
    plain, frozen = torch.empty(len(edges), len(prompts), dtype=dtype), torch.zeros(len(edges), dtype=dtype)
    for rows in track(batches, "estimates", show=options.get("progress", True)):
        batch, chosen = tokens.rows(rows), selected[rows]
        columns = chosen.any(0).nonzero().flatten().tolist()
        chosen = chosen[:, columns]
        for held in (False, True):
            found = path_gradients(
                model, batch, score, receivers, values=wholes, columns=columns, frozen_norms=held
            )
            read, sender, at = found.read.to(dtype), 0, 0
            for group, whole in zip(groups, wholes, strict=True):
                value = found.values[whole].to(dtype)
                written = _written(model, group, changes(value, chosen, patched[whole], rows, origin))
                # One layer's heads have the same receivers, and so has its MLP: all from one on.
                by_receiver = written.flatten(2) @ read[:, first[sender] :].flatten(2).mT
                estimate = by_receiver.permute(1, 2, 0).flatten(0, 1).cpu()
                block = slice(at, at + len(estimate))
                if held:
                    frozen[block] += estimate.double().sum(1).to(dtype) / len(prompts)
                else:
                    plain[block, rows[0] : rows[-1] + 1] = estimate
                sender, at = sender + len(group), at + len(estimate)
            del found, read
        allocator.settle()
    return plain, frozen


def _groups(sites: Sequence[Site]) -> list[list[Site]]:
    """The heads of each layer, and each MLP, in the order of a forward pass."""
    return [list(group) for _, group in groupby(sites, key=lambda site: site.order)]


def _written(
    model: Model, group: Sequence[Site], change: Float[Tensor, "row column width"]
) -> Float[Tensor, "row sender column d_model"]:
    """What a change of an activation changes in the residual stream, for each sender of a layer."""
    if group[0].head is None:
        return change[:, None]
    arch, heads = model.architecture, [site.head for site in group]
    weights = arch.output_weights(model.module, group[0].layer)[heads].to(change)
    by_head = change.unflatten(-1, (arch.n_heads, -1))[:, :, heads]
    return torch.einsum("rchk,hkd->rhcd", by_head, weights)
