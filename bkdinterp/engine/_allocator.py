"""Free memory that is still the process's: handed back to the system once it is more than a plan needs.

Every trace runs its code in a thread of its own, glibc gives threads heaps of their own and trims each at its top only:
over a sweep the process would grow by what such heaps hold back. Linux with glibc; elsewhere nothing happens.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_STATM = Path("/proc/self/statm")


class Allocator:
    """Watches the process's resident memory from its making on.

    Args:
        allowed: bytes that it may grow by before free memory is handed back.
        resident: the bytes it has now, or None where nobody knows.
        trim: hands back what is free.
    """

    def __init__(
        self,
        allowed: int,
        *,
        resident: Callable[[], int | None] | None = None,
        trim: Callable[[int], Any] | None = None,
    ) -> None:
        self._resident = resident or resident_bytes
        self._trim = trim or malloc_trim()
        self._limit = None
        now = self._resident()
        if self._trim is not None and now is not None:
            self._limit = now + allowed

    def settle(self) -> None:
        """Call between chunks. Microseconds; milliseconds when there is something to hand back."""
        if self._limit is None or self._trim is None:
            return
        now = self._resident()
        if now is not None and now > self._limit:
            self._trim(0)


def resident_bytes() -> int | None:
    """Resident memory of this process, or None where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


@cache
def malloc_trim() -> Callable[[int], Any] | None:
    """The C library's function of this name, if it has one."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:
        return None
