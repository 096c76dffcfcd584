"""Logit lens: final norm and unembedding applied to a residual stream, a module's output, or a head's output.

    lens(x) = unembed(final_norm(x))

(Lamparth & Reuel, arXiv 2302.12461, Table II.) On the last layer's ``resid_post`` it gives the model's logits. A module's
output is read by itself, without the residual stream that it is added to. Costs one forward per batch of prompts, and one
unembedding per site and prompt.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import SiteError
from bkdinterp.interventions import Intervention, Read, Sites, Stack, as_sites
from bkdinterp.methods._guards import check_origin
from bkdinterp.methods._options import BATCH_BYTES, RunOptions, as_options, run
from bkdinterp.methods.readout._lens_readings import LensReadings as LensReadings
from bkdinterp.model import Model, as_model
from bkdinterp.model._running import running
from bkdinterp.prompts import Prompts, as_prompts
from bkdinterp.sites import Component, Site, Where, WhereLike
from bkdinterp.values import as_integer, as_integers, as_text, shown


def logit_lens(
    model: Model,
    prompts: Prompts,
    sites: Sites | None = None,
    *,
    k: int = 10,
    vocabularies: Mapping[str, Int[Tensor, " token"]] | None = None,
    where: WhereLike = "last",
    under: Intervention | None = None,
    **options: Unpack[RunOptions],
) -> LensReadings:
    """Read sites through the unembedding.

    Args:
        model: a local model.
        prompts: prompts to run; with targets and ``where="last"``, probability and rank of the first target token are kept.
        sites: residual streams (``"L2.resid_post"``), modules (``"L1.mlp_out"``, ``"L1.attn_out"``) and heads (``"L1H3"``,
            the head's own part of the attention's output, without the projection's bias). None reads the residual stream
            after every layer.
        k: number of tokens to keep.
        vocabularies: name -> token ids, to compute shares of.
        where: the token to read, one per prompt.
        under: an intervention to read under.
        **options: how it runs; see `RunOptions`.

    Raises:
        SiteError: no sites, a site that is not in the space of the residual stream, or several tokens per prompt.
    """
    as_model(model, "logit_lens")
    options = as_options(options, "logit_lens")
    as_prompts(prompts, "logit_lens")
    k = as_integer(k, "k", error=SiteError)
    check_origin(model, under, "logit_lens")
    shares = _vocabularies(vocabularies, model.architecture.d_vocab)
    if sites is None:
        sites = [Site(layer, Component.resid_post) for layer in range(model.architecture.n_layers)]
    where, chosen = Where.of(where), as_sites(sites)
    if not chosen:
        raise SiteError("logit_lens needs at least one site.")
    if not where.single:
        raise SiteError(f"logit_lens reads one token per prompt, e.g. where='last'; got {str(where)!r}.")
    if not 1 <= k <= model.architecture.d_vocab:
        raise SiteError(f"k={k} must be in 1..{model.architecture.d_vocab}, the size of the vocabulary.")
    reads = tuple(_read(model, site, where) for site in chosen)
    (result,) = run(model, [Run(prompts, Stack() if under is None else under, reads=reads)], options)
    targets = first_targets(model, prompts, where)
    budget = options.get("budget") or BATCH_BYTES
    found = [top_tokens(model, value, k, targets, budget) for value in result.reads]
    top_ids = torch.stack([top.ids for top in found])
    sums = [top.log_sum for top in found]
    of_target = [] if targets is None else [top.of_target for top in found]
    ranks = [] if targets is None else [top.rank for top in found]
    known = set(top_ids.flatten().tolist()) | set([] if targets is None else targets.tolist())
    return LensReadings(
        model.fingerprint(prompts.fingerprint),
        top_ids,
        torch.stack([top.logits for top in found]),
        tuple(map(str, chosen)),
        shares,
        where,
        logsum=torch.stack(sums),
        tokens={str(i): model.tokenizer.decode([i]) for i in sorted(known)},
        target_ids=targets,
        target_logits=torch.stack(of_target) if of_target else None,
        target_ranks=torch.stack(ranks) if ranks else None,
    )


class TargetTop(NamedTuple):
    """The most likely tokens of each row, and logit and rank of the target's first token (NaN and 0 without one)."""

    ids: Int[Tensor, "row rank"]
    logits: Float[Tensor, "row rank"]
    log_sum: Float[Tensor, " row"]
    of_target: Float[Tensor, " row"]
    rank: Int[Tensor, " row"]


def top_tokens(
    model: Model,
    x: Float[Tensor, "row d_model"],
    k: int,
    targets: Int[Tensor, " row"] | None,
    budget: float | int,
) -> TargetTop:
    """Unembed as many rows at once as the budget allows."""
    # Logits, and the temporaries of topk, a soft-cap and the sum in float64.
    rows = max(1, int(budget // (5 * model.architecture.d_vocab * model.dtype.itemsize)))
    parts = []
    for start in range(0, len(x), rows):
        whole = unembed(model, x[start : start + rows]).cpu()
        top = whole.topk(k, dim=-1)
        own, rank = whole.new_full((len(whole),), float("nan")), torch.zeros(len(whole), dtype=torch.long)
        if targets is not None:
            own = whole.gather(-1, targets[start : start + rows, None])[:, 0]
            rank = (whole > own[:, None]).sum(-1) + 1
        log_sum = whole.double().logsumexp(-1).to(whole.dtype)
        parts.append(TargetTop(top.indices, top.values, log_sum, own, rank))
    return TargetTop(*(torch.cat(column) for column in zip(*parts, strict=True)))


def first_targets(model: Model, prompts: Prompts, where: Where) -> Int[Tensor, " example"] | None:
    """First token of each prompt's target, if it directly follows the token that is read."""
    if prompts.target is None or where.prompt not in ("last", (-1,)):
        return None
    pairs = zip(prompts.text, prompts.target, strict=True)
    return torch.tensor([model.builder.target_ids(text, target)[0] for text, target in pairs])


def _vocabularies(given: Any, d_vocab: int) -> dict[str, Int[Tensor, " token"]]:
    """Name -> token ids, from any collection of integers."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SiteError(f"vocabularies={shown(given)} must map names to token ids.")
    found = {}
    for name, ids in given.items():
        as_text(name, "a name in vocabularies", error=SiteError)
        whole = list(as_integers(ids, f"vocabularies[{name!r}]", error=SiteError))
        if wrong := [i for i in whole if not 0 <= i < d_vocab]:
            raise SiteError(f"vocabularies[{name!r}] holds {wrong[0]}; token ids are 0 to {d_vocab - 1}.")
        found[name] = torch.tensor(whole, dtype=torch.long)
    return found


def unembed(model: Model, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """Apply the model's final norm, unembedding and soft-cap (if it has one) to ``x``; no forward of the model."""
    as_model(model, "unembed")
    width = model.architecture.d_model
    if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[-1] != width or not x.is_floating_point():
        got = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else shown(x)
        raise SiteError(f"unembed takes a tensor of floats [row d_model], d_model={width}; got {got}.")
    module: Any = model.module
    norm = module.get_submodule(model.architecture.family.final_norm)
    with running(module):
        logits = module.get_output_embeddings()(norm(x.to(model.device, model.dtype)))
    config = module.config.get_text_config() if hasattr(module.config, "get_text_config") else module.config
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _read(model: Model, site: Site, where: Where) -> Read:
    if site.component in (Component.attn_in, Component.mlp_in, Component.mlp_act):
        raise SiteError(
            f"{site} is not in the space of the residual stream; read resid_post, or what a module adds to it."
        )
    model.architecture.check(site)
    if site.component is Component.z:
        heads = range(model.architecture.n_heads) if site.head is None else (site.head,)
        return Read(Site(site.layer, Component.attn_proj), where, heads=tuple(heads))
    return Read(site, where)
