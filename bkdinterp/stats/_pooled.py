"""Rates of several conditions on the same prompts: pooled, and the single most extreme one. No forward pass."""

from collections.abc import Sequence
from dataclasses import replace

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._intervals import Interval, wilson


def pooled_rate(rows: Sequence[Sequence[bool]]) -> Interval:
    """The rate over all conditions, with an interval that counts prompts, not answers: Wilson's at n = prompts.

    Twenty nulls on 48 prompts are 960 answers, but not 960 independent ones.

    Args:
        rows: for each condition one yes or no per prompt, on the same prompts.

    Raises:
        BkdinterpError: no condition, no prompt, or conditions of unequal length.
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
    """Index and Wilson interval of the condition with the highest (or lowest) rate; the first of equals.

    Raises:
        BkdinterpError: as `pooled_rate`.
    """
    pooled_rate(rows)
    counts = [sum(row) for row in rows]
    index = counts.index(max(counts) if highest else min(counts))
    return index, wilson(counts[index], len(rows[index]))
