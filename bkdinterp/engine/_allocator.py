"""Returns free memory of the process to the system if the process holds more than a plan needs.

Every trace runs its code in its own thread, and glibc gives threads their own heaps and trims each only at its top.
Over a sweep the process would grow by what these heaps hold back. Only for Linux with glibc; elsewhere it does nothing.
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
    """Watches the growth of the process's resident memory since the object was created.

    Args:
        allowed: bytes of growth before free memory is returned.
        resident: gives the present bytes, or None if unknown.
        trim: returns free memory to the system.
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
        """Call between chunks. Takes microseconds, or milliseconds if there is memory to return."""
        if self._limit is None or self._trim is None:
            return
        now = self._resident()
        if now is not None and now > self._limit:
            self._trim(0)


def resident_bytes() -> int | None:
    """Resident memory of this process, or None if the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


@cache
def malloc_trim() -> Callable[[int], Any] | None:
    """The C library's function ``malloc_trim``, if it has one."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:
        return None
