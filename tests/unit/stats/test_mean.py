"""Means at 5 to 48 examples are covered as often as their intervals say; the methods equal their definitions."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import bootstrap_mean, paired_bootstrap

DRAWS = {
    "normal": (lambda rng, n: rng.standard_normal(n), 0.0),
    "lognormal": (lambda rng, n: np.exp(rng.standard_normal(n)), math.exp(0.5)),
    "binary": (lambda rng, n: (rng.random(n) < 0.5).astype(float), 0.5),
    "ties": (lambda rng, n: rng.choice([0.0, 0.5, 1.0], p=[0.1, 0.3, 0.6], size=n), 0.75),
}


def covered(kind, n, method="studentized", simulations=1500):
    draw, truth = DRAWS[kind]
    rng = np.random.default_rng(n)
    hits = 0
    for seed in range(simulations):
        found = bootstrap_mean(draw(rng, n), n_resamples=400, seed=seed, method=method)
        hits += found.low - 1e-12 <= truth <= found.high + 1e-12
    return hits / simulations


@pytest.mark.parametrize(
    ("kind", "n", "least"),
    [
        ("normal", 5, 0.93),
        ("normal", 8, 0.93),
        ("normal", 12, 0.93),
        ("normal", 24, 0.93),
        # Skewed: percentiles cover .74, .81, .82 and .85.
        ("lognormal", 5, 0.88),
        ("lognormal", 8, 0.88),
        ("lognormal", 12, 0.88),
        ("lognormal", 24, 0.89),
        # What is left to lose: samples without any spread (6 % at n=5).
        ("binary", 8, 0.91),
        ("binary", 24, 0.93),
        ("ties", 8, 0.87),
        ("ties", 24, 0.93),
    ],
)
def test_small_samples_are_covered(kind, n, least):
    assert covered(kind, n) >= least


def test_percentiles_are_what_this_replaces():
    assert covered("normal", 8, "percentile", 400) < 0.91
    assert covered("lognormal", 12, "percentile", 400) < 0.86


def test_no_end_is_nearer_than_students():
    rng = np.random.default_rng(0)
    for n in (2, 3, 7, 30):
        x = rng.standard_normal(n) ** 3
        found, student = bootstrap_mean(x), ttest_1samp(x, 0).confidence_interval()
        assert found.low <= student.low + 1e-9 and found.high >= student.high - 1e-9
        assert found.method == "studentized"


@pytest.mark.parametrize("n", [2, 3, 4])
def test_two_that_nearly_agree_do_not_decide_the_ends_of_a_few(n):
    """The bootstrap-t of four such examples ended at eighty times the mean."""
    x = np.array([4.97, 4.98, 4.99, 5.4])[-n:]
    found, student = bootstrap_mean(x), ttest_1samp(x, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((student.low, student.high))
    assert covered("normal", n, simulations=800) == pytest.approx(0.95, abs=0.03)


def test_the_long_tail_gets_the_longer_end():
    x = np.exp(np.random.default_rng(1).standard_normal(30))
    found, student = bootstrap_mean(x), ttest_1samp(x, 0).confidence_interval()
    assert found.high - student.high > 0.05 * (student.high - student.low)
    assert found.low == pytest.approx(student.low)


@pytest.mark.parametrize(
    ("method", "scipys", "name"), [("bca", "BCa", "bca"), ("percentile",) * 2 + ("bootstrap",)]
)
def test_the_other_methods_are_scipys(method, scipys, name):
    x = np.random.default_rng(2).standard_normal(20)
    reference = bootstrap(
        (x,), np.mean, n_resamples=2000, method=scipys, rng=np.random.default_rng(7)
    ).confidence_interval
    found = bootstrap_mean(x, method=method, seed=7)
    assert (found.low, found.high, found.method) == (reference.low, reference.high, name)
    assert paired_bootstrap(x + 1, np.ones(20), method=method, seed=7).method == f"paired {name}"


def test_units_and_few_distinct_values_do_no_harm():
    x = np.random.default_rng(3).standard_normal(10)
    one = bootstrap_mean(x)
    for factor in (1e-200, 1e200):
        assert bootstrap_mean(x * factor).low == pytest.approx(one.low * factor, rel=1e-6)
    # A shift larger than the spread is no obstacle.
    assert bootstrap_mean(x + 1e6).high - 1e6 == pytest.approx(one.high, rel=1e-6)
    nearly = bootstrap_mean([1.0] * 23 + [0.5])
    assert 0.93 < nearly.low < nearly.estimate < nearly.high < 1.03
    two = bootstrap_mean([0.0, 1.0])
    assert two.low < -5 and two.high > 6


def test_refusals():
    with pytest.raises(
        BkdinterpError, match="Unknown method 'bc'; choose one of studentized, bca, percentile"
    ):
        bootstrap_mean([1.0, 2.0], method="bc")
    with pytest.raises(BkdinterpError, match="n_resamples=0"):
        bootstrap_mean([1.0, 2.0], n_resamples=0)
    with pytest.raises(BkdinterpError, match="level=0"):
        bootstrap_mean([1.0, 2.0], level=0.0)
