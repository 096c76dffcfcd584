"""Jobs that are sent to a server without waiting for them: what was sent, what has to wait, and what has been answered."""

import time
from dataclasses import dataclass
from typing import Any

import httpx
from nnsight.schema.response import Status

from bkdinterp.engine._retry import causes, passes
from bkdinterp.engine._safe_answers import SafeAnswers
from bkdinterp.engine._wire import Output

# HTTP answers of an object store that has let an answer go, or whose address of it has run out.
GONE = frozenset({403, 404, 410})
# Seconds after which a server that knows nothing of a job will not learn of it.
UNKNOWN = 600.0


@dataclass(frozen=True)
class Ended:
    """A job that will never be answered.

    Attributes:
        reason: why.
        again: whether the same request may succeed.
    """

    reason: str
    again: bool


class Waiting:
    """Requests whose answers are not there yet; what needs values of theirs has a higher level and is held back."""

    def __init__(self) -> None:
        self.sent, self.unsent = 0, 0
        self._level: int | None = None

    def add(self, level: int) -> None:
        """One more at the server."""
        self.sent += 1
        self._level = level if self._level is None else min(level, self._level)

    def holds_back(self, level: int) -> bool:
        """Whether requests of a level may need answers that are not there yet."""
        return self._level is not None and level > self._level


def later_backend(
    key: str, host: str, secret: str | None, env: dict[str, Any], job: str | None
) -> SafeAnswers:
    """A backend that sends a block, or asks for the answer of a job that was sent."""
    return SafeAnswers(key, host=host, api_key=secret, env=env, blocking=False, job_id=job)


def collected(backend: SafeAnswers, sent: float) -> list[Output] | Ended | None:
    """The answer of a job, or why there will be none; None if it is not finished."""
    backend.status = None
    try:
        saved = backend.poll()
    except Exception as error:
        if backend.status == Status.ERROR:
            # A server tells this for ever, so asking again is of no use; sending again may be.
            return Ended(str(error), passes(error))
        answer = next((c.response for c in causes(error) if isinstance(c, httpx.HTTPStatusError)), None)
        if backend.status == Status.COMPLETED and answer is not None and answer.status_code in GONE:
            return Ended("it was finished, but the server keeps its answer no longer", again=True)
        raise
    if saved is None:
        if backend.status is None and time.time() - sent > UNKNOWN:
            return Ended("the server knows nothing of it", again=True)
        return None
    return list(saved["outs"])


def may_have_arrived(error: BaseException) -> bool:
    """Whether a request that failed may be at the server all the same: it was sent, and only its receipt is missing."""
    lost = httpx.ReadTimeout | httpx.ReadError | httpx.RemoteProtocolError | httpx.WriteError
    return any(isinstance(cause, lost) for cause in causes(error))
