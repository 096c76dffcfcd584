"""What Remote does before a server is asked: chunks in requests, plain data, refusals. The rest is in tests/ndif."""

import functools
from dataclasses import replace

import pytest
import torch
from integration.conftest import least_budget
from integration.test_wire import plain

import bkdinterp as bk
from bkdinterp.engine import plan
from bkdinterp.engine._assemble import Store
from bkdinterp.engine._wire import Job, check_functions, received, requests
from bkdinterp.metrics import SCORES


def patches(pairs):
    heads = [f"L{layer}H{head}" for layer in range(4) for head in range(4)]
    runs = [bk.Run(pairs.clean, bk.Patch(head, bk.Run(pairs.triggered)), score="logprob") for head in heads]
    return [bk.Run(pairs.clean, score="logprob"), *runs]


@pytest.mark.parametrize(("budget", "batches"), [(2**30, 1), ("least", 6)])
def test_a_request_is_one_level_of_one_batch_of_prompts(budget, batches, llama, pairs):
    runs = patches(pairs)
    planned = plan(llama, runs, budget=least_budget(llama, runs) if budget == "least" else budget)
    groups = requests(planned)
    assert len(groups) <= 3 * batches
    assert sorted(i for group in groups for i in group) == list(range(len(planned.chunks)))
    levels = []
    for group in groups:
        chunks = [planned.chunks[i] for i in group]
        (level,) = {planned.nodes[node].level for chunk in chunks for node in chunk.nodes}
        levels.append(level)
        # Whoever leans on an unedited run, or a shared start, comes right after it, in the same request.
        kept = None
        for chunk in chunks:
            if chunk.kind in ("base", "start"):
                kept = chunk.prefix
            assert chunk.prefix in (None, kept)
    assert levels == sorted(levels)
    assert len(set(levels)) > 1
    # What shares prompts is not torn apart, and small batches travel together up to the cost of the largest.
    homes, costs = {}, {}
    for number, group in enumerate(groups):
        for chunk in (planned.chunks[i] for i in group):
            batch = (levels[number], chunk.examples)
            homes.setdefault(batch, set()).add(number)
            costs[batch] = costs.get(batch, 0) + chunk.cost
    assert all(len(numbers) == 1 for numbers in homes.values())
    sums = [sum(planned.chunks[i].cost for i in group) for group in groups]
    assert max(sums) == max(costs.values())


def test_jobs_are_plain_data_without_the_callers_side(llama, pairs):
    runs = [*patches(pairs)[:1], bk.Run(pairs.clean, bk.Steer("L2.resid_pre", torch.ones(16)), generate=3)]
    runs.append(bk.Run(pairs.clean, reads=(bk.Read("L1H2"),)))
    planned = plan(llama, runs)
    store = Store(planned, llama.dtype)
    jobs = [Job.of(store.resolve(chunk), planned.scores, llama.architecture) for chunk in planned.chunks]
    for job in jobs:
        plain(job.chunk)
        assert not {"places", "nodes", "examples"} & job.chunk.keys()
    assert {job.score for job in jobs} == {SCORES["logprob"].fn, None}
    # A block's input is the output of the one before it: looking at the former costs a sandboxed server its cache.
    generating = next(job.chunk for job in jobs if job.chunk["kind"] == "generate")
    assert [(s["path"], s["io"]) for s in generating["steps"]] == [("model.layers.1", "output")]
    assert [(s["path"], s["io"]) for s in generating["decode"]["steps"]] == []


def test_half_precision_is_widened_and_sums_are_left_alone():
    half, mean = torch.tensor([1.5, 2.0]).bfloat16(), torch.ones(3, dtype=torch.float64)
    answer = {"reads": {"0.0": half, "2.1": mean}, "scores": half, "tokens": torch.tensor([[1, 2]])}
    out, tokens = received(answer, torch.float32)
    assert out["reads"].keys() == {(0, 0), (2, 1)}
    assert out["reads"][0, 0].dtype == out["scores"].dtype == torch.float32
    assert out["reads"][2, 1].dtype == torch.float64
    assert tokens.tolist() == [[1, 2]]
    assert received({"reads": {}}, torch.float32) == ({"reads": {}}, None)


def stranger(x):
    return x


def script(x):
    return x


script.__module__ = "__main__"
decorated = functools.wraps(script)(lambda x: x)


@pytest.mark.parametrize(
    ("function", "says"),
    [(stranger, "nnsight.register"), (decorated, "undecorated"), (torch.relu, "plain"), (script, None)],
)
def test_functions_travel_or_are_refused(function, says, llama, pairs):
    planned = plan(llama, [bk.Run(pairs.clean, bk.Apply("L1.mlp_out", fn=function), score="logprob")])
    if says is None:
        check_functions(planned)
        return
    with pytest.raises(bk.errors.RemoteError, match=says):
        check_functions(planned)


def test_a_model_for_a_server_has_no_weights_and_takes_none_unasked(llama, pairs, tmp_path):
    llama.module.config.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    model = bk.Model.load(tmp_path, executor=bk.Remote("http://127.0.0.1:9", timeout=2.0))
    asked = [bk.Run(pairs.clean, score="logprob")]
    # Half the bytes: the skeleton is in float32.
    here, there = bk.plan(llama, asked).cost, bk.plan(model, asked).cost
    assert replace(there, peak_bytes=2 * there.peak_bytes) == here
    with pytest.raises(bk.errors.RemoteError, match=r"No NDIF server answers at http://127.0.0.1:9"):
        bk.execute(model, asked)
    with pytest.raises(bk.errors.RemoteError, match="no weights here"):
        bk.execute(model, asked, executor=bk.Local())
    assert all(p.is_meta for p in model.module.parameters())
