"""LensReadings: results of the logit lens: top tokens, shares of vocabularies, and the target. No forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.errors import ArtefactError, PlanError, SiteError
from bkdinterp.results import Fingerprint, Result, same_length
from bkdinterp.sites import Site, Where
from bkdinterp.stats import Interval, bootstrap_mean, median_interval
from bkdinterp.values import as_choice, as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

KINDS = ("share", "target", "tokens")


@dataclass(frozen=True, eq=False, repr=False)
class LensReadings(Result):
    """The most likely tokens of every site and prompt, and how likely the target's first token is.

    Attributes:
        top_ids: token ids ``[site example rank]``, largest logit first.
        top_logits: their logits.
        sites: the sites that were read, e.g. ``"L0.mlp_out"`` or ``"L1H3"``.
        vocabularies: name -> token ids, for shares.
        where: the token that was read.
        logsum: log of the sum of exp over all logits ``[site example]``, for converting logits to probabilities.
        tokens: token id -> its text, for all top tokens and targets.
        target_ids: first token of each prompt's target; None if the prompts have no targets, or if the token read is not the
            last one, so that no target follows it.
        target_logits: its logit ``[site example]``.
        target_ranks: its rank among all tokens, 1 for the most likely.
    """

    schema_version: ClassVar[int] = 2

    fingerprint: Fingerprint
    top_ids: Int[Tensor, "site example rank"]
    top_logits: Float[Tensor, "site example rank"]
    sites: tuple[str, ...]
    vocabularies: dict[str, Int[Tensor, " _"]]
    where: Where
    logsum: Float[Tensor, "site example"]
    tokens: dict[str, str]
    target_ids: Int[Tensor, " example"] | None = None
    target_logits: Float[Tensor, "site example"] | None = None
    target_ranks: Int[Tensor, "site example"] | None = None

    def _validate(self) -> None:
        same_length(sites=len(self.sites), top_ids=len(self.top_ids))
        if len({self.target_ids is None, self.target_logits is None, self.target_ranks is None}) != 1:
            raise ArtefactError("of the targets' ids, logits and ranks, some are missing.")
        known = (
            self.top_ids if self.target_ids is None else torch.cat([self.top_ids.flatten(), self.target_ids])
        )
        if missing := sorted(set(known.flatten().tolist()) - {int(i) for i in self.tokens if i.isdecimal()}):
            raise ArtefactError(f"token {missing[0]} has no text.")
        for site in self.sites:
            Site.parse(site)
        if 0 in self.top_ids.shape:
            raise ArtefactError("there are no tokens in it.")

    @property
    def probabilities(self) -> Float[Tensor, "site example rank"]:
        """Probabilities of the top tokens."""
        return (self.top_logits.double() - self.logsum.double()[..., None]).exp()

    @property
    def target_probabilities(self) -> Float[Tensor, "site example"]:
        """Probability of the first token of each prompt's target.

        Raises:
            PlanError: the prompts have no targets, or the token read is not the last one.
        """
        if self.target_logits is None:
            raise PlanError(
                "These readings have no targets; give logit_lens prompts with targets, and where='last'."
            )
        return (self.target_logits.double() - self.logsum.double()).exp()

    def share(self, vocabulary: str | Int[Tensor, " token"]) -> Float[Tensor, "site example"]:
        """Share of the top tokens that are in a vocabulary, given by name or as token ids.

        Raises:
            PlanError: no vocabulary with this name was given to `logit_lens`.
        """
        if isinstance(vocabulary, str):
            if vocabulary not in self.vocabularies:
                raise PlanError(
                    f"No vocabulary {vocabulary!r}; there is {', '.join(self.vocabularies) or 'none'}."
                )
            vocabulary = self.vocabularies[vocabulary]
        return torch.isin(self.top_ids, vocabulary).double().mean(-1)

    def interval(self, site: Site | str, vocabulary: str, *, seed: int = 0) -> Interval:
        """Mean share at one site with its bootstrap interval over prompts.

        Raises:
            SiteError: the site was not read.
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
        """One row per site and vocabulary: mean share, interval, n; without vocabularies, per site the mean of the top logit.

        For prompts with targets it also has the mean probability and the median rank of the target's first token, each with
        its interval over prompts (`bkdinterp.stats.bootstrap_mean` within 0 to 1, and ``median_interval``).
        """
        import pandas as pd

        n = self.top_ids.shape[1]
        names: list[str | None] = list(self.vocabularies) or [None]
        means = self.top_logits[..., 0].double().mean(1).tolist()
        rows = []
        for k, site in enumerate(self.sites):
            for name in names:
                row: dict[str, Any] = {"site": site}
                if name is None:
                    row["top_logit"] = means[k]
                else:
                    i = self.interval(site, name)
                    row |= {"vocabulary": name, "share": i.estimate, "low": i.low, "high": i.high}
                row["n"] = n
                if self.target_ranks is not None:
                    p, r = (
                        bootstrap_mean(self.target_probabilities[k]),
                        median_interval(self.target_ranks[k].double()),
                    )
                    row |= {"target_probability": p.estimate, "target_probability_low": max(0.0, p.low)}
                    row |= {"target_probability_high": min(1.0, p.high)}
                    row |= {"target_rank": r.estimate, "target_rank_low": r.low, "target_rank_high": r.high}
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(
        self,
        vocabulary: str | None = None,
        *,
        kind: str | None = None,
        example: int = 0,
        ranks: int = 6,
        title: str | None = None,
        ax: Any = None,
        limit: Any = None,
    ) -> "matplotlib.figure.Figure":
        """Figure of each site's share of a vocabulary, of the target's probability and rank, or of one prompt's top tokens.

        Args:
            vocabulary: name of the vocabulary; default: the first.
            kind: ``"share"``, ``"target"`` or ``"tokens"``, a grid. None draws shares if there is a vocabulary, else the
                target if known, else the grid.
            example: the prompt of the grid.
            ranks: number of columns in the grid.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: for bars the ends (low, high) of the value axis; for the grid the upper end of the colour scale.

        Raises:
            PlanError: the figure needs a vocabulary or target, and there is none.
            BkdinterpError: the kind is unknown, or the prompt does not exist.
        """
        from bkdinterp.methods.readout import _lens_figures as figures

        if kind is None:
            told = vocabulary is not None or bool(self.vocabularies)
            kind = "share" if told else "tokens" if self.target_ids is None else "target"
        as_choice(kind, "kind", KINDS)
        if kind == "target":
            return figures.plot_target(self, title, ax, limit)
        if kind == "tokens":
            n, k = self.top_ids.shape[1:]
            example = as_integer(example, "example", low=0, high=n - 1)
            return figures.plot_tokens(
                self, example, min(as_integer(ranks, "ranks", low=1), k), title, ax, limit
            )
        if not self.vocabularies:
            raise PlanError("Give logit_lens(vocabularies=...) to plot shares.")
        return figures.plot_share(self, vocabulary or next(iter(self.vocabularies)), title, ax, limit)

    def describe(self) -> str:
        """One line with sites, k, n and model."""
        _, n, k = self.top_ids.shape
        return f"{len(self.sites)} sites, top {k}, n={n}, model={self.fingerprint.label}"
