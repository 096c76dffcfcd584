"""Sign-flip tests: under the null an example's effect is x or -x with equal probability.

All flips are counted if there are few examples, else a seeded sample. The test is exact for effects that are symmetric
around 0 under the null, such as paired differences of two samples from one distribution, but not for skewed ones (see
`sign_flip`). Fisher 1935, section 21; for many units at once Westfall & Young 1993. Costs no forward pass.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._sample import Sample, as_sample
from bkdinterp.values import as_choice, as_integer, as_seed

MOST_EXACT = 12
"""Up to this many examples, all 2**n flips are counted."""
N_FLIPS = 4999
_STREAM = 0x51F1
SIDES = ("greater", "less", "two-sided")

# Sums whose relative difference is below this are equal up to rounding.
SAME = 1e-10


class Flips:
    """Rows of signs for ``n`` examples, in blocks; every pass gives the same rows.

    Attributes:
        exact: whether these are all 2**n flips, including the observed signs.
        count: number of flips.
    """

    def __init__(self, n: int, *, n_flips: Any = N_FLIPS, seed: Any = 0) -> None:
        self.n = n
        self.exact = n <= MOST_EXACT
        self.count = 2**n if self.exact else as_integer(n_flips, "n_flips", low=1)
        self.seed = as_seed(seed)

    def blocks(self, size: int) -> Iterator[Float[np.ndarray, "flip example"]]:
        """At most ``size`` flips at a time."""
        # A separate random stream, so that data made from the same seed does not share random numbers with the flips.
        rng = np.random.default_rng((self.seed, _STREAM))
        bits = np.arange(self.n)
        for start in range(0, self.count, size):
            rows = min(size, self.count - start)
            numbers = np.arange(start, start + rows)[:, None]
            heads = (numbers >> bits) & 1 if self.exact else rng.integers(0, 2, size=(rows, self.n))
            yield 1.0 - 2.0 * heads

    def p(self, exceeding: Int[np.ndarray, "*unit"]) -> Float[np.ndarray, "*unit"]:
        """p-values from the number of flips at least as extreme; the observed signs count as one of the flips."""
        return np.asarray(exceeding / self.count if self.exact else (1 + exceeding) / (1 + self.count))


def sign_flip(x: Sample, *, side: str = "two-sided", n_flips: int = N_FLIPS, seed: int = 0) -> float:
    """p-value for a mean of 0, by flipping the signs of the examples, for instance of paired differences.

    With up to 12 examples all 2**n flips are counted, so p is at least 2**-n (two-sided: twice that). p is never 0.
    The test assumes that under the null x and -x are equally likely for each example. On exponential values shifted to
    mean 0, p <= .05 in 6 to 10 % of samples of 6 to 48 (two-sided), and in 10 to 16 % on the side of the short tail.

    Args:
        x: one value per example, e.g. the score under the edit minus the score under its null, on the same prompt.
        side: ``"greater"`` (the mean is above 0), ``"less"`` or ``"two-sided"``.
        n_flips: number of flips drawn if there are more than 12 examples.
        seed: seed of the draw.

    Raises:
        BkdinterpError: no examples, NaN or infinity, or an unknown side.
    """
    side = as_choice(side, "side", SIDES)
    data = as_sample(x, "sign_flip")
    observed, scale = float(data.sum()), float(np.abs(data).sum())
    flips = Flips(len(data), n_flips=n_flips, seed=seed)
    count = 0
    for signs in flips.blocks(max(1, 2_000_000 // len(data))):
        count += int((oriented(signs @ data, side) >= oriented(observed, side) - SAME * scale).sum())
    return float(flips.p(np.asarray(count)))


def oriented(x: Any, side: str) -> Any:
    """The values, transformed so that larger means more extreme."""
    if side == "two-sided":
        return np.abs(x)
    return x if side == "greater" else -x


def check_level(level: Any) -> None:
    """Raise BkdinterpError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise BkdinterpError(f"level={level}: a confidence level lies strictly between 0 and 1, e.g. 0.95.")
