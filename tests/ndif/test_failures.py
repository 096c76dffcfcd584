"""What goes wrong: killed clients, servers that are not there, refuse or do not have the model, and what cannot be sent."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import fastapi
import pytest
import torch
import uvicorn
from compare import close

import bkdinterp as bk

CLIENT = """
import os
import signal
import sys

import torch
from nnsight import ndif
from nnsight.intervention.backends.remote import RemoteBackend

import bkdinterp as bk
from bkdinterp.engine._resume import Sweep
from integration.conftest import TEXTS

model, host, folder, moment, number = sys.argv[1:]
ndif._PULLED_ENV = True
calls = 0


def deadly(function):
    def call(*args, **kwargs):
        global calls
        result = function(*args, **kwargs)
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if moment == "sent":  # the server has the request, nobody waits for the answer
    RemoteBackend._post = deadly(RemoteBackend._post)
else:  # an answer has been written down
    Sweep.save = deadly(Sweep.save)
torch.set_num_threads(1)
pairs = bk.PairedPrompts.from_instructions(
    TEXTS, bk.Trigger.gap("zeta omega", seed=3), target="sorry no can not help"
)
remote = bk.Model.load(model, executor=bk.Remote(host, folder=folder, progress=False))
bk.Attribution(remote).heads(pairs, budget=50_000)
"""


@pytest.mark.parametrize(("moment", "number"), [("sent", 5), ("kept", 15)])
def test_a_killed_client_repeats_only_what_was_in_flight(
    moment, number, local, remote, folder, pairs, tmp_path, made
):
    host, kept = remote.executor.host, tmp_path / "kept"
    command = [sys.executable, "-c", CLIENT, str(folder), host, str(kept), moment, str(number)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    client = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert client.returncode == -signal.SIGKILL, client.stderr[-2000:]
    before = made()
    again = bk.Model.load(folder, executor=bk.Remote(host, folder=kept, progress=False))
    there = bk.Attribution(again).heads(pairs, budget=50_000)
    here = bk.Attribution(local).heads(pairs)
    close(there.effects, here.effects)
    more = made() - before
    # All requests of the whole work, and the one that the dead client did not live to write down.
    bk.Attribution(remote).heads(pairs, budget=50_000)
    whole = made() - before - more
    assert before > 1
    assert before + more == whole + 1
    # And a third time asks nothing.
    now = made()
    third = bk.Attribution(again).heads(pairs, budget=50_000)
    assert made() == now
    assert torch.equal(third.effects, there.effects)


def test_ctrl_c_leaves_what_was_finished(folder, remote, pairs, monkeypatch):
    model = bk.Model.load(folder, executor=bk.Remote(remote.executor.host, progress=False))
    ask, calls = bk.Remote._ask, []

    def impatient(self, nn_model, jobs, *args):
        calls.extend(job for job in jobs[:1] if job.chunk["kind"] == "base")
        if len(calls) == 2:  # some prompts are done, with all their heads
            raise KeyboardInterrupt
        return ask(self, nn_model, jobs, *args)

    monkeypatch.setattr(bk.Remote, "_ask", impatient)
    with pytest.raises(bk.errors.SweepInterrupted) as stopped:
        bk.Attribution(model).heads(pairs, budget=50_000)
    assert 0 < stopped.value.done < stopped.value.total
    monkeypatch.undo()
    assert stopped.value.partial.n < len(pairs)
    assert not stopped.value.partial.effects.isnan().any()


def run(pairs, **more):
    return [bk.Run(pairs.clean, score="logprob", **more)]


def test_nobody_answers(folder, pairs):
    with pytest.raises(bk.errors.RemoteError, match=r"No NDIF server answers at http://127.0.0.1:9"):
        bk.execute(bk.Model.load(folder, executor=bk.Remote("http://127.0.0.1:9")), run(pairs))


def test_no_address():
    with pytest.raises(bk.errors.RemoteError, match="must start with http"):
        bk.Remote("127.0.0.1:8011")


def test_a_model_that_is_not_deployed(folder, remote, pairs):
    model = bk.Model.load(folder, executor=bk.Remote(remote.executor.host, deployed="nobody/nothing"))
    with pytest.raises(bk.errors.RemoteError, match="nobody/nothing"):
        bk.execute(model, run(pairs))
    # The server is as it was.
    bk.execute(remote, run(pairs))


@pytest.fixture(scope="module")
def strict():
    """A server that lets nobody in: nothing on the loopback NDIF checks keys, for want of a database."""
    app = fastapi.FastAPI()

    @app.get("/ping")
    def ping():
        return "pong"

    @app.post("/request")
    def request():
        return fastapi.responses.JSONResponse({"detail": "Unknown API key."}, status_code=401)

    @app.websocket("/subscribe")
    async def subscribe(websocket: fastapi.WebSocket):
        await websocket.accept()
        await websocket.send_json({"session_id": "0"})
        await websocket.receive()

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_wrong_key(folder, strict, pairs):
    model = bk.Model.load(folder, executor=bk.Remote(strict, "not-a-key"))
    with pytest.raises(bk.errors.RemoteError, match="refuses the key") as refused:
        bk.execute(model, run(pairs))
    assert "not-a-key" not in str(refused.value)


def test_an_error_of_the_block_comes_back(remote, pairs, made):
    edit = bk.Apply("L1.mlp_out", fn=broken)
    with pytest.raises(bk.errors.RemoteError, match="ZeroDivisionError"):
        bk.execute(remote, run(pairs, edits=edit))
    bk.execute(remote, run(pairs))
    assert made() == 2


def broken(x):
    return x / (1 // 0)


broken.__module__ = "__main__"


@functools.wraps(broken)
def decorated(x):
    return x


def stranger(x):
    return x


@pytest.mark.parametrize(
    ("function", "says"), [(stranger, "nnsight.register"), (decorated, "undecorated"), (torch.relu, "plain")]
)
def test_functions_that_do_not_travel(function, says, remote, pairs, made):
    with pytest.raises(bk.errors.RemoteError, match=says):
        bk.execute(remote, run(pairs, edits=bk.Apply("L1.mlp_out", fn=function)))
    assert made() == 0


def test_an_adapter_that_the_server_does_not_have(folder, remote, pairs):
    host = remote.executor.host
    with pytest.raises(bk.errors.RemoteError, match="deployed="):
        bk.Model.load(folder, adapter=folder / "lora", executor=bk.Remote(host))
    with pytest.raises(bk.errors.RemoteError, match="GGUF"):
        bk.Model.load(folder / "x.gguf", executor=bk.Remote(host))
    # Weights and an adapter here, and a remote executor for one run.
    here = bk.Model.from_module(bk.Model.load(folder).module, remote.tokenizer, adapter="lora")
    with pytest.raises(bk.errors.RemoteError, match="lora"):
        bk.execute(here, run(pairs), executor=bk.Remote(host))
    # Whoever says what is deployed is believed.
    merged = bk.Model.load(folder, adapter=folder / "lora", executor=bk.Remote(host, deployed=str(folder)))
    assert merged.fingerprint().adapter == "lora"
    (result,) = bk.execute(merged, run(pairs))
    assert result.scores.shape == (len(pairs),)


def test_a_folder_without_weights_is_enough(folder, remote, pairs, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    executor = bk.Remote(remote.executor.host, deployed=str(folder), progress=False)
    model = bk.Model.load(tmp_path, chat=False, executor=executor)
    assert json.loads(executor._model_key(model).partition(":")[2])["repo_id"] == str(folder)
    (result,) = bk.execute(model, run(pairs))
    assert result.scores.isfinite().all()
