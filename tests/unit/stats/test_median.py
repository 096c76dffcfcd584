"""The interval of a median: against a table, its coverage, its ends."""

import math

import numpy as np
import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import median_interval


@pytest.mark.parametrize(
    ("n", "k"), [(6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (20, 6), (25, 8), (50, 18), (100, 40)]
)
def test_the_ends_are_those_of_the_tables(n, k):
    found = median_interval(np.arange(1.0, n + 1)[::-1].copy())
    assert (found.low, found.high) == (k, n + 1 - k)
    assert found.estimate == (n + 1) / 2 and found.n == n


def test_it_covers_what_it_says_whatever_the_distribution():
    rng = np.random.default_rng(0)
    for draw, median in ((rng.standard_exponential, math.log(2)), (rng.standard_cauchy, 0.0)):
        for n in (8, 15):
            hits = [median in median_interval(draw(n)) for _ in range(1500)]
            assert np.mean(hits) > 0.94


def test_few_examples_have_no_interval_and_many_do_not_underflow():
    assert median_interval([3.0] * 5).low == -math.inf
    assert median_interval([1.0, 1.0, 2.0, 2.0, 3.0, 9.0]).high == 9.0
    large = median_interval(torch.arange(3001).double())
    assert 1400 < large.low < 1500 < large.high < 1600


@pytest.mark.parametrize("bad", [[], [float("nan")]])
def test_what_it_refuses(bad):
    with pytest.raises(BkdinterpError):
        median_interval(bad)
    with pytest.raises(BkdinterpError, match="level"):
        median_interval([1.0], level=1.0)
