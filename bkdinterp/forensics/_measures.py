"""Intervals as a report's measures, and in words. No forwards."""

from bkdinterp.report import Measure
from bkdinterp.stats import Interval


def ends_of(rate: Interval) -> str:
    """The ends of a rate's interval, in percent: "[81, 100]"."""
    return f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def measure(
    name: str, x: Interval, *, null: float | None = None, null_name: str = "", unit: str = "share"
) -> Measure:
    """An interval as a measure."""
    return Measure(name, x.estimate, unit, x.n, x.low, x.high, x.level, null, null_name)
