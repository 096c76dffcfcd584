"""What forward passes cost beside their tokens, and how to cut work into the cheapest ones. No forwards.

A pass reads every layer's weights whatever the number of its tokens; on a CPU that is worth the arithmetic of some
dozens of tokens (measured: 85, SmolLM2-135M on two cores). The exact number moves times by some percent.
"""

from collections.abc import Callable

FIXED_TOKENS = 64
# Fewer runs stay whole rows of one batch: little is saved, and a run beside its own base then differs from it by
# exactly 0 where an edit changes nothing.
MIN_NODES = 3


def cheapest_cuts(n: int, limit: int, price: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """Cut ``n`` things in a row into pieces of at most ``limit`` so that the prices sum to the least.

    Args:
        n: how many.
        limit: most in one piece; pieces of one are always allowed.
        price: of the piece ``first:stop``.

    Returns:
        (first, stop) of each piece, in order.
    """
    best, cut = [0.0], [0]
    for stop in range(1, n + 1):
        totals = [
            (best[first] + price(first, stop), first) for first in range(max(0, stop - max(1, limit)), stop)
        ]
        total, first = min(totals)
        best.append(total)
        cut.append(first)
    pieces, stop = [], n
    while stop > 0:
        pieces.append((cut[stop], stop))
        stop = cut[stop]
    return pieces[::-1]
