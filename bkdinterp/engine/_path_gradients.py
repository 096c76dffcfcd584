"""What moves the score through one unit alone: its derivative with respect to what that unit reads from the residual stream.

    g_v = (d v / d stream at v's entrance)^T  d score / d v

Only v sees the stream changed; everything after v follows. So g_v . change is, to first order, the effect of a direct path
into v, and the g of everything that reads the stream later sum to the score's whole derivative by the stream. Costs one forward,
one backward pass, and one through the own layer of each receiver. Source: edge attribution patching (Syed et al. 2023, arXiv
2310.10348), whose derivative by a node's input this is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine._gradients import local_model
from bkdinterp.engine._graph_start import KnownStart
from bkdinterp.engine._scored_graph import check_batch, scored_columns, scored_graph, slopes_of
from bkdinterp.errors import PlanError
from bkdinterp.metrics import Score
from bkdinterp.model import Architecture
from bkdinterp.prompts import TokenBatch
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site


@dataclass(frozen=True, eq=False)
class PathGradients:
    """Derivatives of a batch's scores by what each receiver reads, and what units are worth now, at some columns.

    Attributes:
        read: derivative of a row's own score by the stream at a receiver's entrance.
        values: activation at each requested site.
    """

    __repr__ = short_repr

    read: Float[Tensor, "row receiver column d_model"]
    values: Mapping[Site, Float[Tensor, "row column width"]]


def path_gradients(
    model: Any,
    tokens: TokenBatch,
    score: Score,
    receivers: Sequence[Site | None],
    *,
    values: Sequence[Site],
    columns: Sequence[int],
    frozen_norms: bool = False,
    start: KnownStart | None = None,
) -> PathGradients:
    """Differentiate a batch's scores by what single units read from the residual stream.

    Args:
        model: a ``Model`` with weights on this machine.
        tokens: prompts with targets.
        score: the score; not one that compares with the unedited run.
        receivers: heads (slices of ``z``) and MLPs (``mlp_out``); None for the logits.
        values: whole sites whose activations to return.
        columns: columns of the batch to return. Those that the score does not need have slopes and values of 0.
        frozen_norms: take the scales of the residual stream's norms as constants, as in `gradients`.
        start: `known_start` of this batch, at or before the first of ``columns``: what stands before it is not computed again.

    Raises:
        PlanError: there are no targets, the score needs the unedited run, or the start is of another batch or behind a column.
        PromptError: token ids are outside the vocabulary.
        SiteError: the model does not have a site.
        RemoteError: the model's weights are not on this machine.
    """
    arch, module = local_model(model, "path_gradients")
    check_batch(arch, tokens, score, [*values, *(r for r in receivers if r is not None)], "path_gradients")
    tokens = tokens.to(model.device)
    n = scored_columns(tokens, score)
    inside = [i for i, column in enumerate(columns) if column < n]
    known_columns = 0 if start is None else start.known
    if start is not None:
        start.check(tokens, n)
        if at_early := [c for c in columns if c < start.column]:
            raise PlanError(f"Column {at_early[0]} stands before the start, {start.column}.")
    at = [columns[i] - known_columns for i in inside]
    outputs = list(dict.fromkeys(_output(r, arch) for r in receivers))
    caught_at = dict.fromkeys([*outputs, *(_entrance(r, arch) for r in receivers), *values])
    graph = scored_graph(
        module, arch, tokens, score, tuple(caught_at), frozen_norms=frozen_norms, start=start
    )
    with graph as (scores, caught):
        known = dict(zip(outputs, slopes_of(scores, [caught[o][1] for o in outputs], keep=True), strict=True))
        shape = (len(tokens), len(receivers), len(columns), arch.d_model)
        read = torch.zeros(shape, dtype=model.dtype, device=model.device)
        for k, receiver in enumerate(receivers):
            output, entrance = _output(receiver, arch), _entrance(receiver, arch)
            slope, own = known[output], None if receiver is None else arch.channels(receiver)
            if own is not None:
                slope = torch.zeros_like(slope)
                slope[..., slice(*own)] = known[output][..., slice(*own)]
            if output != entrance:
                # Of the graph this walks only what stands between the two: the unit's layer.
                (slope,) = torch.autograd.grad(
                    caught[output][1], caught[entrance][1], grad_outputs=slope, retain_graph=True
                )
            read[:, k, inside] = slope[:, at]
        found = {}
        for site in values:
            found[site] = torch.zeros(
                len(tokens), len(columns), arch.width(site), dtype=model.dtype, device=model.device
            )
            found[site][:, inside] = caught[site][0].detach()[:, at]
    return PathGradients(read, found)


def _output(receiver: Site | None, arch: Architecture) -> Site:
    """The whole site that holds what a receiver gives; the last residual stream for the logits."""
    if receiver is None:
        return Site(arch.n_layers - 1, Component.resid_post)
    return Site(receiver.layer, receiver.component)


def _entrance(receiver: Site | None, arch: Architecture) -> Site:
    """The site to differentiate by: all that a unit reads, or a part of it that changes it by the same amount."""
    if receiver is None:
        return _output(receiver, arch)
    if receiver.component is Component.mlp_out and not arch.parallel:
        # resid_mid is the sum of the stream and this.
        return Site(receiver.layer, Component.attn_out)
    return Site(receiver.layer, Component.resid_pre)
