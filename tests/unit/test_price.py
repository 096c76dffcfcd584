"""Cutting work into forward passes: never dearer than any other way to cut it."""

import random
from itertools import combinations, pairwise

import pytest

from bkdinterp.engine._price import cheapest_cuts


@pytest.mark.parametrize("seed", range(8))
def test_cuts_are_the_cheapest_of_all(seed):
    draw = random.Random(seed)
    n, limit = draw.randint(1, 9), draw.randint(1, 9)
    lengths = sorted(draw.randint(1, 50) for _ in range(n))
    fixed = draw.choice([0, 10, 100])

    def price(first, stop):
        return float(fixed + (stop - first) * lengths[stop - 1])

    every = []
    for k in range(n):
        for inner in combinations(range(1, n), k):
            bounds = [0, *inner, n]
            pieces = list(pairwise(bounds))
            if all(b - a <= limit for a, b in pieces):
                every.append(sum(price(a, b) for a, b in pieces))
    cuts = cheapest_cuts(n, limit, price)
    assert [a for a, _ in cuts] == [0, *[b for _, b in cuts][:-1]] and cuts[-1][1] == n
    assert all(b - a <= limit for a, b in cuts)
    assert sum(price(a, b) for a, b in cuts) == min(every)


def test_dear_passes_make_one_piece_and_free_ones_many():
    lengths = [10, 20, 40]
    assert cheapest_cuts(3, 3, lambda a, b: 1000.0 + (b - a) * lengths[b - 1]) == [(0, 3)]
    assert cheapest_cuts(3, 3, lambda a, b: 1.0 * (b - a) * lengths[b - 1]) == [(0, 1), (1, 2), (2, 3)]
