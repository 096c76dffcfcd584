"""Rates of prompts that come in pairs: covered whether the two share their luck or not."""

import numpy as np
import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import clustered_ends, clustered_rate, wilson


def draw(pairs, rate, shared, seed):
    """Right calls of both prompts of each pair; a share of the pairs gives both the same."""
    rng = np.random.default_rng(seed)
    one, two = rng.random((2, pairs)) < rate
    return np.concatenate([one, np.where(rng.random(pairs) < shared, one, two)])


@pytest.mark.parametrize("pairs", [4, 12, 40])
@pytest.mark.parametrize("rate", [0.5, 0.9])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_pairs_are_covered(pairs, rate, shared):
    right = np.stack([draw(pairs, rate, shared, seed) for seed in range(2000)])
    low, high = clustered_ends(right, np.tile(np.arange(pairs), 2))
    assert ((low <= rate) & (rate <= high)).mean() >= 0.93
    # The claim that the rate lies above chance is wrong in 1 of 40.
    if rate == 0.5:
        assert (low > rate).mean() <= 0.035


def test_one_prompt_a_cluster_is_nearly_wilson_and_shared_luck_is_wider():
    right = torch.arange(200) < 150
    alone, both = clustered_rate(right, torch.arange(200)), clustered_rate(right, torch.arange(200) // 2)
    plain = wilson(150, 200)
    assert alone.low == pytest.approx(plain.low, abs=0.002) and alone.high == pytest.approx(
        plain.high, abs=0.002
    )
    assert both.low == pytest.approx(wilson(75, 100).low, abs=0.003)
    assert (both.estimate, both.n, both.method) == (0.75, 200, "clustered wilson")


def test_no_spread_counts_clusters_only():
    found = clustered_rate(torch.ones(24, dtype=torch.bool), torch.arange(24) % 12)
    assert found.high == 1.0 and found.low == pytest.approx(wilson(12, 12).low, abs=0.06)
    assert found.low < wilson(12, 12).low  # Student's quantile
    one = clustered_rate(torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64))
    assert (one.low, one.high) == (0.0, 1.0)


def test_refusals():
    with pytest.raises(BkdinterpError, match="got 0 and 0"):
        clustered_rate(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(BkdinterpError, match="level=2"):
        clustered_rate(torch.ones(2, dtype=torch.bool), torch.arange(2), level=2.0)
