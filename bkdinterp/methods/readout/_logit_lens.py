"""Logit lens: what the final norm and the unembedding read out of a residual stream, one module, or one head.

    lens(x) = unembed(final_norm(x))

(Lamparth & Reuel, arXiv 2302.12461, Table II; papers.md 6.5.) On the last layer's ``resid_post`` these are the model's
logits. A module's output is read alone, without the residual it is added to. Cost: one forward per batch of prompts,
and one unembedding per site and prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import Run, execute
from bkdinterp.errors import ArtefactError, PlanError, SiteError
from bkdinterp.interventions import Intervention, Read, Sites, Stack, as_sites
from bkdinterp.methods._guards import check_origin
from bkdinterp.model import Model, as_model
from bkdinterp.model._running import running
from bkdinterp.plotting import bar_intervals
from bkdinterp.prompts import Prompts, as_prompts
from bkdinterp.results import Fingerprint, Result, caption, same_length
from bkdinterp.sites import Component, Site, Where, WhereLike
from bkdinterp.stats import Interval, bootstrap_mean
from bkdinterp.values import as_integer, as_integers, as_text, shown

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class LensReadings(Result):
    """The most likely tokens of every site and prompt.

    Attributes:
        top_ids: ``[site example rank]``, the largest logit first.
        top_logits: their logits.
        sites: what was read, e.g. ``"L0.mlp_out"`` or ``"L1H3"``.
        vocabularies: name -> token ids, for shares.
        where: the token that was read.
    """

    fingerprint: Fingerprint
    top_ids: Int[Tensor, "site example rank"]
    top_logits: Float[Tensor, "site example rank"]
    sites: tuple[str, ...]
    vocabularies: dict[str, Int[Tensor, " _"]]
    where: Where

    def _validate(self) -> None:
        same_length(sites=len(self.sites), top_ids=len(self.top_ids))
        for site in self.sites:
            Site.parse(site)
        if 0 in self.top_ids.shape:
            raise ArtefactError("there are no tokens in it.")

    def share(self, vocabulary: str | Int[Tensor, " token"]) -> Float[Tensor, "site example"]:
        """Share of the top tokens that are in a vocabulary, by name or by token ids.

        Raises:
            PlanError: a name that was not given to `logit_lens`.
        """
        if isinstance(vocabulary, str):
            if vocabulary not in self.vocabularies:
                raise PlanError(
                    f"No vocabulary {vocabulary!r}; there is {', '.join(self.vocabularies) or 'none'}."
                )
            vocabulary = self.vocabularies[vocabulary]
        return torch.isin(self.top_ids, vocabulary).double().mean(-1)

    def interval(self, site: Site | str, vocabulary: str, *, seed: int = 0) -> Interval:
        """Mean share of one site with its bootstrap interval over prompts.

        Raises:
            SiteError: a site that was not read.
        """
        name = str(Site.parse(site))
        if name not in self.sites:
            raise SiteError(f"{name} was not read; there are {', '.join(self.sites)}.")
        return bootstrap_mean(self.share(vocabulary)[self.sites.index(name)], seed=seed)

    def words(self, tokenizer: Any, example: int, *, k: int = 5) -> dict[str, list[str]]:
        """Site -> its ``k`` most likely tokens on one prompt, as text."""
        return {
            site: [tokenizer.decode([i]) for i in ids[example, :k].tolist()]
            for site, ids in zip(self.sites, self.top_ids, strict=True)
        }

    def to_frame(self) -> "pandas.DataFrame":
        """One row per site and vocabulary: mean share, interval, n; without vocabularies the top logit's mean."""
        import pandas as pd

        if not self.vocabularies:
            means = self.top_logits[..., 0].double().mean(1).tolist()
            n = self.top_ids.shape[1]
            return pd.DataFrame({"site": self.sites, "top_logit": means, "n": n})
        rows = []
        for site in self.sites:
            for name in self.vocabularies:
                i = self.interval(site, name)
                rows.append(
                    {
                        "site": site,
                        "vocabulary": name,
                        "share": i.estimate,
                        "low": i.low,
                        "high": i.high,
                        "n": i.n,
                    }
                )
        return pd.DataFrame(rows)

    def plot(
        self, vocabulary: str | None = None, *, title: str | None = None, ax: Any = None
    ) -> "matplotlib.figure.Figure":
        """Share of one vocabulary (default: the first) at every site.

        Args:
            vocabulary: which one.
            title: instead of the default.
            ax: matplotlib axes to draw into; None makes a figure.

        Raises:
            PlanError: no vocabulary was given.
        """
        if not self.vocabularies:
            raise PlanError("Give logit_lens(vocabularies=...) to plot shares.")
        name = vocabulary or next(iter(self.vocabularies))
        found = [self.interval(site, name) for site in self.sites]
        k, n = self.top_ids.shape[2], self.top_ids.shape[1]
        return bar_intervals(
            self.sites,
            [i.estimate for i in found],
            [i.low for i in found],
            [i.high for i in found],
            xlabel=f"share of {name} among the top {k} tokens",
            title=title or caption("Logit lens", self.fingerprint, f"n={n}"),
            xlim=(0, 1),
            ax=ax,
        )

    def describe(self) -> str:
        """Sites, k, n and model."""
        _, n, k = self.top_ids.shape
        return f"{len(self.sites)} sites, top {k}, n={n}, model={self.fingerprint.label}"


def logit_lens(
    model: Model,
    prompts: Prompts,
    sites: Sites,
    *,
    k: int = 10,
    vocabularies: Mapping[str, Int[Tensor, " token"]] | None = None,
    where: WhereLike = "last",
    under: Intervention | None = None,
    folder: str | Path | None = None,
) -> LensReadings:
    """Read sites through the unembedding.

    Args:
        model: a local model.
        prompts: what to run.
        sites: residual streams (``"L2.resid_post"``), modules (``"L1.mlp_out"``, ``"L1.attn_out"``), heads (``"L1H3"``: the
            head's own share of the attention's output, without the projection's bias).
        k: how many tokens to keep.
        vocabularies: name -> token ids whose share is wanted.
        where: one token per prompt.
        under: read while this intervention acts.
        folder: finished work is kept there and taken up again; one folder serves many calls.

    Raises:
        SiteError: no site, one that does not live in the residual stream's space, or several tokens a prompt.
    """
    as_model(model, "logit_lens")
    as_prompts(prompts, "logit_lens")
    k = as_integer(k, "k", error=SiteError)
    check_origin(model, under, "logit_lens")
    shares = _vocabularies(vocabularies, model.architecture.d_vocab)
    where, chosen = Where.of(where), as_sites(sites)
    if not chosen:
        raise SiteError("logit_lens needs at least one site.")
    if not where.single:
        raise SiteError(f"logit_lens reads one token per prompt, e.g. where='last'; got {str(where)!r}.")
    if not 1 <= k <= model.architecture.d_vocab:
        raise SiteError(f"k={k} must lie in 1..{model.architecture.d_vocab}, the vocabulary's size.")
    reads = tuple(_read(model, site, where) for site in chosen)
    (result,) = execute(
        model, [Run(prompts, Stack() if under is None else under, reads=reads)], folder=folder
    )
    ids, logits = [], []
    for value in result.reads:
        top = unembed(model, value).topk(k, dim=-1)
        ids.append(top.indices.cpu())
        logits.append(top.values.cpu())
    return LensReadings(
        model.fingerprint(prompts.fingerprint),
        torch.stack(ids),
        torch.stack(logits),
        tuple(map(str, chosen)),
        shares,
        where,
    )


def _vocabularies(given: Any, d_vocab: int) -> dict[str, Int[Tensor, " token"]]:
    """Name -> token ids, of anything that holds integers."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SiteError(f"vocabularies={shown(given)} must map names to token ids.")
    found = {}
    for name, ids in given.items():
        as_text(name, "a name in vocabularies", error=SiteError)
        whole = list(as_integers(ids, f"vocabularies[{name!r}]", error=SiteError))
        if wrong := [i for i in whole if not 0 <= i < d_vocab]:
            raise SiteError(f"vocabularies[{name!r}] holds {wrong[0]}; token ids go from 0 to {d_vocab - 1}.")
        found[name] = torch.tensor(whole, dtype=torch.long)
    return found


def unembed(model: Model, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """``x`` through the model's final norm, unembedding and soft-cap, where it has one; no forward of the model."""
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
            f"{site} is no part of the residual stream; read what a module adds to it, or resid_post."
        )
    model.architecture.check(site)
    if site.component is Component.z:
        heads = range(model.architecture.n_heads) if site.head is None else (site.head,)
        return Read(Site(site.layer, Component.attn_proj), where, heads=tuple(heads))
    return Read(site, where)
