"""Intervals against closed forms and simulation; p-values never 0."""

import math

import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import Interval, bootstrap_mean, p_value, paired_bootstrap, paired_rates, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 60), (57, 60), (60, 60), (1, 1)])
def test_wilson_is_the_closed_form(k, n):
    z, p = 1.959963984540054, k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    got = wilson(k, n)
    assert got.low == pytest.approx(centre - half, abs=1e-12)
    assert got.high == pytest.approx(centre + half, abs=1e-12)
    assert got.low <= got.estimate <= got.high
    assert got.n == n


def test_wilson_without_examples_claims_nothing():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_wilson_narrows_with_level():
    assert wilson(5, 10, level=0.5).high < wilson(5, 10, level=0.99).high


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(BkdinterpError, match="between 0 and n"):
        wilson(k, n)


def test_bootstrap_has_the_width_of_the_normal_interval():
    x = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = bootstrap_mean(x)
    half = 1.96 * x.std().item() / 20
    assert got.estimate == pytest.approx(x.mean().item())
    assert (got.high - got.low) / 2 == pytest.approx(half, rel=0.1)


def test_bootstrap_is_seeded():
    x = torch.randn(30, generator=torch.Generator().manual_seed(1))
    assert bootstrap_mean(x, seed=3) == bootstrap_mean(x, seed=3)
    assert bootstrap_mean(x, seed=3) != bootstrap_mean(x, seed=4)


def test_bootstrap_covers_the_truth():
    g = torch.Generator().manual_seed(2)
    hits = sum(0.0 in bootstrap_mean(torch.randn(50, generator=g), n_resamples=300) for _ in range(100))
    assert 86 <= hits <= 100


def test_equal_numbers_collapse_and_say_so():
    got = bootstrap_mean([0.1] * 7)
    assert got.estimate == got.low == got.high == 0.1
    assert (got.n, got.method) == (7, "constant")


def test_one_example_claims_nothing():
    got = bootstrap_mean([0.1])
    assert (got.estimate, got.low, got.high, got.n) == (0.1, -math.inf, math.inf, 1)
    assert repr(got) == "0.10 [-inf, inf] (n=1)"


@pytest.mark.parametrize("x", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_raises(x):
    with pytest.raises(BkdinterpError, match="bootstrap_mean"):
        bootstrap_mean(x)


def test_pairing_removes_the_variance_between_examples():
    g = torch.Generator().manual_seed(3)
    level = 100 * torch.randn(40, generator=g)
    a, b = level + 1 + 0.1 * torch.randn(40, generator=g), level
    got = paired_bootstrap(a, b)
    assert 1.0 in got
    assert got.high - got.low < 0.1 < bootstrap_mean(a).high - bootstrap_mean(a).low
    with pytest.raises(BkdinterpError, match="40 and 39"):
        paired_bootstrap(a.tolist(), b[1:].tolist())


def test_p_value_counts_the_observation_itself():
    null = [float(i) for i in range(19)]
    assert p_value(100.0, null) == 1 / 20
    assert p_value(18.0, null) == 2 / 20  # ties count against the claim
    assert p_value(-1.0, null) == 1.0
    assert p_value(-1.0, null, side="less") == 1 / 20
    assert p_value(100.0, null, side="two-sided") == 2 / 20
    assert p_value(9.0, null, side="two-sided") == 1.0
    assert p_value(1.0, []) == 1.0
    with pytest.raises(BkdinterpError, match="NaN"):
        p_value(math.nan, null)


def test_interval_prints_as_a_reader_writes_it():
    assert repr(Interval(0.95, 0.89, 0.98, 60, "wilson")) == "0.95 [0.89, 0.98] (n=60)"
    assert repr(Interval(0.00031, 0.0002, 0.0004, 9, "bootstrap")) == "0.0003 [0.0002, 0.0004] (n=9)"
    assert repr(Interval(0.5, 0.2, 0.8, 8, "wilson", 0.9)) == "0.50 [0.20, 0.80] (n=8, 90 % level)"
    assert repr(Interval(0.0, 0.0, 0.0, 3, "bootstrap")) == "0.00 [0.00, 0.00] (n=3)"


def test_interval_round_trips_and_refuses_nonsense():
    interval = wilson(3, 7)
    assert Interval.from_dict(interval.to_dict()) == interval
    with pytest.raises(BkdinterpError, match="low <= high"):
        Interval(0.5, 0.6, 0.4, 3, "wilson")
    with pytest.raises(BkdinterpError, match="numbers"):
        Interval(math.nan, 0.0, 1.0, 3, "wilson")


def test_paired_rates_known_values_and_limits() -> None:
    """Newcombe 1998 (Stat Med 17:2635), table III, method 10: 36, 12, 2, 0 gives .0569 to .3404."""
    a = [True] * 36 + [True] * 12 + [False] * 2
    b = [True] * 36 + [False] * 12 + [True] * 2
    found = paired_rates(a, b)
    assert found.estimate == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0569, abs=2e-4)
    assert found.high == pytest.approx(0.3404, abs=2e-4)
    gone = paired_rates([False] * 24, [True] * 24)
    assert gone.estimate == -1.0
    assert -1.0 <= gone.low < gone.high < -0.7
    same = paired_rates([True, False] * 10, [True, False] * 10)
    assert same.low < 0 < same.high
    with pytest.raises(BkdinterpError, match="same examples"):
        paired_rates([True], [])
