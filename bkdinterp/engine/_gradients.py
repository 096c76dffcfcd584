"""Derivatives of a score with respect to embeddings and activations; one forward and one backward per batch.

Attribution patching, masks and searches over triggers need them. The weights are frozen during the call, no graph is
kept after it, and embeddings need not belong to tokens. Only local, because a server runs no backward pass.

Source: the linear estimates of activation patching (Nanda 2023, attribution patching) and of word swaps (Ebrahimi et al.
2018, HotFlip) start from these derivatives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from bkdinterp.engine._graph_start import KnownStart, start_of
from bkdinterp.engine._scored_graph import Mixture, check_batch, scored_columns, scored_graph, slopes_of
from bkdinterp.errors import PlanError, PromptError, RemoteError
from bkdinterp.metrics import ScoreLike, as_score
from bkdinterp.model import Architecture, as_model
from bkdinterp.model._running import running
from bkdinterp.prompts import TokenBatch
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    Mixtures = Mapping[Site, Mixture] | Mapping[str, Mixture] | None
else:
    Mixtures = Any  # checked in the body, with our own messages


@dataclass(frozen=True, eq=False)
class Gradients:
    """Scores of a batch and their derivatives; rows are independent, so each row has the derivatives of its own score.

    Attributes:
        scores: one per row.
        embeddings: derivative with respect to the token embeddings, including target columns; 0 on padding. With ``start``, here
            and below ``pos`` counts from there.
        values: activation at each requested site, ``[row pos width]``; for a head or neuron, its slice.
        sites: derivative with respect to it, of the same shape.
    """

    __repr__ = short_repr

    scores: Float[Tensor, " row"]
    embeddings: Float[Tensor, "row pos d_model"]
    values: dict[Site, Float[Tensor, "row pos width"]]
    sites: dict[Site, Float[Tensor, "row pos width"]]


def token_embeddings(model: Any, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
    """A model's embeddings of token ids, scaled if its family scales them; no forward pass of the blocks.

    Raises:
        PromptError: an id is outside the vocabulary.
        RemoteError: the model's weights are not on this machine.
    """
    arch, module = local_model(model, "gradients")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < arch.d_vocab:
        raise PromptError(
            f"Token ids must be in 0..{arch.d_vocab - 1}; got {int(ids.min())}..{int(ids.max())}."
        )
    with running(module):
        return module.get_submodule(arch.family.embed)(ids.to(model.device)).clone()


def gradients(
    model: Any,
    tokens: TokenBatch,
    score: ScoreLike = "logprob",
    *,
    sites: Sequence[Site | str] = (),
    embeddings: Float[Tensor, "row pos d_model"] | None = None,
    frozen_norms: bool = False,
    mixed: Mixtures = None,
    start: KnownStart | float | int = 0,
) -> Gradients:
    """Score a batch's targets and differentiate the scores. Costs one forward and one backward pass; with a column as ``start``
    a second forward, of what stands before it.

    All activations of all layers are kept in memory until the backward pass, so give few rows at a time.

    Args:
        model: a ``Model`` with weights on this machine.
        tokens: prompts with targets, from ``model.builder.tokenize(prompts)``.
        score: the score to differentiate; not one that compares with the unedited run.
        sites: activations to differentiate with respect to.
        embeddings: replace the tokens' own (`token_embeddings`); the targets are still those of ``tokens``.
        frozen_norms: take the scales of the residual stream's norms as constants (the LN rule of Ali et al. 2022):
            a large unit's derivative is then not shrunk by the scale that the unit itself makes. Scores do not change.
        mixed: site -> (keep, other), each ``[width]``: at every token the model goes on with ``keep x + (1 - keep) other``
            instead of the activation x. Such a site must be among ``sites``; its value is then x, and its derivative that
            with respect to the mixture.
        start: differentiate by embeddings and activations from this column on only. What stands before it is computed once for
            all rows that share it, and kept out of the graph (not where a sliding window is shorter than the rows); the
            derivatives are the same. `known_start` computes it for several calls.

    Raises:
        PlanError: there are no targets, the score needs the unedited run, embeddings or a mixture have the wrong shape, or
            ``start`` is behind the last prompt token, of another batch or score, or stands beside embeddings or a mixture.
        PromptError: token ids are outside the vocabulary.
        SiteError: the model does not have a site.
        RemoteError: the model's weights are not on this machine.
    """
    arch, module = local_model(model, "gradients")
    declared = as_score(score)
    wanted = tuple(dict.fromkeys(Site.parse(site) for site in sites))
    mixed = {} if mixed is None else {Site.parse(site): parts for site, parts in mixed.items()}
    check_batch(arch, tokens, declared, wanted, "gradients")
    _check(arch, tokens, wanted, embeddings, mixed)
    tokens = tokens.to(model.device)
    columns = scored_columns(tokens, declared)
    given = None if embeddings is None else embeddings[:, :columns].to(model.device, model.dtype)
    if isinstance(start, KnownStart):
        start.check(tokens, columns)
    else:
        start = _start(arch, module, tokens, start, columns)
    if start.column and (mixed or given is not None):
        raise PlanError(
            f"start={start.column} leaves out the tokens before it; give it without embeddings= and mixed=."
        )
    graph = scored_graph(
        module,
        arch,
        tokens,
        declared,
        wanted,
        given=given,
        mixed=mixed,
        frozen_norms=frozen_norms,
        start=start,
    )
    with graph as (scores, caught):
        at = [caught[site] for site in wanted]
        derivatives = slopes_of(scores, [caught["embeddings"], *(by for _, by in at)])
    slices = [arch.channels(site) for site in wanted]
    values = [_slice(value.detach(), c) for (value, _), c in zip(at, slices, strict=True)]
    return Gradients(
        scores.detach(),
        _whole(derivatives[0], tokens, start),
        {site: _whole(value, tokens, start) for site, value in zip(wanted, values, strict=True)},
        {
            site: _whole(_slice(d, c), tokens, start)
            for site, d, c in zip(wanted, derivatives[1:], slices, strict=True)
        },
    )


def known_start(
    model: Any, tokens: TokenBatch, column: float | int, score: ScoreLike = "logprob"
) -> KnownStart:
    """What stands before a column of a batch, for `gradients` of this batch and score. Costs one forward of it.

    Raises:
        PlanError: the column is behind the last prompt token.
        PromptError: token ids are outside the vocabulary.
        RemoteError: the model's weights are not on this machine.
    """
    arch, module = local_model(model, "known_start")
    declared = as_score(score)
    check_batch(arch, tokens, declared, (), "known_start")
    tokens = tokens.to(model.device)
    return _start(arch, module, tokens, column, scored_columns(tokens, declared))


def local_model(model: Any, who: str) -> tuple[Architecture, nn.Module]:
    """Architecture and module of a model whose weights are in this process."""
    as_model(model, who)
    if getattr(getattr(model, "executor", None), "remote", False) and not model.nn.dispatched:
        raise RemoteError(
            f"{who}() needs the weights, but this model was loaded for a server; load it again without a remote executor."
        )
    return model.architecture, model.module


def _start(
    arch: Architecture, module: nn.Module, tokens: TokenBatch, column: float | int, columns: int
) -> KnownStart:
    column = as_integer(column, "start", low=0, high=tokens.n_prompt - 1, error=PlanError)
    return start_of(module, arch, tokens, column, columns)


def _check(
    arch: Architecture,
    tokens: TokenBatch,
    sites: tuple[Site, ...],
    embeddings: Tensor | None,
    mixed: Mapping[Site, Any],
) -> None:
    shape = (*tokens.input_ids.shape, arch.d_model)
    if embeddings is not None and tuple(embeddings.shape) != shape:
        raise PlanError(f"embeddings have shape {list(embeddings.shape)}; the batch needs {list(shape)}.")
    for site, parts in mixed.items():
        if site not in sites or site.component is Component.resid_mid or arch.channels(site) is not None:
            raise PlanError(
                f"mixed={site}: it must be among sites=, a module's whole activation, not resid_mid."
            )
        pair = (
            isinstance(parts, tuple | list) and len(parts) == 2 and all(isinstance(p, Tensor) for p in parts)
        )
        if not pair or any(tuple(part.shape) != (arch.width(site),) for part in parts):
            raise PlanError(f"The mixture at {site} needs two tensors [{arch.width(site)}].")


def _slice(x: Tensor, channels: tuple[int, int] | None) -> Tensor:
    return x if channels is None else x[..., slice(*channels)]


def _whole(x: Tensor, tokens: TokenBatch, start: KnownStart) -> Tensor:
    """All columns of the batch from a start on, with 0 for padding and columns that were not computed."""
    mask = tokens.attention_mask[:, start.column :, None]
    out = x.new_zeros(len(tokens), mask.shape[1], x.shape[-1])
    own = x[:, start.column - start.known :]
    out[:, : own.shape[1]] = own
    return out * mask.to(x.dtype)
