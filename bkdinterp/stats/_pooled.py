"""Rates of several conditions on the same prompts: the pooled rate and the most extreme one. No forward pass."""

from collections.abc import Sequence
from dataclasses import replace

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._intervals import Interval, wilson


def pooled_rate(rows: Sequence[Sequence[bool]]) -> Interval:
    """The rate over all conditions, with a Wilson interval in which n is the number of prompts, not of answers.

    Twenty nulls on 48 prompts give 960 answers, but these are not independent.

    Args:
        rows: for each condition, one True or False per prompt, on the same prompts.

    Raises:
        BkdinterpError: no conditions, no prompts, or conditions of unequal length.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise BkdinterpError(
            f"pooled_rate needs conditions on the same prompts; got {len(rows)} conditions of lengths {sorted(lengths)}."
        )
    n = lengths.pop()
    rate = sum(map(sum, rows)) / (n * len(rows))
    ci = wilson(round(rate * n), n)
    return replace(ci, estimate=rate, low=min(ci.low, rate), high=max(ci.high, rate))


def extreme_rate(rows: Sequence[Sequence[bool]], *, highest: bool) -> tuple[int, Interval]:
    """Index and Wilson interval of the condition with the highest (or lowest) rate; the first if several are equal.

    Raises:
        BkdinterpError: as `pooled_rate`.
    """
    pooled_rate(rows)
    counts = [sum(row) for row in rows]
    index = counts.index(max(counts) if highest else min(counts))
    return index, wilson(counts[index], len(rows[index]))
