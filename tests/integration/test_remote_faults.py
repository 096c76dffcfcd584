"""Faults of a server: what passes is tried again and nothing is lost, what does not pass is said at once, nothing hangs."""

import http.server
import json
import threading
import time

import httpx
import pytest
import websocket

import bkdinterp as bk
from bkdinterp.engine import _remote, _retry, _server_versions, _watched_backend
from bkdinterp.engine._retry import again, passes
from bkdinterp.engine._server_versions import between, differences, own
from bkdinterp.engine._watched_backend import Lost, WatchedBackend
from bkdinterp.errors import RemoteError

HOST = "http://127.0.0.1:9"


def status(code):
    request = httpx.Request("POST", HOST)
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(code, request=request))


def raised_from(cause, text="Failed to send request"):
    error = RuntimeError(text)
    error.__cause__ = cause
    return error


PASSING = [
    ConnectionRefusedError("refused"),
    ConnectionResetError("reset"),
    TimeoutError("slow"),
    httpx.ConnectError("no route"),
    httpx.ReadTimeout("slow"),
    websocket.WebSocketConnectionClosedException("closed"),
    Lost("gone"),
    raised_from(status(429)),
    raised_from(status(503)),
    RuntimeError("ray.exceptions.ActorDiedError: The actor died unexpectedly"),
    RuntimeError("The worker crashed; try again"),
    RuntimeError("Queue is full"),
]
LASTING = [
    raised_from(status(401), "Unknown API key."),
    raised_from(status(404)),
    raised_from(status(422)),
    ZeroDivisionError("division by zero"),
    RuntimeError("Model nobody/nothing is not deployed"),
    ValueError("a NaN"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda e: str(e)[:30] + type(e).__name__)
def test_what_passes(error):
    assert passes(error)


@pytest.mark.parametrize("error", LASTING, ids=lambda e: str(e)[:30] + type(e).__name__)
def test_what_does_not_pass(error):
    assert not passes(error)


class Flaky:
    """Fails with each of the given errors in turn, then answers."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    def __call__(self, *args):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def pauses(monkeypatch):
    seen = []
    monkeypatch.setattr(_retry.time, "sleep", seen.append)
    return seen


def test_pauses_grow(pauses):
    call = Flaky(*[Lost("gone")] * 3)
    assert again(call, 3) == "answer"
    assert call.calls == 4 and pauses == [1, 2, 4]


def test_a_fault_that_lasts_is_not_tried_again(pauses):
    call = Flaky(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        again(call, 3)
    assert call.calls == 1 and not pauses


def test_in_the_end_the_last_fault_is_said_with_the_tries(pauses):
    call = Flaky(*[Lost("gone")] * 9)
    with pytest.raises(Lost) as last:
        again(call, 2)
    assert call.calls == 3 and "tried 3 times" in last.value.__notes__[0]


@pytest.fixture
def asked(monkeypatch):
    """The remote executor, its one request replaced."""

    def make(call, **settings):
        monkeypatch.setattr(_remote, "_session", call)
        executor = bk.Remote(HOST, "secret-key", progress=False, **settings)
        return lambda model: executor._ask(model, [], HOST, "kind:name", "secret-key")

    return make


def test_a_request_is_sent_again(llama, asked, pauses):
    call = Flaky(raised_from(status(503)), Lost("gone"))
    assert asked(call)(llama) == "answer"
    assert call.calls == 3


def test_without_retries_the_first_fault_is_said(llama, asked, pauses):
    call = Flaky(Lost("gone"))
    with pytest.raises(RemoteError, match="gone"):
        asked(call, retries=0)(llama)
    assert call.calls == 1


def test_a_wrong_key_is_not_tried_again_and_not_shown(llama, asked, pauses):
    call = Flaky(raised_from(status(401), "Unknown API key: secret-key"))
    with pytest.raises(RemoteError, match="refuses the key") as refused:
        asked(call)(llama)
    assert call.calls == 1 and "secret-key" not in str(refused.value)


def test_the_message_says_how_often_and_that_versions_differ(llama, asked, pauses, monkeypatch):
    monkeypatch.setattr(_remote, "differences", lambda *a: "torch 2.13.0 here, 2.1.0 there")
    call = Flaky(*[RuntimeError("actor died: out of memory")] * 9)
    with pytest.raises(
        RemoteError, match=r"tried 4 times .* Versions differ: torch 2.13.0 here, 2.1.0 there\."
    ):
        asked(call)(llama)


@pytest.mark.parametrize("wrong", [-1, 1.5, "many"])
def test_the_number_of_retries_is_checked(wrong):
    with pytest.raises(RemoteError, match="retries"):
        bk.Remote(HOST, retries=wrong)


class Socket:
    """A websocket that says the given things; an exception is raised."""

    def __init__(self, *said):
        self.said, self.closed, self.pings = list(said), False, 0

    def recv(self):
        said = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def settimeout(self, seconds):
        pass

    def ping(self):
        self.pings += 1

    def close(self):
        self.closed = True


class Response:
    def __init__(self, name):
        self.status = type("Status", (), {"name": name})


@pytest.fixture
def backend(monkeypatch):
    def make(*said):
        socket = Socket(json.dumps({"session_id": "7"}), *said)
        monkeypatch.setattr(_watched_backend.websocket, "create_connection", lambda *a, **k: socket)
        found = WatchedBackend("kind:name", host=HOST, api_key="k")
        monkeypatch.setattr(found, "_serialize", lambda tracer: b"")
        monkeypatch.setattr(found, "send", lambda request, blob: None)
        monkeypatch.setattr(found, "parse", lambda message: Response(message))
        monkeypatch.setattr(found, "handle", lambda response: response.status.name)
        return found, socket

    return make


def silence():
    return websocket.WebSocketTimeoutException("nothing")


def test_a_queue_may_take_its_time(backend, monkeypatch):
    monkeypatch.setattr(_watched_backend.httpx, "get", lambda *a, **k: httpx.Response(200))
    found, socket = backend("QUEUED", *[silence() for _ in range(5)], "RUNNING", silence(), "COMPLETED")
    request = type("Request", (), {})()
    assert found.request(request, None) == "COMPLETED"
    assert request.session_id == "7" and socket.pings == 6 and socket.closed


@pytest.mark.parametrize("said", ["", b"", None])
def test_a_connection_that_ends_is_lost(backend, said):
    found, socket = backend("QUEUED", said)
    with pytest.raises(Lost, match="closed the connection"):
        found.request(type("Request", (), {})(), None)
    assert socket.closed


def test_a_server_that_is_gone_is_noticed_in_silence(backend):
    found, socket = backend("QUEUED", silence())
    with pytest.raises(Lost, match="does not answer any more"):
        found.request(type("Request", (), {})(), None)
    assert socket.closed


def test_a_server_that_has_forgotten_the_connection_is_noticed(backend, monkeypatch):
    monkeypatch.setattr(_watched_backend.httpx, "get", lambda *a, **k: httpx.Response(200))
    found, socket = backend("QUEUED", silence())
    socket.ping = Flaky(BrokenPipeError("forgotten"))
    with pytest.raises(Lost):
        found.request(type("Request", (), {})(), None)


OURS = {
    "python_version": "3.11.7",
    "packages": {"nnsight": "0.7.1", "torch": "2.13.0+cpu", "transformers": "5.22.2"},
}


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"python_version": "3.11.2 (main)", "packages": {"nnsight": "0.7.1", "torch": "2.13.0+cu130"}}, ""),
        ({"python_version": "3.12.1", "packages": {}}, "Python 3.11.7 here, 3.12.1 there"),
        ({"packages": {"nnsight": "0.6.0", "torch": "2.13.0"}}, "nnsight 0.7.1 here, 0.6.0 there"),
        (
            {"packages": {"torch": "2.9.0", "transformers": "4.5"}},
            "torch 2.13.0+cpu here, 2.9.0 there; transformers 5.22.2 here, 4.5 there",
        ),
        # What a server says may have any form.
        ({"packages": ["torch"]}, ""),
        ({"python_version": None, "packages": {"torch": 2}}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_versions_are_told_apart(theirs, said):
    assert between(OURS, theirs) == said


def test_own_versions_are_those_installed():
    found = own()
    assert {"nnsight", "torch", "transformers"} == set(found["packages"])
    assert between(found, found) == ""


def test_versions_of_a_server_are_read_and_a_strange_one_is_no_error(monkeypatch):
    answers = iter(
        [json.dumps({"python_version": "2.7.1", "packages": {}}).encode(), b"<html>", b"\xff" * 99]
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/env"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(next(answers))

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = f"http://127.0.0.1:{server.server_port}"
    assert differences(host, 5).endswith("2.7.1 there")
    assert differences(host, 5) == "" and differences(host, 5) == ""
    server.shutdown()
    thread.join()
    start = time.monotonic()
    assert differences(HOST, 5) == ""
    assert time.monotonic() - start < 5
    assert _server_versions.MATTER[0] == "nnsight"
