"""Jobs that are not waited for: sent once, collected later and by whom it may be, in the order in which they depend."""

import io
import time

import httpx
import pytest
import torch
from nnsight.schema.response import ResponseModel, Status

import bkdinterp as bk
from bkdinterp.engine import Run, _remote, execute, program
from bkdinterp.engine._pending_jobs import Ended, collected
from bkdinterp.engine._resume import SentJob
from bkdinterp.engine._safe_answers import SafeAnswers
from bkdinterp.errors import JobsPending, RemoteError
from bkdinterp.interventions import Read
from bkdinterp.model._attention import WHOLE_CACHE

HOST = "http://127.0.0.1:9"


class Server:
    """Answers jobs when it is told to."""

    def __init__(self, model):
        self.model, self.jobs, self.ready, self.asked = model, {}, set(), []
        self.fault = None

    def session(self, nn, backend, chunks, scores):
        if isinstance(self.fault, Exception):
            raise self.fault
        backend.job_id = f"job-{len(self.jobs)}"
        self.jobs[backend.job_id] = chunks, scores
        return []

    def collected(self, backend, sent):
        self.asked.append(backend.job_id)
        assert abs(time.time() - sent) < 600
        if isinstance(self.fault, Ended):
            return self.fault
        if self.fault is not None:
            raise self.fault
        return self.answer(*self.jobs[backend.job_id]) if backend.job_id in self.ready else None

    def answer(self, chunks, scores):
        nn, outs, state = self.model.nn, [], {"whole_cache": WHOLE_CACHE}
        for first, score in zip(chunks, scores, strict=True):
            chunk, out = first, {}
            if not ("pack" in first or "common" in first):
                state = {"whole_cache": WHOLE_CACHE}
            while chunk is not None:
                with nn.trace(**program.prepare(chunk, state)) as tracer:
                    out = bk_save(program.execute(nn, chunk, score, state))
                    if chunk["score"] is None and not chunk["want"]:
                        tracer.stop()
                chunk = program.advance(chunk, out, state)
            outs.append({key: out[key] for key in ("scores", "reads", "tokens") if key in out})
        return outs


def bk_save(value):
    import nnsight

    return nnsight.save(value)


@pytest.fixture
def server(llama, monkeypatch):
    found = Server(llama)
    monkeypatch.setattr(_remote, "_session", found.session)
    monkeypatch.setattr(_remote, "collected", found.collected)
    monkeypatch.setattr(_remote.Remote, "_reach", lambda self, host: None)
    monkeypatch.setattr(_remote, "differences", lambda *a: "")
    return found


def remote(folder, **settings):
    return bk.Remote(
        HOST, "secret-key", deployed="a/b", folder=folder, progress=False, wait=False, **settings
    )


@pytest.fixture
def runs(pairs):
    """Two levels: the second run takes a value from the first."""
    source = Run(pairs.triggered, reads=(Read("L1.z"),))
    edit = bk.Patch("L1H0", source=Run(pairs.triggered))
    return [source, Run(pairs.clean, edit, score="logprob"), Run(pairs.clean, generate=3)]


def test_sent_once_and_collected_level_by_level(llama, server, runs, tmp_path):
    expected = execute(llama, runs)
    with pytest.raises(JobsPending, match="requests are at the server") as waiting:
        execute(llama, runs, executor=remote(tmp_path))
    assert "secret-key" not in str(waiting.value)
    first = set(server.jobs)
    assert first and not server.asked
    # Nothing is ready: asked for, not sent again, and what depends on it is held back.
    with pytest.raises(JobsPending, match="wait for their answers"):
        execute(llama, runs, executor=remote(tmp_path))
    assert set(server.jobs) == first and set(server.asked) == first
    server.ready = set(server.jobs)
    with pytest.raises(JobsPending):
        # Collected; what depended on them is sent now.
        execute(llama, runs, executor=remote(tmp_path))
    assert len(server.jobs) > len(first)
    server.ready = set(server.jobs)
    found = execute(llama, runs, executor=remote(tmp_path))
    torch.testing.assert_close(found[1].scores, expected[1].scores)
    torch.testing.assert_close(found[0].reads[0], expected[0].reads[0])
    assert found[2].tokens == expected[2].tokens
    n = len(server.jobs), len(server.asked)
    execute(llama, runs, executor=remote(tmp_path))
    assert n == (len(server.jobs), len(server.asked))  # all of it is in the folder


def test_a_job_that_failed_is_said_and_sent_again_by_the_next_call(llama, server, pairs, tmp_path):
    runs = [Run(pairs.clean, score="logprob")]
    with pytest.raises(JobsPending):
        execute(llama, runs, executor=remote(tmp_path))
    server.fault = Ended("division by zero, secret-key", again=False)
    with pytest.raises(RemoteError, match="division by zero") as told:
        execute(llama, runs, executor=remote(tmp_path))
    assert not isinstance(told.value, JobsPending) and "secret-key" not in str(told.value)
    server.fault = None
    with pytest.raises(JobsPending):
        execute(llama, runs, executor=remote(tmp_path))
    assert len(server.jobs) == 2


def test_a_job_that_was_evicted_is_sent_again_at_once(llama, server, pairs, tmp_path):
    runs = [Run(pairs.clean, score="logprob")]
    for fault, n in ((None, 1), (Ended("Replica was evicted", again=True), 2)):
        server.fault = fault
        with pytest.raises(JobsPending):
            execute(llama, runs, executor=remote(tmp_path))
        assert len(server.jobs) == n
    assert server.asked == ["job-0"]
    server.fault, server.ready = None, {"job-1"}
    execute(llama, runs, executor=remote(tmp_path))


def test_one_that_waits_takes_up_what_was_sent(llama, server, pairs, tmp_path, monkeypatch):
    runs = [Run(pairs.clean, score="logprob")]
    with pytest.raises(JobsPending):
        execute(llama, runs, executor=remote(tmp_path))
    naps = []

    def nap(seconds):
        naps.append(seconds)
        server.ready = set(server.jobs)

    monkeypatch.setattr(_remote.time, "sleep", nap)
    waits = bk.Remote(HOST, deployed="a/b", folder=tmp_path, progress=False)
    (found,) = execute(llama, runs, executor=waits)
    torch.testing.assert_close(found.scores, execute(llama, runs)[0].scores)
    assert len(server.jobs) == 1 and naps == [_remote.POLL]


def test_a_lost_receipt_is_not_answered_by_a_second_job(llama, server, pairs, tmp_path):
    lost = RuntimeError("Failed to send request")
    lost.__cause__ = httpx.ReadTimeout("slow")
    server.fault = lost
    with pytest.raises(RemoteError, match="a job that nobody collects"):
        execute(llama, [Run(pairs.clean, score="logprob")], executor=remote(tmp_path))


class Polled:
    """A backend that has been asked."""

    def __init__(self, status, saved=None, error=None):
        self.found, self.saved, self.error, self.status = status, saved, error, None

    def poll(self):
        self.status = self.found
        if self.error is not None:
            raise self.error
        return self.saved


def http_error(code):
    request = httpx.Request("GET", "https://store/x?X-Amz-Signature=abc")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(code, request=request))


@pytest.mark.parametrize(
    ("backend", "age", "expected"),
    [
        (Polled(Status.COMPLETED, {"outs": [{"scores": 1}]}), 0, [{"scores": 1}]),
        (Polled(Status.QUEUED), 9999, None),
        (Polled(None), 0, None),
        (Polled(None), 9999, Ended("the server knows nothing of it", True)),
        (Polled(Status.ERROR, error=ValueError("a NaN")), 0, Ended("a NaN", False)),
        # What is said of an evicted worker would pass for a fault that passes: the job is dead all the same.
        (
            Polled(Status.ERROR, error=RuntimeError("evicted. Please try again later")),
            0,
            Ended("evicted. Please try again later", True),
        ),
        (Polled(Status.COMPLETED, error=http_error(403)), 0, "keeps its answer no longer"),
    ],
)
def test_what_has_become_of_a_job(backend, age, expected):
    found = collected(backend, time.time() - age)
    if isinstance(expected, str):
        assert isinstance(found, Ended) and found.again and expected in found.reason
    else:
        assert found == expected


@pytest.mark.parametrize(
    "backend",
    [
        Polled(Status.COMPLETED, error=http_error(500)),
        Polled(None, error=http_error(401)),
        Polled(Status.COMPLETED, error=MemoryError()),
    ],
)
def test_other_faults_forget_nothing(backend):
    with pytest.raises((httpx.HTTPStatusError, MemoryError)):
        collected(backend, time.time())


def test_a_signed_address_is_not_printed(llama, server, pairs, tmp_path):
    with pytest.raises(JobsPending):
        execute(llama, [Run(pairs.clean, score="logprob")], executor=remote(tmp_path))
    server.fault = RuntimeError(
        "error '500' for url 'https://store/x?X-Amz-Credential=me&X-Amz-Signature=abc'"
    )
    with pytest.raises(RemoteError, match="https://store/x") as told:
        execute(llama, [Run(pairs.clean, score="logprob")], executor=remote(tmp_path, retries=0))
    assert "X-Amz" not in str(told.value) and "abc" not in str(told.value)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_answers_are_tensors_and_plain_values(capsys):
    """Both ways an answer may come."""
    backend = SafeAnswers("kind:name", host=HOST, blocking=False, job_id="x")
    backend.compress = False

    def blob(value):
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    good = {
        "outs": [
            {"scores": torch.ones(2), "reads": {"0.1": torch.ones(1, 2)}, "tokens": torch.ones(1).long()}
        ]
    }
    assert torch.equal(backend.finalize(blob(good))["outs"][0]["scores"], torch.ones(2))
    response = backend.parse(ResponseModel(id="x", status=Status.COMPLETED, data=blob(good)).pickle())
    assert response.status is Status.COMPLETED and isinstance(response.data, bytes)
    with pytest.raises(Exception, match=r"weights_only|may not hold"):
        backend.finalize(blob({"outs": [Evil()]}))
    with pytest.raises(Exception, match=r"weights_only|may not hold"):
        backend.parse(ResponseModel(id="x", status=Status.COMPLETED, data=Evil()).pickle())
    assert capsys.readouterr().out == ""


def test_a_server_that_is_away_forgets_no_job(llama, server, pairs, tmp_path):
    runs = [Run(pairs.clean, score="logprob")]
    with pytest.raises(JobsPending):
        execute(llama, runs, executor=remote(tmp_path))
    server.fault = ConnectionRefusedError("refused")
    with pytest.raises(RemoteError, match="refused"):
        execute(llama, runs, executor=remote(tmp_path, retries=0))
    server.fault, server.ready = None, set(server.jobs)
    (found,) = execute(llama, runs, executor=remote(tmp_path))
    torch.testing.assert_close(found.scores, execute(llama, runs)[0].scores)
    assert len(server.jobs) == 1


def test_a_sweep_is_a_plan_like_any_other(llama, server, pairs, tmp_path):
    expected = bk.Attribution(llama).heads(pairs, progress=False)
    for _ in range(4):
        try:
            found = bk.Attribution(llama).heads(pairs, executor=remote(tmp_path), progress=False)
            break
        except JobsPending:
            server.ready = set(server.jobs)
    torch.testing.assert_close(found.effects, expected.effects)


def test_an_id_in_the_folder_is_no_path(llama, server, pairs, tmp_path, monkeypatch):
    """It goes into an address."""
    from bkdinterp.engine._resume import Sweep

    kept = []
    monkeypatch.setattr(
        Sweep, "keep_job", lambda self, i, job, _k=Sweep.keep_job: (kept.append(self), _k(self, i, job))[1]
    )
    with pytest.raises(JobsPending):
        execute(llama, [Run(pairs.clean, score="logprob")], executor=remote(tmp_path))
    assert kept[0].job(0).id == "job-0"
    for bad in ("../../env", "a/b", "x?y=1", "", 7):
        kept[0]._store.put(*kept[0]._job_place(0), {"id": bad, "sent": 1.0})
        assert kept[0].job(0) is None
    with pytest.raises(RemoteError, match="no id"):
        kept[0].keep_job(0, SentJob("../x", 1.0))


def test_it_needs_a_folder():
    with pytest.raises(RemoteError, match="folder="):
        bk.Remote(HOST, wait=False)
    with pytest.raises(RemoteError, match="wait"):
        bk.Remote(HOST, wait="later")
