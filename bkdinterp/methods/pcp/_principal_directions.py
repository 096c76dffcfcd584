"""PCP ablation: replace a module by a low-rank map along its own principal directions (Lamparth & Reuel, Eq. 1).

    A = sum_i factor_i e_i e_i^T,   h -> A h        e_i: leading principal directions of the module's outputs

h is the module's input after its norm. The mean is not added back, and an attention module replaced in this way does not mix
tokens (arXiv 2302.12461, Eq. 1). The factors, of either sign, are the only parameters: tune them with `tune_grid` or
`tune_tpe`, change them to edit the model, export them with `export_weights`. Fitting costs one forward per batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, PlanError, SiteError
from bkdinterp.interventions import PCPReplace, Sites, Stack, as_sites
from bkdinterp.methods._guards import as_prompt_sets
from bkdinterp.methods._options import RunOptions, as_options
from bkdinterp.methods.readout._activations import Activations
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import curves, ends
from bkdinterp.prompts import Prompts
from bkdinterp.results import Fingerprint, Result, caption, same_length
from bkdinterp.sites import Component, Site, Where, WhereLike
from bkdinterp.stats import PCA, released_directions
from bkdinterp.values import as_integer, shown

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Directions = Literal["pc", "released"]
Row = Sequence[float | int] | Float[Tensor, " factor"]
Factors = float | int | Row | Mapping[str, Row]


@dataclass(frozen=True, eq=False, repr=False)
class PCP(Result):
    """Principal directions of the outputs of one or several modules.

    They belong to the model that they were fitted on: every run, `apply` and `export_weights` refuse another model, unless
    `on_any_model` allows it.

    Attributes:
        directions: site -> ``[rank d_model]``, in order of decreasing variance.
        explained: site -> share of the outputs' variance along each principal component.
        n: number of prompts that they were fitted on.
        where: the tokens at which the outputs were read.
        kind: ``"pc"`` for orthonormal components; ``"released"`` for the released code's vectors, which are not orthonormal.
    """

    row_name: ClassVar[tuple[str, ...]] = ("site", "direction")

    fingerprint: Fingerprint
    directions: dict[str, Float[Tensor, "_ d_model"]]
    explained: dict[str, Float[Tensor, " _"]]
    n: int
    where: Where
    kind: str

    def _validate(self) -> None:
        same_length(directions=len(self.directions), explained=len(self.explained))
        for site, directions in self.directions.items():
            Site.parse(site)
            if site not in self.explained:
                raise ArtefactError(f"{site} has directions, but no share of variance.")
            same_length(directions=len(directions), explained=len(self.explained[site]))

    @classmethod
    def fit(
        cls,
        model: Model,
        prompts: Prompts | Sequence[Prompts] | Mapping[str, Prompts],
        sites: Sites,
        *,
        rank: int,
        where: WhereLike = "last",
        directions: Directions | str = "pc",
        **options: Unpack[RunOptions],
    ) -> Self:
        """Fit on the modules' outputs.

        Args:
            model: the suspect model.
            prompts: one set, or several to pool, with inputs of every kind, including triggered ones.
            sites: ``mlp_out`` or ``attn_out`` sites, e.g. ``"L0.mlp_out L2.mlp_out"``.
            rank: number of directions per site.
            where: the tokens to read at.
            directions: ``"released"`` repeats the released code's fault, only for comparison (docs/papers.md, Deviations).
            **options: how it runs; see `RunOptions`.

        Raises:
            SiteError: there are no sites, a site has another component, or ``directions`` is unknown.
            PlanError: ``prompts`` are not prompts.
            BkdinterpError: the rank is above the number of examples or d_model.
        """
        as_model(model, "PCP.fit")
        options = as_options(options, "PCP.fit")
        rank = as_integer(rank, "rank", low=1)
        if directions not in ("pc", "released"):
            raise SiteError(f"Unknown directions {directions!r}; choose 'pc' or 'released'.")
        chosen = as_sites(sites)
        for site in chosen:
            if site.component not in (Component.mlp_out, Component.attn_out):
                raise SiteError(f"PCP replaces mlp_out or attn_out, not {site}.")
        pooled = Prompts.concat(as_prompt_sets(prompts, "PCP.fit"))
        found = Activations.collect(model, pooled, chosen, where=where, **options)
        fitted = {str(site): PCA.fit(flat_rows(found[site]), rank) for site in chosen}
        return cls(
            fingerprint=found.fingerprint,
            directions={
                name: pca.directions if directions == "pc" else released_directions(pca)
                for name, pca in fitted.items()
            },
            explained={name: pca.explained for name, pca in fitted.items()},
            n=len(pooled),
            where=Where.of(where),
            kind=directions,
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that are replaced."""
        return tuple(Site.parse(name) for name in self.directions)

    @property
    def names(self) -> tuple[str, ...]:
        """One name per factor, in the order used by `factors`, e.g. ``"L0.mlp_out 1"``."""
        return tuple(f"{site} {i + 1}" for site, e in self.directions.items() for i in range(len(e)))

    def factors(self, factors: Factors = 1.0) -> dict[str, Float[Tensor, " rank"]]:
        """Site -> its scaling factors; give one number for all, one per factor in the order of `names`, or a mapping.

        Raises:
            SiteError: the number of factors is wrong, a factor is not finite, or a site was not fitted.
        """
        ranks = {site: len(e) for site, e in self.directions.items()}
        if isinstance(factors, Mapping):
            given = {str(Site.parse(site)): _numbers(v) for site, v in factors.items()}
            if set(given) != set(ranks):
                raise SiteError(f"Factors for {', '.join(given)}, but PCP was fitted on {', '.join(ranks)}.")
        else:
            flat = _numbers(factors)
            flat = flat.expand(sum(ranks.values())) if flat.ndim == 0 else flat
            if flat.shape != (sum(ranks.values()),):
                raise SiteError(f"{len(flat)} factors for {sum(ranks.values())}: {', '.join(self.names)}.")
            given = dict(zip(ranks, flat.split(list(ranks.values())), strict=True))
        for site, rank in ranks.items():
            if given[site].shape != (rank,):
                raise SiteError(f"{site} takes {rank} factors; got shape {tuple(given[site].shape)}.")
            if not bool(given[site].isfinite().all()):
                raise SiteError(f"{site}: factors {given[site].tolist()} must be finite.")
        return {site: given[site] for site in ranks}

    def replace(self, factors: Factors = 1.0) -> PCPReplace | Stack:
        """The intervention with these factors, at every token; a Stack if several modules are replaced.

        Raises:
            SiteError: as `factors`.
        """
        parts = tuple(
            PCPReplace(site, self.directions[site], values, fitted_on=self.fingerprint.model)
            for site, values in self.factors(factors).items()
        )
        return parts[0] if len(parts) == 1 else Stack(parts)

    def matrix(self, site: Site | str, factors: Factors = 1.0) -> Float[Tensor, "d_model d_model"]:
        """``A`` of one module: symmetric; with ``kind="pc"`` of rank ``rank`` and ``A e_i = factor_i e_i``.

        Raises:
            SiteError: the site was not fitted, or as `factors`.
        """
        name = str(Site.parse(site))
        if name not in self.directions:
            raise SiteError(f"{name} was not fitted; there are {', '.join(self.directions)}.")
        e = self.directions[name]
        return e.T @ (self.factors(factors)[name][:, None] * e)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per direction: site, number, share of variance explained."""
        import pandas as pd

        rows = [
            {"site": site, "direction": i + 1, "explained": float(share)}
            for site, shares in self.explained.items()
            for i, share in enumerate(shares)
        ]
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Curve of the share of the outputs' variance against the number of directions; without intervals.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        longest = max(len(x) for x in self.explained.values())
        series = {site: _line(x.cumsum(0)) for site, x in self.explained.items()}
        return curves(
            range(1, longest + 1),
            series,
            xlabel="number of principal directions",
            ylabel="share of variance explained",
            title=title or caption("Principal directions of module outputs", self.fingerprint, f"n={self.n}"),
            ylim=ends(limit) or (0, 1),
            ax=ax,
        )

    def describe(self) -> str:
        """One line with sites, ranks, share of variance, n and model."""
        parts = ", ".join(
            f"{site} rank {len(x)} ({float(x.sum()):.0%} of variance)" for site, x in self.explained.items()
        )
        return f"{parts}, directions={self.kind}, n={self.n}, model={self.fingerprint.label}"


def _line(x: Tensor) -> tuple[Tensor, None, None]:
    """A curve without an interval."""
    return x, None, None


def flat_rows(x: Tensor) -> Float[Tensor, "example d_model"]:
    """The activation of every selected token; NaN rows, beyond a prompt's own tokens, are left out."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[~rows.isnan().all(dim=1)]


def as_pcp(value: Any, who: str) -> PCP:
    """The fitted directions, checked.

    Raises:
        PlanError: the value is not a PCP.
    """
    if not isinstance(value, PCP):
        raise PlanError(f"{who} takes a PCP, made by PCP.fit; got {shown(value)} ({type(value).__name__}).")
    return value


def _numbers(factors: Any) -> Float[Tensor, "*factor"]:
    """One or several numbers as a tensor.

    Raises:
        SiteError: the value is not a number or a list of numbers.
    """
    try:
        return torch.as_tensor(factors, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise SiteError(f"factors={shown(factors)} must be a number, or a list of numbers.") from None
