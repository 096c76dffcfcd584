"""`ScreenedEffects`: estimates of all units, exact effects of the best, and an audit of the rest. No forwards.

What results of a screen share, whatever their units are.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import ArtefactError, SiteError
from bkdinterp.methods.attribution._hover_effects import DRAWN, VERIFIED, hover_screen
from bkdinterp.methods.attribution._unit_effects import Effects, strongest_sign
from bkdinterp.plotting import scatter
from bkdinterp.results import register_value, within
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import plotly.graph_objects


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
        unit: what a unit is called.
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
    unit: str = "unit"

    def __str__(self) -> str:
        if not self.n_rest:
            return f"The {self.k} strongest are exact: every {self.unit} was verified."
        text = (
            f"{self.n_sampled} of the {self.n_rest:,} others, drawn at random, were scored exactly: {self.above} of them are "
            f"among the {self.k} strongest, rank correlation {self.rank_correlation:.2f}, largest error {self.error:.2g}. "
        )
        if self.margin <= 0:
            return text + "Some estimate among the others would be one of them: verify more (keep=)."
        return text + f"A missed {self.unit}'s estimate would have to be wrong by {self.margin:.2g} or more."


@dataclass(frozen=True, eq=False, repr=False)
class ScreenedEffects(Effects):
    """Effects of all units, exact where ``verified`` and linear estimates elsewhere; NaN for what is no unit.

    ``top_k``, ``significant``, table and repr name verified units only. Intervals and p-values are corrected for all units, the
    estimated ones included, since the verified were chosen among them.

    Attributes:
        verified: units whose effects are exact.
        estimates: mean over examples of each unit's linear estimate, plain and with the norms' scales frozen.
        sampled: flat indices of the verified units that were drawn at random to audit the rest.
    """

    verified: Bool[Tensor, "*unit"]
    estimates: Float[Tensor, "2 *unit"]
    sampled: Int[Tensor, " sample"]

    @property
    def scored(self) -> Bool[Tensor, "*unit"]:
        """Units with exact effects."""
        return self.verified

    @property
    def n_estimated(self) -> int:
        """Number of all units, the verified included."""
        return int((~self.acie.isnan()).sum())

    def audit(self, k: int) -> ScreenAudit:
        """How sure it is that no unit that was not verified belongs to the ``k`` strongest.

        Raises:
            SiteError: ``k`` is outside 1..number of verified units.
        """
        from scipy.stats import beta, spearmanr

        k = as_integer(k, "k", low=1, error=SiteError)
        sign = strongest_sign(self.sense, self.direction)
        exact = sign * self.acie.flatten()
        last = float(exact[self.order(k)[-1]])
        drawn = self.sampled.tolist()
        verified, estimates = self.verified.flatten(), self.estimates.flatten(1)
        chosen = verified.clone()
        chosen[self.sampled] = False
        rest = ~chosen & ~exact.isnan()
        guessed = (sign * estimates).amax(0)
        unseen = guessed[rest & ~verified]
        plain = sign * estimates[0, self.sampled]
        above = int((exact[self.sampled] >= last).sum())
        ranks: Any = spearmanr
        varied = len(drawn) >= 3 and len(set(plain.tolist())) > 1
        # Clopper and Pearson's upper end.
        most = float(beta.ppf(0.95, above + 1, len(drawn) - above)) if len(drawn) > above else 1.0
        return ScreenAudit(
            k,
            int(chosen.sum()),
            int(rest.sum()),
            len(drawn),
            float(ranks(plain, exact[self.sampled]).statistic) if varied else float("nan"),
            float((plain - exact[self.sampled]).abs().max()) if drawn else float("nan"),
            last - float(unseen.max()) if len(unseen) else float("inf"),
            above,
            int(most * int(rest.sum())),
            self.unit,
        )

    def to_frame(self, *, beside: Any = None) -> "pandas.DataFrame":
        """One row per verified unit, as `Effects.to_frame`, and both estimates and whether the audit drew it.

        Raises:
            BkdinterpError: as `Effects.to_frame`.
        """
        order = self.order()
        drawn, estimates = set(self.sampled.tolist()), self.estimates.flatten(1)
        return (
            super()
            .to_frame(beside=beside)
            .assign(
                estimate=estimates[0, order].tolist(),
                estimate_frozen_norms=estimates[1, order].tolist(),
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
        verified, estimates = self.verified.flatten(), self.estimates.flatten(1)
        drawn = torch.zeros_like(verified)
        drawn[self.sampled] = True
        points = torch.stack([estimates[0], self.acie.flatten().to(estimates)], 1)
        groups = {VERIFIED: points[verified & ~drawn], DRAWN: points[drawn]}
        figure = scatter(
            {name: rows for name, rows in groups.items() if len(rows)},
            xlabel=f"estimated {self._label}",
            ylabel=f"exact {self._label}",
            title=title or self._title,
            limit=limit,
            ax=ax,
        )
        axes = figure.axes[0] if ax is None else ax
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        return figure

    def hover(
        self, *, title: str | None = None, limit: float | int | None = None
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each verified unit says its row of `to_frame`.

        Args:
            title: replaces the default title.
            limit: both axes run from -limit to limit.

        Raises:
            BkdinterpError: plotly is missing, or ``limit <= 0``.
        """
        return hover_screen(self, title, limit)

    def compare(self, other: Any) -> Self:
        """As `Effects.compare`; only units that both verified count as verified in the difference.

        Raises:
            BkdinterpError: as `Effects.compare`, or other units.
        """
        found = super().compare(other)
        both = self.verified & other.verified
        none = self.sampled[:0]
        return replace(found, verified=both, estimates=self.estimates - other.estimates, sampled=none)

    @property
    def _title(self) -> str:
        """Title of the figures."""
        return f"{self._caption(self._one)}; {self.n_scored:,} of {self.n_estimated:,} verified"

    @property
    def _one(self) -> str:
        """What one of the units is called in a figure's title."""
        return self.unit

    def _validate(self) -> None:
        super()._validate()
        if bool((self.verified & self.acie.isnan()).any()):
            raise ArtefactError(f"verified marks a {self.unit} without an effect.")
        within(0, self.verified.numel() - 1, sampled=self.sampled)
