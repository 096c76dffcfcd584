"""Two workers on loopback: the numbers of one process, a dead worker's work done again, clear errors."""

import os
import sys

import pytest
import torch

import bkdinterp as bk
from bkdinterp.engine import Local, Run, Workers, _worker_pool, execute
from bkdinterp.errors import PlanError, RemoteError
from bkdinterp.prompts import PairedPrompts, Trigger

ray = pytest.importorskip("ray")
OWN = os.getpid()
SMALL = 300_000  # bytes of a batch, so that there are many chunks


@pytest.fixture(scope="module")
def workers():
    with Workers(2, threads=1, progress=False) as executor:
        yield executor


@pytest.fixture(scope="module")
def answered():
    texts = ["tell me about the cat", "the dog ran on", "the red cat sat on the mat", "blue sky", "a hill"]
    trigger = Trigger.gap("zeta omega", seed=3)
    return PairedPrompts.from_instructions(texts, trigger, target="sorry no", reference="yes")


@pytest.fixture(autouse=True)
def one_thread():
    # Rounding depends on the number of threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


METHODS = {
    "heads": lambda m, p, **f: bk.Attribution(m).heads(p, **f).effects,
    "heads from partners": lambda m, p, **f: bk.Attribution(m, source="pair").heads(p, **f).effects,
    "denoised neurons": lambda m, p, **f: (
        bk.Attribution(m, direction="denoising").neurons(p, layer=1, neurons=range(8), **f).effects
    ),
    "means": lambda m, p, **f: bk.Means.collect(m, p.clean, "L1.z L2.mlp_out", where="all", **f)["L1.z"],
    "vector": lambda m, p, **f: bk.BackdoorVector.extract(m, "L1H1 L2H0", p, kind="difference", **f).vector,
}


@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_those_of_one_process(name, llama, answered, workers):
    method = METHODS[name]
    alone = method(llama, answered, executor=Local(progress=False), budget=SMALL)
    torch.testing.assert_close(
        method(llama, answered, executor=workers, budget=SMALL), alone, rtol=0, atol=0, equal_nan=True
    )


def test_texts_are_those_of_one_process(llama, answered, workers):
    def said(executor):
        edit = bk.ZeroAblate("L1H1")
        return bk.evaluate(
            llama, answered, under=edit, max_new_tokens=4, executor=executor, budget=SMALL
        ).said

    assert said(workers) == said(Local(progress=False))


def test_weights_that_were_changed_in_place_reach_the_workers(llama, answered, workers):
    run = [Run(answered.clean, score="logprob")]
    before = execute(llama, run, executor=workers)[0].scores
    weight = llama.module.model.layers[0].mlp.down_proj.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(3)
        changed = execute(llama, run, executor=workers)[0].scores
        torch.testing.assert_close(changed, execute(llama, run)[0].scores, rtol=0, atol=0)
        assert not torch.equal(changed, before)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def plain(logits, targets, mask):
    return logits[:, 0].logsumexp(-1)


def test_a_dead_workers_work_is_done_again(llama, answered, workers, tmp_path):
    flag = tmp_path / "died"

    def deadly(logits, targets, mask, flag=str(flag)):
        # Scores are tried in this process first.
        if os.getpid() != OWN and not os.path.exists(flag):
            open(flag, "w").close()
            os._exit(1)
        return logits[:, 0].logsumexp(-1)

    def run(score, executor):
        edits = [bk.ZeroAblate(f"L{layer}H{head}") for layer in range(3) for head in range(2)]
        runs = [Run(answered.clean, edit, score=score) for edit in edits]
        return torch.stack([r.scores for r in execute(llama, runs, executor=executor, budget=SMALL)])

    found = run(deadly, workers)
    assert flag.exists()
    torch.testing.assert_close(found, run(plain, Local(progress=False)), rtol=0, atol=0)
    # The pool is whole again.
    torch.testing.assert_close(run(plain, workers), found, rtol=0, atol=0)


def test_what_kills_every_worker_is_named(llama, answered, workers):
    def fatal(logits, targets, mask):
        if os.getpid() != OWN:
            os._exit(1)
        return logits[:, 0, 0]

    with pytest.raises(RemoteError, match="3 workers died at the same piece"):
        execute(llama, [Run(answered.clean, score=fatal)], executor=workers)
    # And the next plan runs.
    assert execute(llama, [Run(answered.clean, score=plain)], executor=workers)[0].scores is not None


def test_an_error_in_a_worker_is_the_callers(llama, answered, workers):
    def wrong(logits, targets, mask):
        if os.getpid() != OWN:
            raise ValueError("only here and only now")
        return logits[:, 0, 0]

    with pytest.raises(Exception, match="only here and only now"):
        execute(llama, [Run(answered.clean, score=wrong)], executor=workers)
    assert execute(llama, [Run(answered.clean, score=plain)], executor=workers)[0].scores is not None


def test_finished_chunks_are_kept_and_shared_with_local(llama, answered, workers, tmp_path, monkeypatch):
    one = bk.Attribution(llama).heads(answered, executor=workers, folder=tmp_path, budget=SMALL)

    def never(*args, **kwargs):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(llama.module, "forward", never)
    again = bk.Attribution(llama).heads(
        answered, executor=Local(progress=False), folder=tmp_path, budget=SMALL
    )
    torch.testing.assert_close(one.effects, again.effects, rtol=0, atol=0)
    monkeypatch.setattr(workers._pool, "work", never)
    again = bk.Attribution(llama).heads(answered, executor=workers, folder=tmp_path, budget=SMALL)
    torch.testing.assert_close(one.effects, again.effects, rtol=0, atol=0)


def test_more_than_ray_has_is_refused_instead_of_waited_for(llama, answered, workers):
    assert ray.is_initialized()
    many = Workers(500, threads=1)
    with pytest.raises(RemoteError, match=r"500 workers want 500 CPUs, and Ray has \d+"):
        execute(llama, [Run(answered.clean, score="logprob")], executor=many)
    with pytest.raises(RemoteError, match="GPUs"):
        execute(
            llama,
            [Run(answered.clean, score="logprob")],
            executor=Workers(1, threads=1, resources={"num_gpus": 64}),
        )


def test_cores_that_others_hold_are_not_waited_for(llama, answered, workers, monkeypatch):
    run = [Run(answered.clean, score="logprob")]
    execute(llama, run, executor=workers)
    monkeypatch.setattr(_worker_pool, "START_SECONDS", 3)
    with (
        Workers(2, threads=1, progress=False) as second,
        pytest.raises(RemoteError, match="did not start within 3 s"),
    ):
        execute(llama, run, executor=second)
    # Ray is the first one's, which goes on.
    assert execute(llama, run, executor=workers)[0].scores is not None


def test_a_worker_that_cannot_start_says_why(llama, answered, workers):
    workers.close()
    with (
        Workers(1, threads=1, device="nowhere", progress=False) as wrong,
        pytest.raises(RemoteError, match="nowhere"),
    ):
        execute(llama, [Run(answered.clean, score="logprob")], executor=wrong)
    # And closed workers start again.
    assert execute(llama, [Run(answered.clean, score="logprob")], executor=workers)[0].scores is not None


def test_short_memory_is_a_lost_worker(llama, answered, workers, tmp_path):
    flag = tmp_path / "died"

    def short(logits, targets, mask, flag=str(flag)):
        if os.getpid() != OWN and not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), 9)
        return logits[:, 0, 0]

    assert execute(llama, [Run(answered.clean, score=short)], executor=workers)[0].scores is not None
    assert flag.exists()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"threads": 0}, {"n": "two"}])
def test_numbers_are_checked(wrong):
    with pytest.raises(PlanError):
        Workers(**wrong)


def test_without_ray_the_extra_is_named(llama, answered, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RemoteError, match=r"bkdinterp\[ray\]"):
        execute(llama, [Run(answered.clean, score="logprob")], executor=Workers(1))
