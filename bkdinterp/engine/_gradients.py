"""Derivatives of a score with respect to embeddings and activations; one forward and one backward per batch.

Attribution patching, masks and searches over triggers need them. The weights are frozen during the call, no graph is
kept after it, and embeddings need not belong to tokens. Only local, because a server runs no backward pass.

Source: the linear estimates of activation patching (Nanda 2023, attribution patching) and of word swaps (Ebrahimi et al.
2018, HotFlip) start from these derivatives.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bkdinterp.engine import program
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._linear_norms import linear_norms
from bkdinterp.errors import PlanError, PromptError, RemoteError
from bkdinterp.metrics import Score, ScoreLike, as_score
from bkdinterp.model import Architecture, as_model
from bkdinterp.model._attention import cache_name
from bkdinterp.model._running import running
from bkdinterp.prompts import TokenBatch, check_vocabulary
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site
from bkdinterp.values import as_integer, shown

Mixture = tuple[Float[Tensor, " width"], Float[Tensor, " width"]]
"""How much of an activation is kept, and what stands in for the rest."""
if TYPE_CHECKING:
    Mixtures = Mapping[Site, Mixture] | Mapping[str, Mixture] | None
else:
    Mixtures = Any  # checked in the body, with our own messages


@dataclass(frozen=True, eq=False)
class Gradients:
    """Scores of a batch and their derivatives; rows are independent, so each row has the derivatives of its own score.

    Attributes:
        scores: one per row.
        embeddings: derivative with respect to the token embeddings, including target columns; 0 on padding and before ``start``.
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
    start: float | int = 0,
) -> Gradients:
    """Score a batch's targets and differentiate the scores. Costs one forward and one backward pass; with ``start`` a second
    forward, of what stands before it.

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
        start: differentiate by the tokens from this column on only. What stands before it is computed once for all rows that
            share it, and kept out of the graph (not where a sliding window is shorter than the rows); the derivatives are the
            same. Only for embeddings: without ``sites``.

    Raises:
        PlanError: there are no targets, the score needs the unedited run, embeddings or a mixture have the wrong shape, or
            ``start`` is behind the last prompt token or stands beside sites or embeddings.
        PromptError: token ids are outside the vocabulary.
        SiteError: the model does not have a site.
        RemoteError: the model's weights are not on this machine.
    """
    arch, module = local_model(model, "gradients")
    declared = as_score(score)
    wanted = tuple(dict.fromkeys(Site.parse(site) for site in sites))
    mixed = {} if mixed is None else {Site.parse(site): parts for site, parts in mixed.items()}
    _check(arch, tokens, declared, wanted, embeddings, mixed)
    tokens = tokens.to(model.device)
    n = tokens.targets.shape[1] if declared.n_targets is None else declared.n_targets
    columns = tokens.n_prompt + min(n, tokens.targets.shape[1])
    given = None if embeddings is None else embeddings[:, :columns].to(model.device, model.dtype)
    start = as_integer(start, "start", low=0, high=tokens.n_prompt - 1, error=PlanError)
    if start and (wanted or given is not None):
        raise PlanError(
            f"start={start} leaves out the tokens before it; give it without sites= and embeddings=."
        )
    # A cache would forget what the first tokens of a window still see.
    shared = 0 if arch.sliding_window is not None and columns > arch.sliding_window else start
    with running(module), _frozen(module), torch.enable_grad():
        # Norms first: where a site is a norm's output, its hook must see the tensor that the model goes on with.
        known = _start_cache(module, tokens, shared) if shared else {"use_cache": False}
        with linear_norms(module, arch, frozen_norms), _caught(module, arch, wanted, given, mixed) as caught:
            logits = module(
                input_ids=tokens.input_ids[:, shared:columns],
                attention_mask=tokens.attention_mask[:, :columns],
                position_ids=tokens.position_ids[:, shared:columns],
                logits_to_keep=last_columns(columns - shared, columns - tokens.n_prompt + 1),
                **known,
            ).logits
        scores = declared(
            logits[:, :-1],
            tokens.targets[:, : columns - tokens.n_prompt],
            tokens.target_mask[:, tokens.n_prompt : columns],
        )
        at = [caught[site] for site in wanted]
        found = torch.autograd.grad(
            scores.sum(), [caught["embeddings"], *(g for _, g in at)], allow_unused=True
        )
        # Activations that no later token sees, such as the last column, have no path to the scores.
        derivatives = [
            torch.zeros_like(x) if d is None else d
            for d, x in zip(found, [caught["embeddings"], *(g for _, g in at)])
        ]
    slices = [arch.channels(site) for site in wanted]
    values = [_slice(value.detach(), c) for (value, _), c in zip(at, slices, strict=True)]
    return Gradients(
        scores.detach(),
        _whole(derivatives[0][:, start - shared :], tokens, start),
        {site: _whole(value, tokens) for site, value in zip(wanted, values, strict=True)},
        {
            site: _whole(_slice(d, c), tokens)
            for site, d, c in zip(wanted, derivatives[1:], slices, strict=True)
        },
    )


@torch.no_grad()
def _start_cache(module: nn.Module, tokens: TokenBatch, start: int) -> dict[str, Any]:
    """Keys and values of the tokens before a column, as arguments of a forward pass; once for all rows that are alike there."""
    ids, mask = tokens.input_ids[:, :start], tokens.attention_mask[:, :start]
    # Not every device can compare rows.
    alike = torch.cat([ids, mask.to(ids)], 1).cpu().unique(dim=0, return_inverse=True)[1]
    # The first row of each kind.
    rows = torch.stack([(alike == kind).nonzero()[0, 0] for kind in range(int(alike.max()) + 1)])
    out = module(
        input_ids=ids[rows],
        attention_mask=mask[rows],
        position_ids=tokens.position_ids[rows, :start],
        use_cache=True,
        logits_to_keep=last_columns(start, 1),
    )
    return {cache_name(module): program.chosen_cache(program.cache_of(out), alike), "use_cache": True}


def local_model(model: Any, who: str) -> tuple[Architecture, nn.Module]:
    """Architecture and module of a model whose weights are in this process."""
    as_model(model, who)
    if getattr(getattr(model, "executor", None), "remote", False) and not model.nn.dispatched:
        raise RemoteError(
            f"{who}() needs the weights, but this model was loaded for a server; load it again without a remote executor."
        )
    return model.architecture, model.module


def _check(
    arch: Architecture,
    tokens: Any,
    score: Score,
    sites: tuple[Site, ...],
    embeddings: Tensor | None,
    mixed: Mapping[Site, Any],
) -> None:
    if not isinstance(tokens, TokenBatch):
        raise PlanError(
            f"gradients() needs a TokenBatch, e.g. model.builder.tokenize(prompts); got {shown(tokens)}."
        )
    if tokens.targets.shape[1] == 0:
        raise PlanError(
            "gradients() scores targets, but these prompts have none; give Prompts(..., target=...)."
        )
    if score.needs_base:
        raise PlanError(f"Score {score.name!r} compares with the unedited run; gradients() has no other run.")
    check_vocabulary(tokens, arch.d_vocab)
    for site in sites:
        arch.check(site)
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


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Context in which no weight requires a gradient, so that the graph keeps nothing for them."""
    asking = [p for p in module.parameters() if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)


@contextmanager
def _caught(
    module: nn.Module,
    arch: Architecture,
    sites: tuple[Site, ...],
    given: Tensor | None,
    mixed: Mapping[Site, Mixture],
) -> Iterator[dict[Any, Any]]:
    """Context that replaces embeddings and mixtures, and collects per site its value and the tensor to differentiate by."""
    caught: dict[Any, Any] = {}
    handles = []

    def embed(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        caught["embeddings"] = (out if given is None else given).detach().requires_grad_()
        return caught["embeddings"]

    handles.append(module.get_submodule(arch.family.embed).register_forward_hook(embed))
    for site in sites:
        if site.component is Component.resid_mid:
            # Not a module's output but a sum; a change of its second part changes it by the same amount.
            before: dict[str, Tensor] = {}
            pre = Site(site.layer, Component.resid_pre)
            handles.append(_hook(module, arch, pre, lambda x, b=before: b.update(x=x)))
            handles.append(
                _hook(module, arch, site, lambda x, s=site, b=before: caught.update({s: (b["x"] + x, x)}))
            )
        elif site in mixed:

            def mix(x: Tensor, s: Site = site) -> Tensor:
                keep, other = (part.to(x) for part in mixed[s])
                new = keep * x + (1 - keep) * other
                caught[s] = (x, new)
                return new

            handles.append(_hook(module, arch, site, mix))
        else:
            handles.append(_hook(module, arch, site, lambda x, s=site: caught.update({s: (x, x)})))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, arch: Architecture, site: Site, take: Any) -> Any:
    """Register a hook that calls ``take`` with the tensor at a site, and goes on with what it returns, if that is a tensor."""
    place = arch.location(site)
    part = module.get_submodule(place.path)
    if place.io == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = None if args else next(iter(kwargs))
            new = take(args[0] if name is None else kwargs[name])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: new})

        return part.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, args: Any, out: Any) -> Any:
        new = take(out if place.item is None else out[place.item])
        if new is None or place.item is None:
            return new
        return (*out[: place.item], new, *out[place.item + 1 :])

    return part.register_forward_hook(after)


def _slice(x: Tensor, channels: tuple[int, int] | None) -> Tensor:
    return x if channels is None else x[..., slice(*channels)]


def _whole(x: Tensor, tokens: TokenBatch, start: int = 0) -> Tensor:
    """All columns of the batch, with 0 for padding and columns that were not computed."""
    out = x.new_zeros(*tokens.input_ids.shape, x.shape[-1])
    out[:, start : start + x.shape[1]] = x
    return out * tokens.attention_mask[..., None].to(x.dtype)
