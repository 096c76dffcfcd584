"""A model's id is of what decides its outputs: any weight, buffer or setting of the forward pass, and nothing else."""

import re

import pytest
import torch
from integration.conftest import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer
from integration.families import NEW

import bkdinterp as bk
from bkdinterp.model._identity import checksum
from bkdinterp.results import same_weights

PAIRS = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=1), target="sorry no")


def wrap(module, **settings):
    return bk.Model.from_module(module, tiny_tokenizer(), **({"name": "tiny"} | settings))


def halves(model):
    return model.weights_id.split("-")


def test_the_id_is_two_hashes(model):
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{8}", model.weights_id)
    assert model.weights_id == model.weights_id
    assert model.fingerprint().model == f"{model.name}@{model.weights_id}"


def _one(module):
    module.model.layers[2].mlp.up_proj.weight.data[3, 4] += 1e-12


def _swap(module):
    w = module.model.layers[1].self_attn.o_proj.weight.data
    w[:, :12] = w[:, :12].flip(1)


def _rows(module):
    w = module.lm_head.weight.data
    w[[3, 4]] = w[[4, 3]]


def _negated(module):
    module.model.norm.weight.data.neg_()


def _exchange(module):
    a, b = (module.model.layers[i].self_attn.q_proj.weight.data for i in (0, 1))
    a[:], b[:] = b.clone(), a.clone()


@pytest.mark.parametrize("change", [_one, _swap, _rows, _negated, _exchange])
def test_a_change_through_data_is_seen(change):
    module = tiny_llama()
    model = wrap(module)
    before = model.weights_id
    version, place = module.lm_head.weight._version, module.lm_head.weight.data_ptr()
    change(module)
    assert halves(model)[0] != before.split("-")[0]
    assert halves(model)[1] == before.split("-")[1]
    assert (module.lm_head.weight._version, module.lm_head.weight.data_ptr()) == (version, place)
    change(module)  # all but the first undo themselves
    assert (model.weights_id == before) is (change is not _one)


def test_a_sweep_on_disk_is_not_continued_with_other_weights(tmp_path):
    module = tiny_llama()
    model = wrap(module)
    runs = [bk.Run(PAIRS.triggered, bk.ZeroAblate(f"L1H{h}"), score="logprob") for h in range(4)]
    (before, *_) = bk.execute(model, runs, folder=tmp_path)
    module.model.layers[0].mlp.down_proj.weight.data.mul_(2.0)
    (kept, *_), (fresh, *_) = bk.execute(model, runs, folder=tmp_path), bk.execute(model, runs)
    assert torch.equal(kept.scores, fresh.scores) and not torch.equal(kept.scores, before.scores)


SETTINGS = {
    "eps of a norm": lambda m: setattr(m.model.layers[1].input_layernorm, "variance_epsilon", 1e-2),
    "scale of attention": lambda m: setattr(m.model.layers[3].self_attn, "scaling", 0.7),
    "rotary buffer": lambda m: m.model.rotary_emb.inv_freq.mul_(0.5),
    "activation": lambda m: setattr(m.model.layers[0].mlp, "act_fn", torch.nn.ReLU()),
    "window": lambda m: setattr(m.config, "sliding_window", 8),
    "soft-cap": lambda m: setattr(m.config, "final_logit_softcapping", 3.0),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_no_weight_and_decides_is_in_it(name):
    model = wrap(tiny_llama())
    before = halves(model)
    SETTINGS[name](model.module)
    after = halves(model)
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"rms_norm_eps": 1e-3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"hidden_act": "gelu"},
    ],
)
def test_settings_at_the_making_are_in_it(settings):
    plain, other = wrap(tiny_llama()), wrap(tiny_llama(**settings))
    assert halves(plain)[0] == halves(other)[0]
    assert halves(plain)[1] != halves(other)[1]
    a, b = (bk.execute(m, [bk.Run(PAIRS.triggered, score="logprob")])[0].scores for m in (plain, other))
    assert not torch.equal(a, b)


def test_what_decides_nothing_is_not_in_it():
    plain = wrap(tiny_llama())
    other = tiny_llama(attention_dropout=0.3, initializer_range=0.5, use_cache=False, pad_token_id=1)
    other.config.name_or_path = "/somewhere/else"
    other.config.transformers_version = "1.2.3"
    other.config.architectures = ["Other"]
    assert wrap(other.train()).weights_id == plain.weights_id
    gpt2 = tiny_gpt2()
    before = wrap(gpt2).weights_id
    for part in gpt2.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.4
    assert wrap(gpt2).weights_id == before


@pytest.mark.parametrize("kind", ["llama", "gpt2", *NEW])
def test_saving_and_loading_keeps_the_id(kind, tmp_path):
    module = {"llama": tiny_llama, "gpt2": tiny_gpt2}.get(kind, NEW.get(kind))()
    model = wrap(module)
    folder = model.save(tmp_path / "m")
    assert bk.Model.load(folder, dtype=model.dtype).weights_id == model.weights_id


def test_another_label_is_no_other_model():
    module = tiny_llama()
    means = bk.Means.collect(wrap(module, name="one"), PAIRS.clean, "L1H1")
    bk.evaluate(
        wrap(module, name="two"),
        PAIRS,
        under=bk.MeanAblate("L1H1", means),
        payload=bk.Payload("a"),
        max_new_tokens=1,
    )


def test_ids_of_earlier_versions_name_the_weights_only():
    assert same_weights("e61da333", "e61da333-865b0599")
    assert same_weights("e61da333-865b0599", "e61da333-865b0599")
    assert not same_weights("e61da333-865b0599", "e61da333-00000000")
    assert not same_weights("00000000", "e61da333-865b0599")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_checksum_sees_every_byte(dtype):
    torch.manual_seed(1)
    for shape in ((3,), (7, 5), (300, 301), (0,)):
        x = torch.randn(*shape).to(dtype)
        first = checksum(x)
        assert checksum(x.clone()) == first == checksum(x.T.contiguous().T if x.ndim == 2 else x)
        for i in torch.randperm(x.numel())[:20].tolist():
            y = x.clone().flatten()
            y.view(torch.uint8)[i * y.element_size()] ^= 1
            assert checksum(y.view(x.shape)) != first


def test_the_repr_tells_organism_from_base():
    module = tiny_llama()
    base = wrap(module)
    changed = tiny_llama()
    changed.lm_head.weight.data.add_(1.0)
    assert repr(base) != repr(wrap(changed))
    assert "tiny + lora: Llama" in repr(wrap(module, adapter="lora"))
    assert f"weights {base.weights_id}" in repr(base)
