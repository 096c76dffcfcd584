"""Confidence intervals for rates, and p-values against sampled nulls. Costs no forward pass.

Rates get Wilson intervals, which are accurate at the papers' 60 to 256 prompts and sensible at 0 % and 100 %. Means are
in ``_mean``. scipy is slow to import, so the functions import it themselves.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._flips import check_level
from bkdinterp.stats._sample import Sample, as_array


@dataclass(frozen=True, repr=False)
class Interval:
    """A point estimate with its confidence interval; prints as ``0.95 [0.89, 0.98] (n=60)``.

    Attributes:
        estimate: same unit as ``low`` and ``high``.
        n: number of examples behind the estimate.
        method: how the interval was made, e.g. ``"wilson"``.
        level: coverage.

    Raises:
        BkdinterpError: NaN, or ``low > high``.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95

    def __post_init__(self) -> None:
        if any(math.isnan(v) for v in (self.estimate, self.low, self.high)) or self.low > self.high:
            raise BkdinterpError(
                f"Interval({self.estimate}, {self.low}, {self.high}): bounds must be numbers, low <= high."
            )

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __repr__(self) -> str:
        scale = self.high - self.low or abs(self.estimate)
        digits = 2
        if 0 < scale < math.inf:
            digits = min(8, max(2, -math.floor(math.log10(scale))))
        numbers = [f"{v:.{digits}f}" for v in (self.estimate, self.low, self.high)]
        level = "" if self.level == 0.95 else f", {100 * self.level:g} % level"
        return f"{numbers[0]} [{numbers[1]}, {numbers[2]}] (n={self.n}{level})"

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "Interval":
        """Inverse of `to_dict`."""
        return cls(**d)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a rate; without examples it is 0.5 [0, 1].

    Raises:
        BkdinterpError: ``successes`` not in 0..n, or ``level`` outside (0, 1).
    """
    check_level(level)
    if not 0 <= successes <= n:
        raise BkdinterpError(f"wilson({successes}, {n}): successes must be between 0 and n.")
    if n == 0:
        return Interval(0.5, 0.0, 1.0, 0, "wilson", level)
    from scipy.stats import binomtest

    ci = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    rate = successes / n
    # At 0 % and 100 % scipy's rounding leaves the estimate outside by 1e-17.
    return Interval(rate, min(float(ci.low), rate), max(float(ci.high), rate), n, "wilson", level)


def paired_rates(a: Sequence[bool], b: Sequence[bool], *, level: float = 0.95) -> Interval:
    """Newcombe's score interval for rate(a) - rate(b), where ``a[i]`` and ``b[i]`` are the same example.

    Unlike a bootstrap it does not shrink to a point if every example changes in the same way (Newcombe 1998, method 10).

    Raises:
        BkdinterpError: unequal lengths or no examples.
    """
    if len(a) != len(b) or not a:
        raise BkdinterpError(f"paired_rates needs the same examples twice; got {len(a)} and {len(b)}.")
    n = len(a)
    both = sum(x and y for x, y in zip(a, b, strict=True))
    only_a, only_b = sum(a) - both, sum(b) - both
    neither = n - both - only_a - only_b
    one, two = wilson(sum(a), n, level), wilson(sum(b), n, level)
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = both * neither - only_a * only_b
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(product) if product else 0.0

    def width(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    difference = one.estimate - two.estimate
    low = difference - width(one.estimate - one.low, two.high - two.estimate)
    high = difference + width(one.high - one.estimate, two.estimate - two.low)
    return Interval(difference, max(low, -1.0), min(high, 1.0), n, "newcombe", level)


def p_value(
    observed: float | int, null_samples: Sample, side: Literal["greater", "less", "two-sided"] = "greater"
) -> float:
    """Monte Carlo p-value, (1 + nulls at least as extreme) / (1 + nulls); never 0.

    ``"two-sided"`` is twice the smaller one-sided value, at most 1.

    Raises:
        BkdinterpError: NaN among the numbers, or an unknown side.
    """
    null = as_array(null_samples)
    if math.isnan(observed) or np.isnan(null).any():
        raise BkdinterpError("p_value got NaN; drop failed null runs before comparing.")
    greater = (1 + int((null >= observed).sum())) / (1 + len(null))
    less = (1 + int((null <= observed).sum())) / (1 + len(null))
    sides = {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}
    if side not in sides:
        raise BkdinterpError(f"Unknown side {side!r}; choose one of {', '.join(sides)}.")
    return sides[side]
