"""Sweeps: killed at any moment they resume to the same numbers, and Ctrl-C leaves what was finished."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bkdinterp as bk
from bkdinterp.engine import Local, Run, execute, plan, program
from bkdinterp.errors import ArtefactError, PlanError, SweepInterrupted
from bkdinterp.interventions import Read, ZeroAblate
from bkdinterp.sites import Site

BUDGET = 60_000


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
        assert len(list(folder.rglob("chunk-*"))) == caught.value.done < n_chunks
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


def test_one_folder_serves_many_plans_and_executors(model, pairs, tmp_path, counted):
    runs = runs_on(pairs)[:5]
    folder = tmp_path / "a"
    whole = execute(model, runs, folder=folder)
    part = execute(model, runs[:4], folder=folder, executor=Local(progress=False))
    counted["n"] = 0
    same(execute(model, runs, folder=folder), whole)
    same(execute(model, runs[:4], executor=Local(folder=folder)), part)
    assert counted["n"] == 0


def test_an_executor_with_a_folder_serves_methods_with_several_plans(model, pairs, tmp_path, counted):
    kept = replace(model, executor=Local(progress=False, folder=tmp_path / "s"))
    grader = bk.OutcomeGrader(model, 5.0, 1)
    found = [bk.evaluate(kept, pairs, max_new_tokens=12, grader=grader) for _ in range(2)]
    assert found[0].texts == found[1].texts
    torch.testing.assert_close(found[0].nll, found[1].nll, rtol=0, atol=0, equal_nan=True)
    counted["n"] = 0
    bk.Attribution(kept, budget=BUDGET).heads(pairs)
    assert counted["n"] > 0
    counted["n"] = 0
    bk.Attribution(kept, budget=BUDGET).heads(pairs)
    assert counted["n"] == 0


def test_a_folder_of_other_content_is_refused(model, pairs, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtefactError, match="not empty"):
        execute(model, runs_on(pairs)[:5], folder=tmp_path / "b")
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtefactError, match="earlier bkdinterp"):
        execute(model, runs_on(pairs)[:5], folder=tmp_path / "early")

    class Own:
        def run(self, plan, model):
            return ()

    with pytest.raises(PlanError, match="keeps no chunks"):
        execute(model, runs_on(pairs)[:5], folder=tmp_path / "c", executor=Own())


def test_what_a_killed_process_left_behind_is_no_content(model, pairs, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".bkdinterp-store.json.1a2b3c4d.part").write_text("{", encoding="utf-8")
    execute(model, runs_on(pairs)[:1], folder=tmp_path / "s")


def test_home_is_expanded(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    execute(model, runs_on(pairs)[:1], folder="~/kept")
    assert (tmp_path / "kept").is_dir() and not (tmp_path / "~").exists()


def named_alike(value):
    def score(logits, targets, mask, base=None):
        return logits[:, 0, 0] * 0 + value

    return score


@pytest.mark.parametrize(
    "caught", [(1.0, 2.0), (torch.tensor(1.0), torch.tensor(2.0))], ids=["number", "tensor"]
)
def test_another_score_of_the_same_name_is_other_work(model, pairs, tmp_path, caught):
    first, second = ([Run(pairs.triggered, score=named_alike(value))] for value in caught)
    (kept,) = execute(model, first, folder=tmp_path / "s")
    assert kept.scores.tolist() == [1.0] * len(pairs)
    # A new function of the same code and values is the same score.
    same(execute(model, [Run(pairs.triggered, score=named_alike(caught[0]))], folder=tmp_path / "s"), [kept])
    (other,) = execute(model, second, folder=tmp_path / "s")
    assert other.scores.tolist() == [2.0] * len(pairs)


HELPERS = """
def helper(logits):
    return logits[:, 0, 0] * 0 + {value}

def score(logits, targets, mask, base=None):
    return helper(logits)
"""


def test_a_helper_of_a_score_counts(model, pairs, tmp_path):
    """The score itself is the same to the letter; what it calls is not."""
    for value in (1.0, 2.0):
        around = {"__name__": "mine"}
        exec(HELPERS.format(value=value), around)
        (found,) = execute(model, [Run(pairs.triggered, score=around["score"])], folder=tmp_path / "s")
        assert found.scores.tolist() == [value] * len(pairs)


def test_a_file_is_no_folder(model, pairs, tmp_path):
    (tmp_path / "s").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtefactError, match="is a file"):
        execute(model, runs_on(pairs)[:1], folder=tmp_path / "s")


def test_a_damaged_chunk_is_computed_again(model, pairs, tmp_path):
    runs = runs_on(pairs)[:9]
    whole = execute(model, runs, folder=tmp_path / "s")
    chunk = sorted((tmp_path / "s").rglob("chunk-*"))[-1]
    chunk.write_bytes(chunk.read_bytes()[:20])
    same(execute(model, runs, folder=tmp_path / "s"), whole)
    assert len(chunk.read_bytes()) > 20


def test_a_flipped_bit_and_swapped_chunks_are_noticed(model, pairs, tmp_path):
    runs = runs_on(pairs)[:9]
    whole = execute(model, runs, folder=tmp_path / "s", budget=BUDGET)
    chunks = sorted((tmp_path / "s").rglob("chunk-*"))
    assert len(chunks) > 2
    content = bytearray(chunks[-1].read_bytes())
    content[-3] ^= 0x40  # in the numbers
    chunks[-1].write_bytes(bytes(content))
    first, second = chunks[0].read_bytes(), chunks[1].read_bytes()
    chunks[0].write_bytes(second)
    chunks[1].write_bytes(first)
    same(execute(model, runs, folder=tmp_path / "s", budget=BUDGET), whole)


def test_attribution_resumes(model, pairs, tmp_path, counted):
    attribution = bk.Attribution(model, budget=BUDGET)
    whole = attribution.heads(pairs)
    counted.update(n=0, fail_at=counted["n"] - 2)
    with pytest.raises(SweepInterrupted):
        attribution.heads(pairs, folder=tmp_path / "s")
    counted.update(n=0, fail_at=None)
    assert torch.equal(attribution.heads(pairs, folder=tmp_path / "s").effects, whole.effects)


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
scores = bk.Attribution(model, budget=30_000).heads(pairs, folder=sys.argv[2])
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
    n_chunks = len(list((tmp_path / "whole").rglob("chunk-*")))
    child = start("killed", "killed.pt")
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "killed").rglob("chunk-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    assert 3 <= len(list((tmp_path / "killed").rglob("chunk-*"))) < n_chunks
    assert not (tmp_path / "killed.pt").exists()
    assert start("killed", "killed.pt").wait(300) == 0
    assert torch.equal(torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "killed.pt"))
