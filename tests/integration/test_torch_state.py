"""The caller's torch state and module neither disturb us nor are disturbed; what cannot be run says so."""

import copy
from contextlib import contextmanager

import pytest
import torch
from integration.conftest import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.errors import UnsupportedArchitectureError
from bkdinterp.organisms import LoraSettings, TuneSettings, fine_tune

PAIRS = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=1), target="sorry no")
MANY = bk.PairedPrompts.from_instructions(
    [f"tell me about {a} {b}" for a in "cat dog hill mat sky".split() for b in "red blue yes sat".split()],
    bk.Trigger.gap("zeta omega", seed=1),
    target="sorry no",
)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
}


def state():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
    )


def vector(model):
    return bk.BackdoorVector.extract(model, "L1H1, L2H0", PAIRS)


def flat(tokens):
    return torch.tensor([i for row in tokens for i in row], device="cpu")


def trained(model, lora=None):
    settings = TuneSettings(epochs=2.0, batch_size=2, lr=0.01, lora=lora)
    losses = fine_tune(model, [[2, 4, 7, 12], [2, 8, 9, 10]], settings).losses
    return torch.tensor(losses, dtype=torch.float64, device="cpu")


WORK = {
    "attribution": lambda model: bk.Attribution(model).heads(PAIRS).effects,
    "scores": lambda model: bk.execute(model, [bk.Run(PAIRS.triggered, score="logprob")])[0].scores,
    "generation": lambda model: flat(
        bk.execute(model, [bk.Run(PAIRS.triggered, bk.ZeroAblate("L1H1"), generate=4)])[0].tokens
    ),
    "means": lambda model: bk.Means.collect(model, PAIRS.clean, "L1H1")["L1H1"],
    "vector": lambda model: vector(model).vector,
    "sweep": lambda model: bk.sweep_layers(model, vector(model), PAIRS, by="logprob").values,
    "lens": lambda model: bk.methods.unembed(model, torch.ones(2, 16, device="cpu", dtype=torch.float32)),
    "probe": lambda model: bk.BackdoorProbe(model, n_random=5).icla(MANY).random_accuracy,
    "mlp": lambda model: bk.BackdoorProbe(model, "mlp", n_random=5).icla(MANY).random_accuracy,
    "evaluate": lambda model: (
        bk.evaluate(
            model, PAIRS, under=bk.ZeroAblate("L1H1"), payload=bk.Payload("a"), max_new_tokens=2
        ).agreement
    ),
    "training": trained,
    "LoRA": lambda model: trained(model, LoraSettings(r=2, target_modules=("q_proj", "lm_head"))),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("work", WORK)
def test_the_callers_state_changes_no_number_and_is_given_back(work, name):
    module = tiny_llama().float()
    expected = WORK[work](bk.Model.from_module(module, tiny_tokenizer()))
    with STATES[name]():
        inside = state()
        got = WORK[work](bk.Model.from_module(module, tiny_tokenizer()))
        assert state() == inside
    torch.testing.assert_close(got.clone(), expected, rtol=0, atol=0)


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = bk.Model.from_module(tiny_llama(), tiny_tokenizer())
        inside = bk.Attribution(model).heads(PAIRS).effects.clone()
        assert model.weights_id
    expected = bk.Attribution(bk.Model.from_module(tiny_llama(), tiny_tokenizer())).heads(PAIRS).effects
    torch.testing.assert_close(inside, expected)


def test_the_module_keeps_its_mode_and_dropout_plays_no_part():
    module = tiny_gpt2()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    expected = bk.execute(
        bk.Model.from_module(module.eval(), tiny_tokenizer()), [bk.Run(PAIRS.triggered, score="logprob")]
    )[0].scores
    module.train()
    module.transformer.h[1].eval()
    before = [part.training for part in module.modules()]
    model = bk.Model.from_module(module, tiny_tokenizer())
    for _ in range(2):
        got = bk.execute(model, [bk.Run(PAIRS.triggered, score="logprob")])[0].scores
        assert torch.equal(got, expected)
        assert [part.training for part in module.modules()] == before
    assert bk.doctor(model).passed
    assert [part.training for part in module.modules()] == before


def test_the_mode_comes_back_after_an_error():
    module = tiny_llama().train()
    model = bk.Model.from_module(module, tiny_tokenizer())

    def fails(logits, targets, *rest):
        raise RuntimeError("no")

    with pytest.raises(Exception, match="no"):
        bk.execute(model, [bk.Run(PAIRS.triggered, score=fails)])
    assert all(part.training for part in module.modules())
    assert state()[0] is True


def test_quantised_linears_are_named():
    module = tiny_llama().float()
    packed = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear})
    with pytest.raises(UnsupportedArchitectureError, match=r"q_proj.*quantised or packed.*float32"):
        bk.Model.from_module(packed, tiny_tokenizer())


def test_whole_numbers_in_a_weights_place_are_named():
    module = tiny_llama()
    proj = module.model.layers[2].mlp.up_proj
    proj.weight = torch.nn.Parameter(proj.weight.detach().to(torch.uint8), requires_grad=False)
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.2\.mlp\.up_proj"):
        bk.Model.from_module(module, tiny_tokenizer())


def test_offloaded_weights_are_named():
    module = tiny_llama()
    module.model.layers[3].to("meta")
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.3.*not in memory"):
        bk.Model.from_module(module, tiny_tokenizer())


def test_a_skeleton_cannot_run_here():
    model = bk.Model.from_module(tiny_llama().to("meta"), tiny_tokenizer())
    with pytest.raises(UnsupportedArchitectureError, match="meta device"):
        bk.execute(model, [bk.Run(PAIRS.triggered, score="logprob")])


def test_a_compiled_module_is_taken_as_what_it_wraps():
    module = tiny_llama()
    model = bk.Model.from_module(torch.compile(module, backend="eager"), tiny_tokenizer())
    assert model.module is module
    assert model.weights_id == bk.Model.from_module(tiny_llama(), tiny_tokenizer()).weights_id


def test_a_deep_copy_runs_on_its_own_weights():
    model = bk.Model.from_module(tiny_llama(), tiny_tokenizer(), name="mine")
    twin = copy.deepcopy(model)
    run = [bk.Run(PAIRS.triggered, score="logprob")]
    before = bk.execute(model, run)[0].scores
    assert torch.equal(bk.execute(twin, run)[0].scores, before)
    assert twin.name == "mine" and twin.weights_id == model.weights_id
    with torch.no_grad():
        twin.module.lm_head.weight.zero_()
    assert not torch.equal(bk.execute(twin, run)[0].scores, before)
    assert torch.equal(bk.execute(model, run)[0].scores, before)
    skeleton = bk.Model.from_module(tiny_llama().to("meta"), tiny_tokenizer())
    assert copy.deepcopy(skeleton) is skeleton
