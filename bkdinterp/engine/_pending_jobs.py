"""Jobs that are sent to a server without waiting for them: what was sent, what has to wait, and what has been answered."""

from typing import Any

from nnsight.intervention.backends.display import StatusDisplay
from nnsight.intervention.backends.remote import RemoteBackend

from bkdinterp.engine._wire import Output


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


def quiet_backend(
    key: str, host: str, secret: str | None, env: dict[str, Any], job: str | None
) -> RemoteBackend:
    """nnsight's backend that sends a block, or asks for the answer of a job that was sent."""
    backend = RemoteBackend(key, host=host, api_key=secret, env=env, blocking=False, job_id=job)
    backend.display = StatusDisplay(enabled=False)
    return backend


def collected(backend: RemoteBackend) -> list[Output] | None:
    """The answer of a job; None if it is not finished."""
    saved = backend.poll()
    return None if saved is None else list(saved["outs"])
