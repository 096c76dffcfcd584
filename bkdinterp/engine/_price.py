"""The fixed cost of forward passes, and how to cut work into the cheapest passes. No forwards.

A pass reads every layer's weights, whatever the number of tokens. On a CPU this costs as much as the arithmetic of some
dozens of tokens (measured: 85, SmolLM2-135M on two cores). The exact number changes times by only a few percent.
"""

from collections.abc import Callable, Sequence
from math import ceil, isqrt

FIXED_TOKENS = 64
# Fewer runs stay whole rows of one batch: sharing saves little, and in one batch a run differs from its base by exactly 0
# if an edit changes nothing.
MIN_NODES = 3
# Most prices computed in one search; more would take seconds.
MAX_PRICES = 400_000


def cheapest_cuts(
    n: int, limit: int, price: Callable[[int, int], float], *, at: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Cut ``n`` things in a row into pieces of at most ``limit`` with the lowest total price.

    Args:
        n: number of things.
        limit: most things in one piece; pieces of one are always allowed.
        price: price of the piece ``first:stop``.
        at: only cut before these, ascending; a piece may exceed ``limit`` if they are further apart. None allows any cut.

    Returns:
        (first, stop) of each piece, in order. Computes (number of places) x (places within ``limit``) prices.
    """
    places = [0, *(range(1, n) if at is None else (i for i in at if 0 < i < n)), n]
    best, cut, low = [0.0], [0], 0
    for k in range(1, len(places) if n else 1):
        stop = places[k]
        while low < k - 1 and stop - places[low] > limit:
            low += 1
        total, first = min((best[j] + price(places[j], stop), j) for j in range(low, k))
        best.append(total)
        cut.append(first)
    pieces, k = [], len(cut) - 1
    while k > 0:
        pieces.append((places[cut[k]], places[k]))
        k = cut[k]
    return pieces[::-1]


def cut_places(values: Sequence[int], limit: int) -> list[int] | None:
    """Places to cut sorted values that are too many to try all places: where they change, and evenly in between.

    None if all places can be tried.
    """
    n = len(values)
    if n * min(n, limit) <= MAX_PRICES:
        return None
    step = max(1, min(limit, ceil(isqrt(n * min(n, limit) // MAX_PRICES) + 1)))
    places: list[int] = []
    first = 0
    for i in range(1, n + 1):
        if i == n or values[i] != values[i - 1]:
            places += range(first, i, step)
            first = i
    return places


def even_slices(n: int, most: int) -> list[tuple[int, int]]:
    """Cut ``n`` things into as few slices of at most ``most`` as possible, all of about the same size."""
    if n == 0:
        return []
    count = ceil(n / max(1, most))
    return [(n * i // count, n * (i + 1) // count) for i in range(count)]
