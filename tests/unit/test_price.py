"""Cutting work into forward passes: never dearer than any other way to cut it."""

import random
from itertools import combinations, pairwise

import pytest

from bkdinterp.engine import _price
from bkdinterp.engine._price import cheapest_cuts, cut_places, even_slices


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


def test_many_things_are_cut_at_fewer_places(monkeypatch):
    monkeypatch.setattr(_price, "MAX_PRICES", 2000)
    lengths = sorted(10 + i % 7 for i in range(500))
    assert cut_places(lengths[:20], 20) is None

    looked = []

    def price(first, stop):
        looked.append(stop)
        return 64.0 + (stop - first) * lengths[stop - 1]

    for limit in (3, 100, 500):
        places = cut_places(lengths, limit)
        looked.clear()
        cuts = cheapest_cuts(500, limit, price, at=places)
        n_looked = len(looked)
        best = cheapest_cuts(500, limit, price)
        assert [a for a, _ in cuts] == [0, *[b for _, b in cuts][:-1]] and cuts[-1][1] == 500
        assert all(b - a <= limit for a, b in cuts)
        assert sum(price(*c) for c in cuts) <= 1.05 * sum(price(*c) for c in best)
        assert n_looked < 10_000


@pytest.mark.parametrize(("n", "most"), [(0, 3), (1, 5), (7, 3), (9, 3), (10, 4), (5, 0)])
def test_slices_are_few_and_even(n, most):
    cuts = even_slices(n, most)
    sizes = [b - a for a, b in cuts]
    assert sum(sizes) == n and [a for a, _ in cuts] == [0, *[b for _, b in cuts][:-1]][: len(cuts)]
    assert all(size <= max(1, most) for size in sizes) and (not sizes or max(sizes) - min(sizes) <= 1)
    assert len(cuts) == -(-n // max(1, most))
