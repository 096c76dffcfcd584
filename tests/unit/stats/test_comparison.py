"""A claim and its nulls: effect, interval, two kinds of p, the nearest null; over prompts or as single numbers."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import t

from bkdinterp.errors import BkdinterpError
from bkdinterp.results._codec import decode, encode
from bkdinterp.stats import Comparison, bootstrap_mean, paired_bootstrap, paired_rates, sign_flip, wilson


def scored(effect=1.0, nulls=19, n=24, seed=0, **settings):
    rng = np.random.default_rng(seed)
    prompts = 10 * rng.standard_normal(n)  # what the prompts share, pairing takes away
    rows = prompts + rng.standard_normal((nulls, n))
    return Comparison.of(prompts + rng.standard_normal(n) + effect, rows, **settings)


def test_effect_and_interval_are_paired_by_prompt():
    c = scored()
    assert c.paired and (c.n, c.n_nulls) == (24, 19)
    assert c.effect == pytest.approx(c.estimate - np.mean(c.null_estimates))
    assert c.interval() == bootstrap_mean(c.observed - c.nulls.mean(0))
    assert c.interval().low > 0 and c.interval().high - c.interval().low < 1.2
    assert c.interval(0.5).high < c.interval().high
    assert c.interval_beyond() == paired_bootstrap(c.observed, c.nulls[c.extreme])
    assert c.interval_beyond(3) == paired_bootstrap(c.observed, c.nulls[3])


@pytest.mark.parametrize(("side", "pick"), [("greater", np.argmax), ("less", np.argmin)])
def test_the_nearest_null_is_the_most_extreme_one(side, pick):
    c = scored(side=side)
    assert c.extreme == pick(c.null_estimates)
    assert c.beats_all is (side == "greater")
    low = scored(effect=-3.0, side=side)
    assert low.beats_all is (side == "less")


def test_two_sided_nulls_come_near_from_the_observed_side():
    c = Comparison.of(-3.0, [0.1, -0.2, 2.0, 0.0], side="two-sided")
    assert c.extreme == 1 and c.beats_all
    assert Comparison.of(3.0, [0.1, -0.2, 2.0, -9.0], side="two-sided").extreme == 2
    each = scored(effect=2.0, side="two-sided")
    each = Comparison.of(each.observed, [each.nulls[0] - 9, each.nulls[1]], side="two-sided")
    near = min((each.interval_beyond(i) for i in range(2)), key=lambda i: i.estimate)
    assert each.interval_beyond() == near
    assert not Comparison.of(1.0, [0.1, -0.2, 2.0, 0.0], side="two-sided").beats_all
    assert c.p_nulls == 1 / 5


def test_p_over_nulls_needs_nulls_and_p_over_examples_needs_examples():
    many, few = scored(nulls=39), scored(nulls=3)
    assert many.p_nulls == 1 / 40 and few.p_nulls == 1 / 4
    assert few.p_examples == max(sign_flip(few.observed - row, side="greater") for row in few.nulls) < 0.05
    assert few.p == 1 / 4 and many.p == max(many.p_nulls, many.p_examples)
    fixed = scored(nulls=1, sampled=False, null_names=["twin"])
    assert fixed.p_nulls is None and fixed.p == fixed.p_examples < 0.01
    assert "nearest twin" in repr(fixed)
    numbers = Comparison.of(0.9, [0.5] * 19)
    assert numbers.p_examples is None and numbers.p == 1 / 20
    assert math.isnan(Comparison.of(0.9, [0.5], sampled=False).p)


def test_a_tie_counts_against_the_claim():
    rates = [sum([0.1] * 3), 0.1, 0.2]
    c = Comparison.of(0.3, rates)  # .1 + .1 + .1 is not .3 in floating point
    assert c.p_nulls == 2 / 4
    assert not Comparison.of(0.3, [0.3, 0.1]).beats_all


def test_without_an_effect_p_is_below_5_percent_in_one_study_of_twenty():
    small = [scored(effect=0.0, nulls=19, n=10, seed=seed).p_nulls <= 0.05 for seed in range(400)]
    assert sum(small) <= 32  # 20 expected; 33 or more come in 1 of 200 runs
    small = [scored(effect=0.0, nulls=1, n=10, seed=seed, sampled=False).p <= 0.05 for seed in range(400)]
    assert sum(small) <= 32
    small = [scored(effect=0.0, nulls=19, n=6, seed=s, side="two-sided").p_nulls <= 0.05 for s in range(400)]
    assert sum(small) <= 32


def test_yes_or_no_values_get_score_intervals_that_never_shrink_to_a_point():
    c = Comparison.of([True] * 60, [[False] * 60] * 5)
    assert c.interval() == paired_rates([True] * 60, [False] * 60)
    assert (c.effect, c.interval().high) == (1.0, 1.0) and 0.85 < c.interval().low < 0.95
    labels, found = c.rows()
    assert labels == ["observed", *(f"null {i}" for i in range(5))]
    assert found[0] == wilson(60, 60) and found[1] == wilson(0, 60)
    mixed = Comparison.of([1, 1, 1, 0], [[1, 0, 0, 0], [0, 0, 0, 0]])
    one, two = (paired_rates([True, True, True, False], row) for row in ([True] + [False] * 3, [False] * 4))
    assert mixed.effect == pytest.approx(0.625)
    assert mixed.interval().low == pytest.approx((one.low + two.low) / 2)
    assert mixed.interval_beyond() == one


def test_single_numbers_are_judged_by_the_spread_of_the_nulls():
    c = Comparison.of(0.9, [0.5, 0.6, 0.55, 0.45])
    half = t.ppf(0.975, 3) * np.std([0.5, 0.6, 0.55, 0.45], ddof=1) * math.sqrt(1 + 1 / 4)
    assert c.interval().low == pytest.approx(0.375 - half) and c.interval().n == 4
    assert Comparison.of(0.9, [0.5]).interval().low == -math.inf
    assert c.rows()[1][0].estimate == 0.9
    with pytest.raises(BkdinterpError, match="no examples"):
        c.interval_beyond()


@pytest.mark.parametrize("c", [scored(), Comparison.of(0.9, [0.5, 0.25], name="probe", side="less")])
def test_it_is_saved_and_read_back(c):
    back = Comparison.from_dict(json.loads(json.dumps(c.to_dict())))
    assert repr(back) == repr(c) and torch.equal(back.nulls, c.nulls)
    tensors = {}
    again = decode(json.loads(json.dumps(encode(c, "claim", tensors))), tensors)
    assert isinstance(again, Comparison) and repr(again) == repr(c)
    with pytest.raises(BkdinterpError, match="Not a saved comparison"):
        Comparison.from_dict({"observed": 1.0})


def test_it_reads_like_a_sentence():
    text = repr(scored(name="8 heads"))
    assert text.startswith("Comparison(8 heads ") and "of 19 random nulls, nearest null " in text
    assert "effect" in text and "(n=24)" in text and "p=0.05 over nulls" in text
    assert "p=0.25 over nulls" in repr(Comparison.of(1.0, [0.0, 0.1, 0.2]))


@pytest.mark.parametrize(
    ("observed", "nulls", "settings", "message"),
    [
        ([1.0, 2.0], [], {}, "at least one null"),
        ([1.0, 2.0], [[1.0]], {}, "same examples"),
        (1.0, [[1.0]], {}, "same examples"),
        ([1.0, math.nan], [[1.0, 2.0]], {}, "NaN"),
        ([1.0], [[1.0]], {"null_names": ["a", "b"]}, "2 names for 1 nulls"),
        ([1.0], [[1.0]], {"side": "more"}, "Unknown side 'more'"),
    ],
)
def test_what_is_no_comparison_is_refused(observed, nulls, settings, message):
    with pytest.raises(BkdinterpError, match=message):
        Comparison.of(observed, nulls, **settings)
