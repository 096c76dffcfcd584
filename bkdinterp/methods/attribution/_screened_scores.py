"""`ScreenedScores`: estimates of all units, exact effects of the best, and an audit of the rest. No forwards."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError, SiteError
from bkdinterp.methods.attribution._linear_effects import Units
from bkdinterp.methods.attribution._unit_effects import strongest_sign
from bkdinterp.methods.attribution._unit_scores import SiteEffects
from bkdinterp.plotting import scatter
from bkdinterp.results import check_beside, register_value, same_length, within
from bkdinterp.sites import Site
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@register_value
@dataclass(frozen=True)
class ScreenAudit:
    """What a random sample of the units that were not verified says about the k strongest.

    Attributes:
        k: how many are asked for.
        n_verified: units with exact effects, the sample not counted.
        n_rest, n_sampled: the other units, and those of them that were drawn and scored exactly.
        rank_correlation: Spearman's, of estimate and exact effect over the sample; NaN for fewer than three.
        error: largest difference of estimate and exact effect in the sample, in units of the metric.
        margin: what the best estimate among the rest lacks to be one of the k; a unit was missed only if its estimate is wrong
            by more than that.
        above: units of the sample that are among the k.
        missed_at_most: upper end of the exact one-sided 95 % interval of how many of the rest are among the k. It assumes
            nothing about the estimates, so it is large where few are drawn from many.
    """

    k: int
    n_verified: int
    n_rest: int
    n_sampled: int
    rank_correlation: float
    error: float
    margin: float
    above: int
    missed_at_most: int

    def __str__(self) -> str:
        if not self.n_rest:
            return f"The {self.k} strongest are exact: every unit was verified."
        text = (
            f"{self.n_sampled} of the {self.n_rest:,} others, drawn at random, were scored exactly: {self.above} of them are "
            f"among the {self.k} strongest, rank correlation {self.rank_correlation:.2f}, largest error {self.error:.2g}. "
        )
        if self.margin <= 0:
            return text + "Some estimate among the others would be one of them: verify more (keep=)."
        return text + f"A missed unit's estimate would have to be wrong by {self.margin:.2g} or more."


@dataclass(frozen=True, eq=False, repr=False)
class ScreenedScores(SiteEffects):
    """Effects of all units of one kind, flat ``[unit example]``: exact where ``verified``, linear estimates elsewhere.

    ``top_k``, ``significant``, table and repr name verified units only. Intervals and p-values are corrected for all units, the
    estimated ones included, since the verified were chosen among them. The other fields are as in `HeadScores`.

    Attributes:
        kind: ``"heads"``, ``"attentions"``, ``"mlps"`` or ``"neurons"``.
        layers: the layers, ascending; a unit's index counts layer by layer.
        verified: units whose effects are exact.
        estimates: mean over examples of each unit's linear estimate, plain and with the norms' scales frozen.
        sampled: indices of the verified units that were drawn at random to audit the rest.
    """

    unit: ClassVar[str] = "unit"

    effects: Float[Tensor, "unit example"]
    kind: str
    layers: tuple[int, ...]
    verified: Bool[Tensor, " unit"]
    estimates: Float[Tensor, "2 unit"]
    sampled: Int[Tensor, " sample"]

    @property
    def scored(self) -> Bool[Tensor, " unit"]:
        """Units with exact effects."""
        return self.verified

    def audit(self, k: int) -> ScreenAudit:
        """How sure it is that no unit that was not verified belongs to the ``k`` strongest.

        Raises:
            SiteError: ``k`` is outside 1..number of verified units.
        """
        from scipy.stats import beta, spearmanr

        k = as_integer(k, "k", low=1, error=SiteError)
        sign = strongest_sign(self.sense, self.direction)
        exact = sign * self.acie
        last = float(exact[self.order(k)[-1]])
        drawn = self.sampled.tolist()
        chosen = self.verified.clone()
        chosen[self.sampled] = False
        rest = int((~chosen).sum())
        guessed = (sign * self.estimates).amax(0)
        unseen = guessed[~self.verified]
        plain = sign * self.estimates[0, self.sampled]
        above = int((exact[self.sampled] >= last).sum())
        ranks: Any = spearmanr
        varied = len(drawn) >= 3 and len(set(plain.tolist())) > 1
        # Clopper and Pearson's upper end.
        most = float(beta.ppf(0.95, above + 1, len(drawn) - above)) if len(drawn) > above else 1.0
        return ScreenAudit(
            k,
            int(chosen.sum()),
            rest,
            len(drawn),
            float(ranks(plain, exact[self.sampled]).statistic) if varied else float("nan"),
            float((plain - exact[self.sampled]).abs().max()) if drawn else float("nan"),
            last - float(unseen.max()) if len(unseen) else float("inf"),
            above,
            int(most * rest),
        )

    def to_frame(self, *, beside: Any = None) -> "pandas.DataFrame":
        """One row per verified unit, as `Effects.to_frame`, and both estimates and whether the audit drew it.

        Raises:
            BkdinterpError: as `Effects.to_frame`.
        """
        order = self.order()
        drawn = set(self.sampled.tolist())
        return (
            super()
            .to_frame(beside=beside)
            .assign(
                estimate=self.estimates[0, order].tolist(),
                estimate_frozen_norms=self.estimates[1, order].tolist(),
                sampled=[i in drawn for i in order],
            )
        )

    def plot(
        self, *, title: str | None = None, ax: Any = None, limit: float | int | None = None
    ) -> "matplotlib.figure.Figure":
        """Exact effect against estimate of the verified units; those of the audit have a colour of their own.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: both axes run from -limit to limit.
        """
        drawn = torch.zeros_like(self.verified)
        drawn[self.sampled] = True
        points = torch.stack([self.estimates[0], self.acie.to(self.estimates)], 1)
        groups = {
            "screened and verified": points[self.verified & ~drawn],
            "drawn from the others": points[drawn],
        }
        text = f"{self._caption(self.kind[:-1])}; {self.n_scored:,} of {len(self.verified):,} verified"
        figure = scatter(
            {name: rows for name, rows in groups.items() if len(rows)},
            xlabel=f"linear estimate ({self._label})",
            ylabel=f"exact ({self._label})",
            title=title or text,
            limit=limit,
            ax=ax,
        )
        axes = figure.axes[0] if ax is None else ax
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        return figure

    def compare(self, other: Any) -> Self:
        """As `Effects.compare`; only units that both verified count as verified in the difference.

        Raises:
            BkdinterpError: as `Effects.compare`, or other units.
        """
        found = super().compare(other)
        both = self.verified & other.verified
        none = self.sampled[:0]
        return replace(found, verified=both, estimates=self.estimates - other.estimates, sampled=none)

    def _gap(self, beside: Any) -> dict[str, list[float]]:
        for name in ("kind", "layers"):
            check_beside(self, beside, **{name: (getattr(self, name), getattr(beside, name, None))})
        return super()._gap(beside)

    @property
    def _units(self) -> Units:
        return Units(self.kind, self.layers, len(self.verified) // len(self.layers))

    def _site(self, index: int) -> Site:
        return self._units.site(index)

    def _index(self, unit: Site | str) -> int:
        site = Site.parse(unit)
        index = self._units.index(site)
        if index is None:
            raise SiteError(f"{site}: these are {self.kind} of layers {', '.join(map(str, self.layers))}.")
        return index

    def _place(self, index: int) -> dict[str, Any]:
        site = self._site(index)
        return {"site": str(site), "layer": site.layer}

    def _shape(self) -> str:
        return f"{len(self.verified):,} {self.kind}, {self.n_scored:,} of them verified"

    def _validate(self) -> None:
        n = self.effects.shape[0]
        same_length(effects=n, verified=len(self.verified), estimates=self.estimates.shape[1])
        if not self.layers or n % len(self.layers):
            raise BkdinterpError(f"{n} units do not fill {len(self.layers)} layers.")
        within(0, n - 1, sampled=self.sampled)
