"""Interval of a median from order statistics: no assumption about the distribution, so it suits ranks. No forwards."""

import math

import numpy as np

from bkdinterp.stats._flips import check_level
from bkdinterp.stats._intervals import Interval
from bkdinterp.stats._sample import Sample, as_sample


def median_interval(x: Sample, *, level: float = 0.95) -> Interval:
    """Median over examples, with the narrowest interval of order statistics that covers at least ``level``.

    The k-th smallest and the k-th largest value enclose the median with probability 1 - 2 P(Binomial(n, 1/2) < k), for every
    continuous distribution, and more for one with ties. With fewer than 6 examples no interval covers 95 %; it is then
    infinite.

    Raises:
        BkdinterpError: no examples, NaN or infinity, or ``level`` outside (0, 1).
    """
    from scipy.stats import binom

    check_level(level)
    ordered = np.sort(as_sample(x, "median_interval"))
    n = len(ordered)
    k = int(binom.ppf((1 - level) / 2, n, 0.5))  # P(fewer than k) is below the tail that is allowed
    ends = (float(ordered[k - 1]), float(ordered[n - k])) if k else (-math.inf, math.inf)
    return Interval(float(np.median(ordered)), *ends, n, "order statistics", level)
