"""Jobs that are not waited for: sent once, collected later and by whom it may be, in the order in which they depend."""

import pytest
import torch

import bkdinterp as bk
from bkdinterp.engine import Run, _remote, execute, program
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
        if self.fault is not None:
            raise self.fault
        backend.job_id = f"job-{len(self.jobs)}"
        self.jobs[backend.job_id] = chunks, scores
        return []

    def collected(self, backend):
        self.asked.append(backend.job_id)
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


def test_a_job_that_failed_is_sent_again_by_the_next_call(llama, server, pairs, tmp_path):
    runs = [Run(pairs.clean, score="logprob")]
    with pytest.raises(JobsPending):
        execute(llama, runs, executor=remote(tmp_path))
    server.fault = ZeroDivisionError("division by zero, secret-key")
    with pytest.raises(RemoteError, match="division by zero") as told:
        execute(llama, runs, executor=remote(tmp_path))
    assert not isinstance(told.value, JobsPending) and "secret-key" not in str(told.value)
    server.fault = None
    with pytest.raises(JobsPending):
        execute(llama, runs, executor=remote(tmp_path))
    assert len(server.jobs) == 2


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
    assert kept[0].job(0) == "job-0"
    for bad in ("../../env", "a/b", "x?y=1", "", 7):
        kept[0]._store.put(*kept[0]._job_place(0), bad)
        assert kept[0].job(0) is None


def test_it_needs_a_folder():
    with pytest.raises(RemoteError, match="folder="):
        bk.Remote(HOST, wait=False)
    with pytest.raises(RemoteError, match="wait"):
        bk.Remote(HOST, wait="later")
