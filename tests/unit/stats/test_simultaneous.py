"""Units chosen among many: on noise none is found in 19 of 20 studies, a true effect is; small n, unequal units."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test, t, ttest_1samp

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import adjusted_p, bootstrap_mean, sign_flip, simultaneous


def noise(units, n, seed, scale=False):
    """Independent units; with ``scale`` of standard deviations from about 1/7 to 7."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((units, n))
    return x * np.exp(rng.standard_normal((units, 1))) if scale else x


def test_the_best_of_270_heads_of_pure_noise_is_found_in_at_most_one_study_of_twenty():
    """30 x 9 heads on 48 prompts: pointwise, the best head's interval excludes 0 every time."""
    naive = found = by_p = 0
    for seed in range(400):
        x = noise(270, 48, seed)
        intervals = simultaneous(x, n_flips=999, seed=seed)
        best = int(np.abs(intervals.estimate).argmax())
        found += bool(intervals.excludes_zero.any())
        if seed < 40:
            naive += 0.0 not in bootstrap_mean(x[best], n_resamples=300)
            by_p += adjusted_p(x, n_flips=999, seed=seed).min() <= 0.05
    assert naive == 40
    assert found <= 20
    assert by_p <= 6  # of 40; at a true rate of .05 more come in 1 of 300 runs


@pytest.mark.parametrize(("units", "n"), [(1, 8), (9, 6), (30, 8), (30, 16), (9, 5)])
def test_all_units_are_covered_together_at_small_n_and_whatever_their_scales(units, n):
    truth = np.linspace(-2, 2, units)[:, None]
    missed = 0
    for seed in range(200):
        found = simultaneous(noise(units, n, 1000 + seed, scale=True) + truth, n_flips=499, seed=seed)
        missed += bool(((found.low > truth[:, 0]) | (found.high < truth[:, 0])).any())
    assert missed <= 19  # 10 expected; 20 or more come in 1 of 300 runs


def test_a_true_effect_is_found_beside_noise_and_a_noisy_unit_hides_no_quiet_one():
    x = noise(270, 48, 0)
    x[200] *= 1000
    x[17] += 1.0
    x[18] = 1e-6 * (x[18] - 1.2)
    found = simultaneous(x)
    assert np.flatnonzero(found.excludes_zero).tolist() == [17, 18]
    p = adjusted_p(x)
    assert np.flatnonzero(p <= 0.05).tolist() == [17, 18]
    # As wide as the normal, independent units make it: the quantile at .05 / 270.
    assert found.critical == pytest.approx(t.ppf(1 - 0.025 / 270, 47), rel=0.08)


def test_dependent_units_need_no_bonferroni():
    shared = np.random.default_rng(1).standard_normal(24)
    x = shared + 0.01 * noise(500, 24, 2)
    assert simultaneous(x).critical < 2.4 < t.ppf(1 - 0.025 / 500, 23)


def test_one_unit_has_students_interval_or_a_little_more():
    x = noise(1, 30, 5)
    found, reference = simultaneous(x).interval(0), ttest_1samp(x[0], 0).confidence_interval()
    assert found.low <= reference.low + 1e-12 and found.high >= reference.high - 1e-12
    assert found.high - found.low == pytest.approx(reference.high - reference.low, rel=0.05)
    assert found.method == "simultaneous max-t"


def by_hand(x, side):
    """Step-down max-T from its definition (Westfall & Young 1993, algorithm 4.1), with one t at a time."""
    orient = {"two-sided": abs, "greater": float, "less": lambda v: -v}[side]

    def ts(data):
        return np.array([orient(row.mean() / (row.std(ddof=1) / math.sqrt(len(row)))) for row in data])

    observed = ts(x)
    order = np.argsort(-observed)
    flips = [ts(x * np.array(s)) for s in itertools.product([1, -1], repeat=x.shape[1])]
    p, worst = np.empty(len(x)), 0.0
    for rank, unit in enumerate(order):
        rest = order[rank:]
        worst = max(worst, np.mean([drawn[rest].max() >= observed[unit] - 1e-9 for drawn in flips]))
        p[unit] = worst
    return p


@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
def test_adjusted_p_is_the_step_down_by_hand(side):
    x = noise(5, 7, 3) + np.array([[1.5], [0.0], [-1.0], [0.3], [0.0]])
    np.testing.assert_allclose(adjusted_p(x, side=side), by_hand(x, side), atol=1e-12)


def test_adjusted_p_holds_the_others_although_one_is_real():
    """Strong control: the real unit takes no part in the null of the others, and makes them no easier."""
    wrong = 0
    for seed in range(200):
        x = noise(20, 10, seed)
        x[3] += 4
        p = adjusted_p(x, n_flips=199)
        assert p[3] < 0.05
        wrong += bool((np.delete(p, 3) <= 0.05).any())
    assert wrong <= 19


def test_adjusted_p_stands_between_plain_and_bonferroni():
    x = noise(40, 20, 9) + 0.4
    p, plain = adjusted_p(x), np.array([sign_flip(row) for row in x])
    assert (p >= plain - 0.01).all()
    assert (p <= np.minimum(1, 40 * plain) + 0.01).all()


def test_sign_flip_is_scipys_permutation_test():
    x = np.random.default_rng(4).standard_normal(9) + 0.6
    for side in ("greater", "less", "two-sided"):
        reference = permutation_test((x,), np.mean, permutation_type="samples", alternative=side)
        assert sign_flip(x, side=side) == pytest.approx(reference.pvalue, abs=1e-12)
    assert sign_flip([1.0] * 10, side="greater") == 2**-10
    assert sign_flip([0.0] * 5) == 1.0
    assert sign_flip([0.1] * 40, side="greater") == 1 / 5000


def test_seed_and_blocks_decide_nothing_else():
    x = noise(50, 20, 0)
    assert simultaneous(x, seed=1).critical == simultaneous(x, seed=1).critical
    assert simultaneous(x, seed=1).critical != simultaneous(x, seed=2).critical
    # Many units make small blocks: the same flips are drawn.
    wide = np.concatenate([x, np.zeros((20_000, 20))])
    assert simultaneous(wide, seed=1, n_flips=499).critical == simultaneous(x, seed=1, n_flips=499).critical
    assert np.array_equal(adjusted_p(wide, n_flips=499)[:50], adjusted_p(x, n_flips=499))
    half = simultaneous(torch.from_numpy(x).float(), seed=1)
    assert half.critical == pytest.approx(simultaneous(x, seed=1).critical, rel=1e-4)


def test_units_that_were_not_scored_do_not_count():
    x = noise(6, 15, 0)
    some = np.full((9, 15), np.nan)
    some[[0, 2, 3, 5, 7, 8]] = x
    whole, partial = simultaneous(x), simultaneous(some)
    assert partial.critical == whole.critical
    assert np.isnan(partial.low[[1, 4, 6]]).all() and np.isnan(adjusted_p(some)[[1, 4, 6]]).all()
    assert np.array_equal(adjusted_p(some)[[0, 2, 3, 5, 7, 8]], adjusted_p(x))
    assert not partial.excludes_zero[[1, 4, 6]].any()
    with pytest.raises(BkdinterpError, match="Unit 1 was not scored"):
        partial.interval(1)


def test_too_few_examples_claim_little():
    one = simultaneous(np.ones((3, 1)))
    assert np.isinf(one.low).all() and np.isinf(one.high).all() and one.critical == math.inf
    assert adjusted_p(np.ones((3, 1))).tolist() == [1.0, 1.0, 1.0]
    few = simultaneous(noise(4, 5, 0))
    assert few.method == "bonferroni t"
    assert few.critical == pytest.approx(t.ppf(1 - 0.025 / 4, 4))
    assert adjusted_p(noise(4, 5, 0) + 100).min() == 2 / 2**5
    assert simultaneous(noise(4, 6, 0)).method == "max-t"


def test_constant_units_keep_their_value():
    x = noise(3, 10, 0)
    x[0], x[1] = 0.0, 0.1
    found = simultaneous(x)
    assert (found.low[0], found.high[0], found.low[1], found.high[1]) == (0.0, 0.0, 0.1, 0.1)
    assert adjusted_p(x)[0] == 1.0 and adjusted_p(x)[1] < 0.01


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 4)), "at least 1 x 1"),
        (np.zeros(4), "at least 1 x 1"),
        (np.full((2, 3), np.nan), "no unit was scored"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), "unit 1 has NaN on some of its 2 examples"),
        (np.array([[1.0, np.inf]]), "1 infinite effects"),
    ],
)
@pytest.mark.parametrize("function", [simultaneous, adjusted_p])
def test_what_cannot_be_judged_is_refused(function, x, message):
    untyped = function.__wrapped__ if hasattr(function, "__wrapped__") and x.ndim != 2 else function
    with pytest.raises(BkdinterpError, match=message):
        untyped(x)


def test_bad_settings_are_refused():
    with pytest.raises(BkdinterpError, match=r"level=1\.5"):
        simultaneous(noise(2, 8, 0), level=1.5)
    with pytest.raises(BkdinterpError, match="Unknown side 'up'"):
        adjusted_p(noise(2, 8, 0), side="up")
    with pytest.raises(BkdinterpError, match="n_flips=0"):
        adjusted_p(noise(2, 20, 0), n_flips=0)
