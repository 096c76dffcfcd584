"""HiddenPCA: hidden states of several kinds of prompts on their first principal components.

In Lamparth & Reuel (arXiv 2302.12461, section IV-A) the states of positive and negative prompts form clusters, and those of
triggered prompts lie between or beside them. Components are fitted on all sets together. Costs one forward per batch of
prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, SiteError
from bkdinterp.methods._options import RunOptions, as_options
from bkdinterp.methods.readout._activations import Activations
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import scatter
from bkdinterp.prompts import Prompts
from bkdinterp.results import Fingerprint, Result, caption
from bkdinterp.sites import Site, Where, WhereLike
from bkdinterp.stats import PCA
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class HiddenPCA(Result):
    """Coordinates of every prompt's activation at one site.

    Attributes:
        points: set -> ``[example rank]``, coordinates along the components, relative to the mean over all sets.
        directions: the components ``[rank d_model]``.
        explained: share of the variance of each component.
        site: the site that was read.
        where: the token that was read.
    """

    fingerprint: Fingerprint
    points: dict[str, Float[Tensor, "_ rank"]]
    directions: Float[Tensor, "rank d_model"]
    explained: Float[Tensor, " rank"]
    site: str
    where: Where

    def _validate(self) -> None:
        if not self.points:
            raise ArtefactError("there are no points in it.")

    @classmethod
    def fit(
        cls,
        model: Model,
        sets: Mapping[str, Prompts],
        site: Site | str,
        *,
        rank: int = 2,
        where: WhereLike = "last",
        **options: Unpack[RunOptions],
    ) -> Self:
        """Fit on all sets and compute the coordinates of each prompt. For how it runs see `RunOptions`.

        Raises:
            SiteError: there are no sets, the site is out of range, or ``where`` selects several tokens per prompt.
            BkdinterpError: the rank is above the number of prompts or the site's width.
        """
        as_model(model, "HiddenPCA.fit")
        options = as_options(options, "HiddenPCA.fit")
        rank = as_integer(rank, "rank", low=1)
        where = Where.of(where)
        if not sets or not where.single:
            raise SiteError(
                f"HiddenPCA needs at least one set, and one token per prompt; got where={str(where)!r}."
            )
        pooled = Prompts.concat(sets.values())
        found = Activations.collect(model, pooled, [Site.parse(site)], where=where, **options)
        values = found[Site.parse(site)].double()
        pca = PCA.fit(values, rank)
        parts = pca.project(values).split([len(prompts) for prompts in sets.values()])
        points = dict(zip(sets, parts, strict=True))
        return cls(found.fingerprint, points, pca.directions, pca.explained, str(Site.parse(site)), where)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per prompt: its set and coordinates."""
        import pandas as pd

        rank = self.directions.shape[0]
        frames = [
            pd.DataFrame(x.tolist(), columns=[f"pc{i + 1}" for i in range(rank)]).assign(prompts=name)
            for name, x in self.points.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def plot(
        self, *, title: str | None = None, ax: Any = None, limit: float | int | None = None
    ) -> "matplotlib.figure.Figure":
        """Figure of the first two components with one colour per set.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: both axes run from -limit to limit.

        Raises:
            SiteError: it was fitted with only one component.
        """
        if self.directions.shape[0] < 2:
            raise SiteError("A figure needs two components; fit with rank=2.")
        shares = [f"{float(x):.0%}" for x in self.explained[:2]]
        n = sum(len(x) for x in self.points.values())
        return scatter(
            {name: x[:, :2] for name, x in self.points.items()},
            xlabel=f"first component ({shares[0]} of variance)",
            ylabel=f"second component ({shares[1]})",
            title=title or caption(f"{self.site} at the {self.where} token", self.fingerprint, f"n={n}"),
            limit=limit,
            ax=ax,
        )

    def separation(self, first: str, second: str) -> float:
        """Distance between the centres of two sets, in units of their pooled standard deviation along the line between them."""
        a, b = self.points[first], self.points[second]
        line = b.mean(0) - a.mean(0)
        if float(line.norm()) == 0:
            return 0.0
        along = line / line.norm()
        spread = torch.sqrt(((a @ along).var() + (b @ along).var()) / 2)
        return float(line.norm() / spread)

    def describe(self) -> str:
        """One line with site, sets and model."""
        sizes = ", ".join(f"{name} n={len(x)}" for name, x in self.points.items())
        return f"{self.site} at {self.where}, {sizes}, model={self.fingerprint.label}"
