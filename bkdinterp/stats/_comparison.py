"""Comparison: an observed value and its nulls, with effect, interval, p-values and the nearest null.

Nulls are the values that random heads, a random direction, a clean twin or another trigger give on the same prompts.
Costs no forward pass.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._flips import SIDES, check_level, oriented, sign_flip
from bkdinterp.stats._intervals import Interval, p_value, paired_rates, wilson
from bkdinterp.stats._mean import bootstrap_mean, paired_bootstrap
from bkdinterp.stats._sample import as_array
from bkdinterp.values import as_choice, as_seed, as_texts, shown


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """An observed value and the nulls that it has to beat.

    Make one with `Comparison.of`. Values are either one per example, for the observed run and every null on the same
    prompts in the same order (paired), or single numbers. Two questions are kept apart: are there enough PROMPTS
    (interval, ``p_examples``), and are there enough NULLS (``p_nulls``)? ``p`` is the larger of the p-values that apply.

    Attributes:
        observed: one value per example, or one number.
        nulls: the same for every null.
        name: name of the observed value.
        null_names: one per null.
        side: which values support the claim: ``"greater"`` than the nulls, ``"less"``, or ``"two-sided"``.
        sampled: whether the nulls are random draws (random heads, random directions), so that ``p_nulls`` applies. A twin
            or a sham trigger is not a random draw.
        seed: seed of the bootstrap and the sign flips.
    """

    observed: Float[Tensor, "*example"]
    nulls: Float[Tensor, "null *example"]
    name: str = "observed"
    null_names: tuple[str, ...] = ()
    side: str = "greater"
    sampled: bool = True
    seed: int = field(default=0)

    @classmethod
    def of(
        cls,
        observed: Any,
        nulls: Any,
        *,
        name: str = "observed",
        null_names: Iterable[str] = (),
        side: str = "greater",
        sampled: bool = True,
        seed: int = 0,
    ) -> Self:
        """From tensors, arrays, lists (booleans too) or numbers.

        Raises:
            BkdinterpError: no nulls, unequal lengths, NaN, not one name per null, an unknown side, or no seed.
        """
        own = torch.from_numpy(np.array(as_array(observed)))
        rows = [as_array(row) for row in nulls]
        if not rows:
            raise BkdinterpError("A comparison needs at least one null to compare with.")
        lengths = sorted({row.shape for row in rows} | {tuple(own.shape)})
        if len(lengths) > 1 or own.ndim > 1:
            raise BkdinterpError(
                f"Observed and nulls must be single numbers, or one value per example on the same examples; got shapes "
                f"{', '.join(map(str, lengths))}."
            )
        return cls(own, torch.from_numpy(np.stack(rows)), name, tuple(null_names), side, sampled, seed)

    def __post_init__(self) -> None:
        as_choice(self.side, "side", SIDES)
        as_seed(self.seed)
        if not self.null_names:
            object.__setattr__(self, "null_names", tuple(f"null {i}" for i in range(len(self.nulls))))
        if self.observed.shape != self.nulls.shape[1:] or self.observed.ndim > 1 or not self.nulls.numel():
            raise BkdinterpError(
                f"Comparison of {tuple(self.observed.shape)} with nulls {tuple(self.nulls.shape)}: give [example] and "
                "[null example], or [] and [null], at least one of each."
            )
        if len(self.null_names) != len(self.nulls):
            raise BkdinterpError(f"{len(self.null_names)} names for {len(self.nulls)} nulls.")
        if not bool(torch.isfinite(self.observed).all() & torch.isfinite(self.nulls).all()):
            raise BkdinterpError("Comparison got NaN or infinity; drop failed runs before comparing.")

    @property
    def paired(self) -> bool:
        """Whether values are one per example, paired by prompt."""
        return self.observed.ndim == 1

    @property
    def n(self) -> int:
        """Number of examples; 1 for single numbers."""
        return self.observed.numel()

    @property
    def n_nulls(self) -> int:
        """Number of nulls."""
        return len(self.nulls)

    @property
    def estimate(self) -> float:
        """The observed value: its mean over examples."""
        return float(self.observed.double().mean())

    @property
    def null_estimates(self) -> tuple[float, ...]:
        """Each null's mean over examples."""
        return tuple(float(row.double().mean()) for row in self.nulls)

    @property
    def extreme(self) -> int:
        """Index of the null nearest to the claim, or furthest beyond it; if two-sided, on the observed value's side."""
        up = self.effect >= 0 if self.side == "two-sided" else self.side == "greater"
        return int((np.argmax if up else np.argmin)(self.null_estimates))

    @property
    def effect(self) -> float:
        """Observed minus the mean of the nulls."""
        return self.estimate - float(np.mean(self.null_estimates))

    def interval(self, level: float = 0.95) -> Interval:
        """Interval of the effect.

        For values per example the interval is over prompts, with the nulls fixed. Yes-or-no values use Newcombe's score
        interval (its ends averaged over the nulls, which is never too narrow). Other values use the studentised bootstrap
        of observed minus the mean of the nulls on the same prompt. Single numbers use Student's prediction interval for
        one more null; it is infinite with one null.

        Raises:
            BkdinterpError: ``level`` outside (0, 1).
        """
        check_level(level)
        if not self.paired:
            return self._among_nulls(level)
        if self._yes_or_no:
            own = self._said(self.observed)
            found = [paired_rates(own, self._said(row), level=level) for row in self.nulls]
            low, high = (float(np.mean([getattr(i, end) for i in found])) for end in ("low", "high"))
            return Interval(
                self.effect, min(low, self.effect), max(high, self.effect), self.n, "newcombe", level
            )
        return bootstrap_mean(self.differences, seed=self.seed, level=level)

    def interval_beyond(self, null: int | None = None, level: float = 0.95) -> Interval:
        """Interval, over prompts, of the observed value minus one null; by default the nearest one (`extreme`).

        Choosing the nearest null makes the comparison harder for the claim, never easier.

        Raises:
            BkdinterpError: the values are single numbers, or ``level`` is outside (0, 1).
        """
        if not self.paired:
            raise BkdinterpError(
                "Single numbers have no examples; give one value per example for an interval."
            )
        row = self.nulls[self.extreme if null is None else null]
        if self._yes_or_no:
            return paired_rates(self._said(self.observed), self._said(row), level=level)
        return paired_bootstrap(self.observed, row, seed=self.seed, level=level)

    @property
    def differences(self) -> Float[Tensor, "*example"]:
        """Observed value minus the mean of the nulls, for each example."""
        return self.observed.double() - self.nulls.double().mean(0)

    @property
    def p_nulls(self) -> float | None:
        """Monte Carlo p over the nulls, (1 + nulls at least as extreme) / (1 + nulls); None without random draws.

        With k nulls it cannot be below 1 / (k + 1), so reaching .05 takes at least 19 draws. Two-sided, a null is as
        extreme as the observed value if it is as far from the mean of observed value and nulls.
        """
        if not self.sampled:
            return None
        values = np.array([self.estimate, *self.null_estimates])
        centre = values.mean() if self.side == "two-sided" else 0.0
        # Equal rates may differ by rounding. Treat that as a tie, which counts against the claim.
        found = oriented(values - centre, self.side)
        slack = 1e-12 * max(1.0, float(np.abs(values).max()))
        return p_value(float(found[0]) - slack, found[1:])

    @property
    def p_examples(self) -> float | None:
        """Sign-flip p over examples for no difference: the largest over all nulls; None for single numbers."""
        if not self.paired:
            return None
        own = self.observed.double()
        return max(sign_flip(own - row.double(), side=self.side, seed=self.seed) for row in self.nulls)

    @property
    def p(self) -> float:
        """The larger of `p_nulls` and `p_examples`, or the one that applies; NaN if neither does."""
        found = [p for p in (self.p_nulls, self.p_examples) if p is not None]
        return max(found, default=math.nan)

    @property
    def beats_all(self) -> bool:
        """Whether the observed value lies beyond every null; a tie does not count."""
        if self.side == "two-sided":
            return not min(self.null_estimates) <= self.estimate <= max(self.null_estimates)
        nearest = self.null_estimates[self.extreme]
        return oriented(self.estimate, self.side) > oriented(nearest, self.side)

    def rows(self, level: float = 0.95) -> tuple[list[str], list[Interval]]:
        """Labels and intervals of the observed value and every null, for a figure or table.

        Values per example get intervals over examples (Wilson's for yes-or-no values); single numbers get no spread.

        Raises:
            BkdinterpError: ``level`` outside (0, 1).
        """
        check_level(level)
        return [self.name, *self.null_names], [self._own(row, level) for row in (self.observed, *self.nulls)]

    def describe(self) -> str:
        """One line with estimate, nulls, effect and its interval, p-values and n."""
        near = self.extreme
        what = "random nulls" if self.sampled else "nulls"
        parts = [
            f"{self.name} {_short(self.estimate)} against {_short(float(np.mean(self.null_estimates)))} of "
            f"{self.n_nulls} {what if self.n_nulls > 1 else what[:-1]}",
            f"nearest {self.null_names[near]} {_short(self.null_estimates[near])}",
            f"effect {self.interval()}",
        ]
        for label, p in (("over nulls", self.p_nulls), ("over examples", self.p_examples)):
            if p is not None:
                parts.append(f"p={p:.2g} {label}")
        parts.append(f"{self.side}, {'paired by prompt' if self.paired else 'single numbers'}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"Comparison({self.describe()})"

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return {
            "observed": self.observed.tolist(),
            "nulls": self.nulls.tolist(),
            "name": self.name,
            "null_names": list(self.null_names),
            "side": self.side,
            "sampled": self.sampled,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Inverse of `to_dict`; raises BkdinterpError if the content is not a comparison."""
        try:
            return cls.of(
                d["observed"],
                d["nulls"],
                null_names=as_texts(d["null_names"], "null_names", error=BkdinterpError),
                **{key: d[key] for key in ("name", "side", "sampled", "seed")},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BkdinterpError(f"Not a saved comparison ({error!r}): {shown(d)}.") from None

    @property
    def _yes_or_no(self) -> bool:
        return all(bool(((x == 0) | (x == 1)).all()) for x in (self.observed, self.nulls))

    def _said(self, row: Float[Tensor, " example"]) -> list[bool]:
        return [bool(x) for x in row.tolist()]

    def _own(self, row: Float[Tensor, "*example"], level: float) -> Interval:
        if not self.paired:
            return Interval(float(row), float(row), float(row), 1, "single number", level)
        if self._yes_or_no:
            return wilson(int(row.sum()), self.n, level)
        return bootstrap_mean(row, seed=self.seed, level=level)

    def _among_nulls(self, level: float) -> Interval:
        from scipy.stats import t

        nulls: Sequence[float] = self.null_estimates
        k = len(nulls)
        half = math.inf
        if k > 1:
            half = float(t.ppf((1 + level) / 2, k - 1)) * float(np.std(nulls, ddof=1)) * math.sqrt(1 + 1 / k)
        return Interval(self.effect, self.effect - half, self.effect + half, k, "student prediction", level)


def _short(x: float) -> str:
    return f"{x:.3g}"
