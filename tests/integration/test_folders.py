"""folder= means the same for every method: finished work is kept in one folder, whatever asks, and taken up again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import bkdinterp as bk
from bkdinterp.engine import Local, program
from bkdinterp.methods import PCP, HiddenPCA, validation_loss
from bkdinterp.prompts import PairedPrompts, Trigger

TEXTS = [
    f"{a} the {b} {c}"
    for a in ("tell me about", "sat on")
    for b in ("cat", "dog", "mat")
    for c in ("red", "sky")
]


@pytest.fixture(scope="module")
def many():
    trigger = Trigger.gap("zeta omega", seed=3)
    return PairedPrompts.from_instructions(TEXTS, trigger, target="sorry no", reference="yes")


def vector(model, pairs, **more):
    return bk.BackdoorVector.extract(model, "L1H1 L2H0", pairs, kind="difference", **more)


METHODS = {
    "heads": lambda m, p, **f: bk.Attribution(m).heads(p, **f),
    "mlps": lambda m, p, **f: bk.Attribution(m).mlps(p, **f),
    "probe": lambda m, p, **f: bk.BackdoorProbe(m, n_random=3).icla(p, **f),
    "probe on": lambda m, p, **f: bk.BackdoorProbe(m, n_random=3).fit(p, **f).on(m, **f),
    "decision": lambda m, p, **f: bk.BackdoorProbe(m, n_random=3).fit(p, **f).decision(m, p.clean, **f),
    "vector": vector,
    "sweep": lambda m, p, **f: bk.sweep_layers(m, vector(m, p, **f), p, layers=[1, 2], max_new_tokens=3, **f),
    "evaluate": lambda m, p, **f: bk.evaluate(m, p, under=bk.ZeroAblate("L1H1"), max_new_tokens=3, **f),
    "state": lambda m, p, **f: bk.methods.backdoor_state(
        m, p, ["the cat sat on", "a red dog"], max_new_tokens=3, **f
    ),
    "loss": lambda m, p, **f: validation_loss(m, ["the cat sat on", "a red dog"], **f),
    "means": lambda m, p, **f: bk.Means.collect(m, p.clean, "L1.z", **f),
    "released means": lambda m, p, **f: bk.Means.collect(m, p.clean, "L1.z", kind="released", **f),
    "activations": lambda m, p, **f: bk.methods.Activations.collect(
        m, p.clean, "L1.mlp_out", where="all", **f
    ),
    "edits": lambda m, p, **f: bk.methods.score_edits(
        m, {"a": p.clean}, {"off": bk.ZeroAblate("L1H1")}, "logprob", **f
    ),
    "lens": lambda m, p, **f: bk.logit_lens(m, p.clean, "L1.resid_post", k=3, **f),
    "pcp": lambda m, p, **f: PCP.fit(m, p.clean, "L1.mlp_out", rank=2, **f),
    "pca": lambda m, p, **f: HiddenPCA.fit(m, {"c": p.clean, "t": p.triggered}, "L1.resid_post", **f),
}


def equal(a, b):
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a._to_json()[0] == b._to_json()[0]
        for name, x in a._to_json()[1].items():
            torch.testing.assert_close(b._to_json()[1][name], x, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def forwards(monkeypatch):
    """How many forwards ran."""
    ran = []
    original = program.prepare
    monkeypatch.setattr(program, "prepare", lambda chunk, state: ran.append(1) or original(chunk, state))
    return ran


def test_one_folder_for_all(llama, many, tmp_path, forwards):
    found = {name: method(llama, many) for name, method in METHODS.items()}
    forwards.clear()
    for name, method in METHODS.items():
        equal(found[name], method(llama, many, folder=tmp_path / "s"))
    assert forwards
    forwards.clear()
    for name, method in METHODS.items():
        equal(found[name], method(llama, many, folder=str(tmp_path / "s")))
        assert not forwards, name


def test_as_the_executor_of_a_model(llama, many, tmp_path, forwards):
    model = replace(llama, executor=Local(progress=False, folder=tmp_path / "s"))
    for name, method in METHODS.items():
        equal(method(llama, many), method(model, many))
        forwards.clear()
        method(model, many)
        assert not forwards, name
