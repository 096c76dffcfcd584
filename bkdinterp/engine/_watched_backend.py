"""WatchedBackend: nnsight's request to a server, without waiting for ever on a connection that is gone.

nnsight listens on a websocket and takes an end of it, or silence, for "not yet". Here an end is an error, and after a while of
silence the server is asked whether it is still there; a queue may take as long as it likes.
"""

import json
from typing import Any

import httpx
import websocket

from bkdinterp.engine._safe_answers import SafeAnswers

# Seconds of silence after which the server is asked, and that it may take to answer or to open a connection.
QUIET, ANSWER = 30.0, 20.0


class Lost(ConnectionError):
    """The connection ended, or nobody is at its other end, before the answer came."""


class WatchedBackend(SafeAnswers):
    """See the module."""

    quiet: float = QUIET

    def request(self, request: Any, tracer: Any) -> Any:
        """Send one request and wait for its answer.

        Raises:
            Lost: the server closed the connection, or does not answer any more.
        """
        blob = self._serialize(tracer)
        header = {"ndif-api-key": self.api_key} if self.api_key else None
        connection = websocket.create_connection(f"{self.ws_host}/subscribe", header=header, timeout=ANSWER)
        try:
            request.session_id = json.loads(self._heard(connection))["session_id"]
            self.send(request, blob)
            connection.settimeout(self.quiet)
            while True:
                try:
                    message = self._heard(connection)
                except websocket.WebSocketTimeoutException:
                    self._ask_whether_there(connection)
                    continue
                response = self.parse(message)
                answer = self.handle(response)
                if response.status.name == "COMPLETED":
                    return answer
        finally:
            connection.close()

    def _heard(self, connection: Any) -> Any:
        message = connection.recv()
        if not message:
            raise Lost("the server closed the connection before it answered")
        return message

    def _ask_whether_there(self, connection: Any) -> None:
        """Raise if the server is gone; a server that has forgotten the connection refuses what is sent on it."""
        try:
            connection.ping()
            httpx.get(f"{self.host}/ping", timeout=ANSWER)
        except (OSError, httpx.TransportError, websocket.WebSocketException) as error:
            raise Lost(f"the server does not answer any more ({type(error).__name__})") from error
