"""Sweeps: killed at any moment they resume to the same numbers, and Ctrl-C leaves what was finished."""

import copy
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import bkdinterp as bk
from bkdinterp.engine import Executor, Local, Run, execute, plan, program
from bkdinterp.engine._resume import Sweep
from bkdinterp.errors import ArtefactError, PlanError, SweepInterrupted
from bkdinterp.interventions import Read, ZeroAblate
from bkdinterp.results import _files
from bkdinterp.results import _resumable_store as _store
from bkdinterp.sites import Site

BUDGET = 120_000


def chunks(folder):
    """Files of finished chunks."""
    return sorted(folder.rglob("chunk-*"))


def runs_on(pairs):
    heads = [f"L{i}H{j}" for i in range(4) for j in range(4)]
    return [
        Run(pairs.clean, score="logprob"),
        *[Run(pairs.clean, ZeroAblate(head), score="logprob") for head in heads],
        Run(
            pairs.triggered, reads=(Read(Site.parse("L2.z"), reduce="mean"), Read(Site.parse("L1.resid_mid")))
        ),
        Run(pairs.triggered, ZeroAblate("L1H1"), generate=3),
    ]


def same(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.scores is None or torch.equal(a.scores, b.scores)
        assert a.tokens == b.tokens
        for x, y in zip(a.reads, b.reads, strict=True):
            assert torch.equal(x, y)


@pytest.fixture
def counted(monkeypatch):
    """How often the program ran, and a switch that makes it fail."""
    calls = {"n": 0, "fail_at": None}
    original = program.prepare

    def prepare(chunk, state):
        calls["n"] += 1
        if calls["n"] == calls["fail_at"]:
            raise KeyboardInterrupt
        return original(chunk, state)

    monkeypatch.setattr(program, "prepare", prepare)
    return calls


def test_every_stop_resumes_to_the_same_numbers(model, pairs, tmp_path, counted):
    planned = plan(model, runs_on(pairs), budget=BUDGET)
    whole = Local(progress=False).run(planned, model)
    total, n_chunks = counted["n"], len(planned.chunks)
    assert n_chunks > 6
    for stop in range(1, total, 3):
        folder = tmp_path / str(stop)
        counted.update(n=0, fail_at=stop)
        with pytest.raises(SweepInterrupted) as caught:
            Local(progress=False, folder=folder).run(planned, model)
        assert caught.value.total == n_chunks
        assert len(chunks(folder)) == caught.value.done < n_chunks
        counted.update(n=0, fail_at=None)
        same(Local(progress=False, folder=folder).run(planned, model), whole)
        # The chunk in work, and at most one unedited run (or, generating, the steps of that one chunk).
        assert counted["n"] <= total - stop + 1 + 3
    counted["n"] = 0
    same(Local(progress=False, folder=folder).run(planned, model), whole)
    assert counted["n"] == 0


def test_partial_results_hold_what_was_finished(model, pairs, counted):
    planned = plan(model, runs_on(pairs)[:17], budget=BUDGET)
    whole = Local(progress=False).run(planned, model)
    counted.update(n=0, fail_at=counted["n"] // 2)
    with pytest.raises(SweepInterrupted) as caught:
        Local(progress=False).run(planned, model)
    partial = torch.stack([r.scores.double() for r in caught.value.results])
    complete = torch.stack([r.scores for r in whole])
    seen = ~partial.isnan()
    assert 0 < int(seen.sum()) < seen.numel()
    assert torch.equal(partial[seen], complete[seen])


def test_one_folder_serves_other_runs_models_and_budgets(model, pairs, tmp_path, counted):
    runs = runs_on(pairs)[:5]
    other = bk.Model.from_module(copy.deepcopy(model.module), model.tokenizer)
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.5)
    jobs = [(model, runs, 2**30), (model, runs[:4], 2**30), (model, runs, BUDGET), (other, runs, 2**30)]
    whole = [execute(m, r, budget=b) for m, r, b in jobs]
    for (m, r, b), plain in zip(jobs, whole, strict=True):
        same(execute(m, r, budget=b, folder=tmp_path / "a"), plain)
    counted["n"] = 0
    for (m, r, b), plain in zip(jobs, whole, strict=True):
        same(execute(m, r, budget=b, folder=tmp_path / "a"), plain)
    assert counted["n"] == 0


def test_a_folder_of_something_else_is_refused(model, pairs, tmp_path):
    runs = runs_on(pairs)[:5]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtefactError, match="not empty"):
        execute(model, runs, folder=tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "plan.json").write_text('{"format": "bkdinterp-sweep/1"}', encoding="utf-8")
    with pytest.raises(ArtefactError, match="earlier bkdinterp"):
        execute(model, runs, folder=tmp_path / "c")


def test_the_folder_goes_to_whatever_executor(model, pairs, tmp_path, counted):
    class Bare(Executor):
        def run(self, plan, model):
            raise AssertionError("ran")

    runs = runs_on(pairs)[:2]
    with pytest.raises(PlanError, match="keeps no finished work"):
        execute(model, runs, folder=tmp_path / "a", executor=Bare())
    execute(model, runs, folder=tmp_path / "a", executor=Local(progress=False))
    counted["n"] = 0
    execute(model, runs, executor=Local(folder=tmp_path / "a"))
    execute(model, runs, executor=Local(folder=tmp_path / "b"), folder=tmp_path / "a")
    assert counted["n"] == 0 and not (tmp_path / "b").exists()


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -1, 0, "1GB", True])
def test_a_budget_that_is_no_number_of_bytes(model, pairs, budget):
    with pytest.raises(PlanError, match="budget"):
        execute(model, runs_on(pairs)[:1], budget=budget)


def named_alike(value):
    def score(logits, targets, mask, base=None):
        return logits[:, 0, 0] * 0 + value

    return score


@pytest.mark.parametrize(
    "caught", [(1.0, 2.0), (torch.tensor(1.0), torch.tensor(2.0))], ids=["number", "tensor"]
)
def test_another_score_of_the_same_name_is_computed(model, pairs, tmp_path, counted, caught):
    for value in caught:
        (found,) = execute(model, [Run(pairs.triggered, score=named_alike(value))], folder=tmp_path / "s")
        assert found.scores.tolist() == [float(value)] * len(pairs)
    counted["n"] = 0
    # A new function of the same code and values is the same score.
    execute(model, [Run(pairs.triggered, score=named_alike(caught[0]))], folder=tmp_path / "s")
    assert counted["n"] == 0


def test_a_file_is_no_folder(model, pairs, tmp_path):
    (tmp_path / "s").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtefactError, match="is a file"):
        execute(model, runs_on(pairs)[:1], folder=tmp_path / "s")


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 64  # in a number: safetensors alone does not notice
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_chunk_is_computed_again(model, pairs, tmp_path, damage, counted):
    runs = runs_on(pairs)[:9]
    whole = execute(model, runs, folder=tmp_path / "s", budget=BUDGET)
    damage(chunks(tmp_path / "s")[-1])
    counted["n"] = 0
    same(execute(model, runs, folder=tmp_path / "s", budget=BUDGET), whole)
    assert 0 < counted["n"] <= 3
    counted["n"] = 0
    same(execute(model, runs, folder=tmp_path / "s", budget=BUDGET), whole)
    assert counted["n"] == 0


def test_a_chunk_that_somebody_else_made_is_computed_again(llama, pairs, tmp_path, counted):
    """Name, key and hash fit; what lies in it is no output of this chunk."""
    runs = runs_on(pairs)
    whole = execute(llama, runs, folder=tmp_path / "s", budget=BUDGET)
    x = torch.zeros(3)
    odd = [None, 3, {}, {"reads": 3}, {"reads": {}}, {"reads": {}, "scores": "a"}, {"reads": {(0, 0): x}}]
    odd += [{"reads": {}, "scores": s} for s in (x[:0], x[None], x.int(), [1.0])]
    odd += [{"reads": {}, "tokens": t} for t in (x, x[None], x[None].long() - 1, "text")]
    files = chunks(tmp_path / "s")
    sweep = Sweep(tmp_path / "s", plan(llama, runs, budget=BUDGET), llama.weights_id)
    for i in range(len(files)):
        assert sweep.load(i) is not None
        sweep._store.put(*sweep._place(i), odd[i % len(odd)])
        assert sweep.load(i) is None
    counted["n"] = 0
    same(execute(llama, runs, folder=tmp_path / "s", budget=BUDGET), whole)
    assert counted["n"] >= len(files)


def test_two_chunks_that_changed_places_are_computed_again(model, pairs, tmp_path, counted):
    runs = runs_on(pairs)[:17]
    whole = execute(model, runs, folder=tmp_path / "s", budget=BUDGET)
    files = chunks(tmp_path / "s")
    contents = [path.read_bytes() for path in files]
    for path, data in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(data)
    counted["n"] = 0
    same(execute(model, runs, folder=tmp_path / "s", budget=BUDGET), whole)
    assert counted["n"] >= len(files)


def test_a_disk_that_is_full_keeps_what_was_finished(model, pairs, tmp_path, monkeypatch, counted):
    planned = plan(model, runs_on(pairs)[:9], budget=BUDGET)
    whole = Local(progress=False).run(planned, model)
    original, written = _files.os.replace, []

    def replace(source, target):
        if len(written) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(target)
        original(source, target)

    monkeypatch.setattr(_files.os, "replace", replace)
    with pytest.raises(ArtefactError, match=r"No space left.*free some space"):
        Local(progress=False, folder=tmp_path / "s").run(planned, model)
    monkeypatch.undo()
    assert len(chunks(tmp_path / "s")) == 3
    same(Local(progress=False, folder=tmp_path / "s").run(planned, model), whole)


def test_another_version_computes_again(model, pairs, tmp_path, monkeypatch, counted):
    execute(model, runs_on(pairs)[:2], folder=tmp_path / "s")
    counted["n"] = 0
    monkeypatch.setattr(_store, "versions", lambda: {"bkdinterp": "9.9"})
    execute(model, runs_on(pairs)[:2], folder=tmp_path / "s")
    assert counted["n"] > 0


def test_attribution_resumes(model, pairs, tmp_path, counted):
    attribution = bk.Attribution(model)
    whole = attribution.heads(pairs, budget=BUDGET)
    counted.update(n=0, fail_at=counted["n"] - 2)
    with pytest.raises(SweepInterrupted):
        attribution.heads(pairs, folder=tmp_path / "s", budget=BUDGET)
    counted.update(n=0, fail_at=None)
    assert torch.equal(attribution.heads(pairs, folder=tmp_path / "s", budget=BUDGET).effects, whole.effects)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from integration.conftest import TEXTS, tiny_llama, tiny_tokenizer
import bkdinterp as bk

torch.set_num_threads(1)
model = bk.Model.from_module(tiny_llama(), tiny_tokenizer(), name="tiny")
pairs = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=0), target="sorry no can not help")
print("ready", flush=True)
scores = bk.Attribution(model).heads(pairs, budget=100_000, folder=sys.argv[2])
torch.save(scores.effects, sys.argv[3])
"""


def test_kill_9(tmp_path):
    """A process that is killed without warning; the next one ends with the numbers of one that was not."""
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    tests = str(Path(__file__).resolve().parent.parent)

    def start(folder, out):
        command = [sys.executable, str(script), tests, str(tmp_path / folder), str(tmp_path / out)]
        return subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE)

    assert start("whole", "whole.pt").wait(300) == 0
    n_chunks = len(chunks(tmp_path / "whole"))
    child = start("killed", "killed.pt")
    deadline = time.monotonic() + 300
    while len(chunks(tmp_path / "killed")) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    assert 3 <= len(chunks(tmp_path / "killed")) < n_chunks
    assert not (tmp_path / "killed.pt").exists()
    assert start("killed", "killed.pt").wait(300) == 0
    assert torch.equal(torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "killed.pt"))
