"""What forward passes cost beside their tokens, and how to cut work into the cheapest ones. No forwards.

A pass reads every layer's weights whatever the number of its tokens; on a CPU that is worth the arithmetic of some
dozens of tokens (measured: 85, SmolLM2-135M on two cores). The exact number moves times by some percent.
"""

from collections.abc import Callable, Sequence
from math import ceil, isqrt

FIXED_TOKENS = 64
# Fewer runs stay whole rows of one batch: little is saved, and a run beside its own base then differs from it by
# exactly 0 where an edit changes nothing.
MIN_NODES = 3
# Prices that are looked at in one search; more would take seconds.
MAX_PRICES = 400_000


def cheapest_cuts(
    n: int, limit: int, price: Callable[[int, int], float], *, at: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Cut ``n`` things in a row into pieces of at most ``limit`` so that the prices sum to the least.

    Args:
        n: how many.
        limit: most in one piece; pieces of one are always allowed.
        price: of the piece ``first:stop``.
        at: only cut before these, ascending; where they are further apart than ``limit``, a piece may be longer than it.
            None: anywhere.

    Returns:
        (first, stop) of each piece, in order. Looks at (number of places) x (places within ``limit``) prices.
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
    """Where to cut so many sorted values that not every place can be looked at: where they change, and evenly between.

    None where every place can be.
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
    """``n`` things in as few slices of at most ``most`` as there need be, all of about one size."""
    if n == 0:
        return []
    count = ceil(n / max(1, most))
    return [(n * i // count, n * (i + 1) // count) for i in range(count)]
