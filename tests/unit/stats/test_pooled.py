"""Rates of several nulls: pooled by prompt, and the most extreme one."""

import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import extreme_rate, pooled_rate, wilson


def test_pooled_rates_count_prompts_not_answers():
    rows = [[True] * 3 + [False] * 7, [True] * 5 + [False] * 5]
    pooled = pooled_rate(rows)
    assert pooled.estimate == pytest.approx(0.4)
    assert pooled.n == 10
    assert (pooled.low, pooled.high) == (wilson(4, 10).low, wilson(4, 10).high)
    # Twenty times the same answers are no more evidence.
    many = pooled_rate(rows * 20)
    assert (many.low, many.high, many.n) == (pooled.low, pooled.high, 10)


def test_the_interval_holds_the_pooled_rate_where_it_lies_between_counts():
    pooled = pooled_rate([[False] * 4, [False] * 3 + [True]])
    assert pooled.low <= pooled.estimate == 0.125 <= pooled.high


def test_the_extreme_is_the_first_of_equals():
    rows = [[True, False], [False, False], [True, True], [True, True], [False, False]]
    assert extreme_rate(rows, highest=True)[0] == 2
    assert extreme_rate(rows, highest=False) == (1, wilson(0, 2))


@pytest.mark.parametrize("rows", [[], [[]], [[True], [True, False]]])
def test_conditions_are_on_the_same_prompts(rows):
    with pytest.raises(BkdinterpError, match="same prompts"):
        pooled_rate(rows)
