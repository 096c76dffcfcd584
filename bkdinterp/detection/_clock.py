"""How long work may take: asked between pieces of it, never inside a forward pass. No model."""

import math
import time
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.values import as_number


def as_minutes(value: Any) -> float | None:
    """A time limit that a user gave; None for no limit.

    Raises:
        BkdinterpError: not a positive number.
    """
    if value is None:
        return None
    found = float(as_number(value, "minutes", low=0, error=BkdinterpError))
    if not found:
        raise BkdinterpError(f"minutes={value} leaves no time at all; give more, or None for no limit.")
    return found


class Clock:
    """Minutes that run from now on; None for as long as it takes.

    Raises:
        BkdinterpError: minutes that are not a number of at least 0.
    """

    def __init__(self, minutes: Any = None) -> None:
        seconds = math.inf
        if minutes is not None:
            seconds = 60 * as_number(minutes, "minutes", low=0, error=BkdinterpError)
        self._start = time.monotonic()
        self._end = self._start + seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the end; infinite without one."""
        return self._end - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return self.left <= 0

    def minutes(self, share: float) -> float | None:
        """A share of what is left, in minutes; None without an end."""
        return None if math.isinf(self.left) else max(0.0, share * self.left / 60)
