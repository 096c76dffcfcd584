"""The graph behind a batch's scores: one forward that keeps its activations, for as long as they are differentiated.

The weights are frozen meanwhile, so the graph holds nothing for them. What is asked for is caught by hooks at its site.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bkdinterp.engine._graph_start import KnownStart
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._linear_norms import linear_norms
from bkdinterp.errors import PlanError
from bkdinterp.metrics import Score
from bkdinterp.model import Architecture
from bkdinterp.model._running import running
from bkdinterp.prompts import TokenBatch, check_vocabulary
from bkdinterp.sites import Component, Site
from bkdinterp.values import shown

Mixture = tuple[Float[Tensor, " width"], Float[Tensor, " width"]]
"""How much of an activation is kept, and what stands in for the rest."""


def check_batch(arch: Architecture, tokens: Any, score: Score, sites: Sequence[Site], who: str) -> None:
    """Raise unless a batch can be scored and its scores differentiated.

    Raises:
        PlanError: no batch, no targets, or a score that needs the unedited run.
        PromptError: token ids are outside the vocabulary.
        SiteError: the model does not have a site.
    """
    if not isinstance(tokens, TokenBatch):
        raise PlanError(
            f"{who}() needs a TokenBatch, e.g. model.builder.tokenize(prompts); got {shown(tokens)}."
        )
    if tokens.targets.shape[1] == 0:
        raise PlanError(
            f"{who}() scores targets, but these prompts have none; give Prompts(..., target=...)."
        )
    if score.needs_base:
        raise PlanError(f"Score {score.name!r} compares with the unedited run; {who}() has no other run.")
    check_vocabulary(tokens, arch.d_vocab)
    for site in sites:
        arch.check(site)


def scored_columns(tokens: TokenBatch, score: Score) -> int:
    """How many columns of a batch a score needs, from the first: the prompt's, and those of the targets that it reads."""
    n = tokens.targets.shape[1]
    return tokens.n_prompt + (n if score.n_targets is None else min(n, score.n_targets))


@contextmanager
def scored_graph(
    module: nn.Module,
    arch: Architecture,
    tokens: TokenBatch,
    score: Score,
    sites: Sequence[Site],
    *,
    given: Float[Tensor, "row pos d_model"] | None = None,
    mixed: Mapping[Site, Mixture] | None = None,
    frozen_norms: bool = False,
    start: KnownStart | None = None,
) -> Iterator[tuple[Float[Tensor, " row"], dict[Any, Any]]]:
    """Context with the scores and, per site, its value and the tensor to differentiate by; ``"embeddings"`` is there, too.

    Gradients are on inside. Costs one forward, with ``start`` only of what stands behind it.

    Args:
        module: the suspect.
        arch: its architecture.
        tokens: prompts with targets, on the module's device.
        score: the score.
        sites: activations to catch, whole ones.
        given: embeddings instead of the tokens' own, of the scored columns.
        mixed, frozen_norms: as in `gradients`.
        start: columns that are known and kept out of the graph.
    """
    columns = scored_columns(tokens, score)
    start = start or KnownStart(0)
    shared = start.known
    with running(module), _frozen(module), torch.enable_grad():
        # Norms first: where a site is a norm's output, its hook must see the tensor that the model goes on with.
        with (
            linear_norms(module, arch, frozen_norms),
            _caught(module, arch, sites, given, mixed or {}) as caught,
        ):
            logits = module(
                input_ids=tokens.input_ids[:, shared:columns],
                attention_mask=start.mask_of(tokens, columns),
                position_ids=tokens.position_ids[:, shared:columns],
                logits_to_keep=last_columns(columns - shared, columns - tokens.n_prompt + 1),
                **start.arguments(module),
            ).logits
        scores = score(
            logits[:, :-1],
            tokens.targets[:, : columns - tokens.n_prompt],
            tokens.target_mask[:, tokens.n_prompt : columns],
        )
        yield scores, caught


def slopes_of(scores: Float[Tensor, " row"], by: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
    """Derivatives of each row's score by tensors of the graph, which stays for others if ``keep``."""
    found = torch.autograd.grad(scores.sum(), by, allow_unused=True, retain_graph=keep)
    # Activations that no later token sees, such as the last column, have no path to the scores.
    return [torch.zeros_like(x) if d is None else d for d, x in zip(found, by, strict=True)]


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
    sites: Sequence[Site],
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
