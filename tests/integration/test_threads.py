"""Several threads: on one model, on two models that share a module, on models of their own; every answer is right."""

import copy
from concurrent.futures import ThreadPoolExecutor

import torch
from integration.conftest import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer

import bkdinterp as bk

PAIRS = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=1), target="sorry no")


def one(model, i):
    edit = bk.ZeroAblate(f"L{i % 4}H{i // 4 % 4}")
    if i % 3 == 0:
        tokens = bk.execute(model, [bk.Run(PAIRS.clean, edit, generate=3)])[0].tokens
        return torch.tensor([i for row in tokens for i in row])
    return bk.execute(model, [bk.Run(PAIRS.triggered, edit, score="logprob")])[0].scores


def together(models, n=48, threads=4):
    """One after the other, then at once: the same."""
    expected = [one(models[i % len(models)], i) for i in range(n)]
    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(lambda i: one(models[i % len(models)], i), range(n)))
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    assert len({tuple(e.flatten().tolist()) for e in expected}) > n // 4


def test_threads_on_one_model_queue(model):
    together([model])


def test_models_that_share_a_module_share_its_queue():
    module = tiny_llama().train()
    together([bk.Model.from_module(module, tiny_tokenizer(), name=name) for name in "ab"])
    assert module.training


def test_threads_on_models_of_their_own():
    together(
        [
            bk.Model.from_module(tiny_llama(), tiny_tokenizer()),
            bk.Model.from_module(tiny_gpt2(), tiny_tokenizer()),
        ]
    )


def test_copies_and_new_models_while_others_run(llama):
    def work(i):
        if i % 4 == 0:
            return one(copy.deepcopy(llama), i)
        if i % 4 == 1:
            return one(bk.Model.from_module(llama.module, tiny_tokenizer()), i)
        return one(llama, i)

    expected = [one(llama, i) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(work, range(24)))
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_a_method_may_run_inside_another_one(llama):
    """The lock is re-entrant: a metric that itself runs the model does not wait for ever."""
    from bkdinterp.model._running import running

    with running(llama.module):
        inner = one(llama, 1)
    assert torch.equal(inner, one(llama, 1))
