"""Faults that pass: which they are, and trying again with growing pauses."""

import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import websocket

T = TypeVar("T")
# HTTP answers that ask for patience: timeouts, full queues, gateways, servers that start.
BUSY = frozenset({408, 425, 429, 502, 503, 504})
# What a server says of a worker that died or moves under a request; the same request may succeed on its successor.
_GOING = re.compile(
    r"actor\s*(died|unavailable)|worker\s*(died|crashed)|evict|restarting|try again|temporarily|queue is full",
    re.I,
)
# Seconds before the second try; each later pause is twice as long.
FIRST_PAUSE = 1.0


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later.

    Connections that fail, busy servers and workers that died pass; a wrong key, a missing model and an error of the sent code do
    not.
    """
    for cause in causes(error):
        if isinstance(cause, httpx.HTTPStatusError):
            return cause.response.status_code in BUSY
        if isinstance(cause, websocket.WebSocketBadStatusException):
            return cause.status_code in BUSY
        if isinstance(
            cause, ConnectionError | TimeoutError | httpx.TransportError | websocket.WebSocketException
        ):
            return True
    return bool(_GOING.search(str(error)))


def again(call: Callable[[], T], retries: int, *, pause: float = FIRST_PAUSE) -> T:
    """Call; after a fault that passes, wait and call again, ``retries`` times at most.

    Raises:
        Exception: the last fault, with a note of how often it was tried if it was tried again.
    """
    start = time.monotonic()
    for left in range(retries, -1, -1):
        try:
            return call()
        except Exception as error:
            tries = retries - left + 1
            if left and passes(error):
                time.sleep(pause * 2 ** (tries - 1))
                continue
            if tries > 1:
                error.add_note(f"tried {tries} times in {time.monotonic() - start:.0f} s")
            raise
    raise AssertionError("unreachable")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
