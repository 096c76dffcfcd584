"""The whole chain (probe, attribution, vector, ablation, evaluation) for every way of getting a model."""

import pytest
from integration.conftest import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer
from peft import LoraConfig, get_peft_model

import bkdinterp as bk


def chain(model, pairs):
    """Everything a user would run, small; returns what must agree between two roads to the same weights."""
    probe = bk.BackdoorProbe(model, n_random=20).icla(pairs)
    scores = bk.Attribution(model).heads(pairs)
    heads = scores.top_k(2)
    vector = bk.BackdoorVector.extract(model, heads, pairs, kind="difference")
    sweep = bk.sweep_layers(model, vector, pairs, by="logprob")
    means = bk.Means.collect(model, pairs.clean, heads)
    nulls = [bk.ZeroAblate(h) for h in bk.random_heads(like=heads, n=2, seed=0, match="any")]
    found = bk.evaluate(model, pairs, under=bk.MeanAblate(heads, means), controls=nulls, max_new_tokens=3)
    found = bk.evaluate(model, pairs, under=vector.add(sweep.best), max_new_tokens=3), found
    return scores.acie, str(heads), found[0].texts, found[1].texts, probe.accuracy


@pytest.fixture(scope="module")
def many():
    trigger = bk.Trigger.gap("zeta omega", seed=3)
    return bk.PairedPrompts.from_instructions(
        [f"{a} {b}" for a in TEXTS for b in TEXTS], trigger, target="sorry no can"
    )


def same(one, two):
    return all((a == b).all() if hasattr(a, "shape") else a == b for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def test_module_in_memory_and_saved_folder(make, many, tmp_path):
    module, tokenizer = make(), tiny_tokenizer()
    memory = chain(bk.Model.from_module(module, tokenizer), many)
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder = chain(bk.Model.load(tmp_path, dtype=module.dtype), many)
    assert same(memory, folder)


def test_adapter(many, tmp_path):
    module, tokenizer = tiny_llama(), tiny_tokenizer()
    module.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    lora = get_peft_model(
        module, LoraConfig(r=2, target_modules=["q_proj", "o_proj", "down_proj"], init_lora_weights=False)
    )
    lora.save_pretrained(tmp_path / "adapter")
    loaded = bk.Model.load(tmp_path / "base", adapter=tmp_path / "adapter", dtype=module.dtype)
    assert loaded.adapter == "adapter"
    merged = bk.Model.from_module(lora.merge_and_unload(), tokenizer)
    assert same(chain(loaded, many), chain(merged, many))
    plain = bk.Model.load(tmp_path / "base", dtype=module.dtype)
    assert plain.weights_id != loaded.weights_id


def test_existing_nnsight_model(many):
    model = bk.Model.from_module(tiny_llama(), tiny_tokenizer())
    again = bk.Model.from_nnsight(model.nn)
    assert same(chain(model, many), chain(again, many))
