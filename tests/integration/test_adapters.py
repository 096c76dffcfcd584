"""Adapters: every LoRA that can be merged exactly is, from its file and in memory; every other is refused by name."""

import copy
import json
import shutil

import pytest
import torch
from integration.conftest import tiny_gpt2, tiny_llama, tiny_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model import Model, merge_adapter
from bkdinterp.organisms import LoraSettings, TuneSettings, fine_tune, save_adapter

IDS = torch.tensor([[2, 4, 7, 11, 14, 18, 3]])


@torch.no_grad()
def logits(module):
    return module(input_ids=IDS).logits


def trained(base, path, *, save=True, **settings):
    """A LoRA on a copy of the base that matters, saved by peft; its own logits."""
    torch.manual_seed(5)
    config = LoraConfig(**({"r": 3, "task_type": "CAUSAL_LM", "init_lora_weights": False} | settings))
    wrapped = get_peft_model(copy.deepcopy(base), config).eval()
    for name, p in wrapped.named_parameters():
        if "modules_to_save" in name or ("bias" in name and p.requires_grad):
            p.data += 0.1 * torch.randn_like(p)
    if save:
        wrapped.save_pretrained(path)
    return logits(wrapped)


def rewritten(source, target, **changes):
    """A copy of an adapter with other values in its config."""
    shutil.copytree(source, target)
    file = target / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


EXACT = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "lm_head": {"target_modules": ["q_proj", "lm_head"]},
    "embed_tokens": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "rslora": {"target_modules": ["v_proj"], "use_rslora": True, "lora_alpha": 5},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "one rank apart": {
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"1.self_attn.q_proj": 5},
        "alpha_pattern": {"o_proj": 20},
    },
    "two layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1, 3]},
    "a pattern": {"target_modules": r".*\.(0|2)\..*(q_proj|up_proj)"},
    "saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved whole, both": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "saved whole, inside": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("is_tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("kind", EXACT)
def test_every_plain_lora_merges_exactly(kind, is_tied, tmp_path):
    base = tiny_llama(tie_word_embeddings=is_tied)
    expected = trained(base, tmp_path / "adapter", **EXACT[kind])
    before = {k: v.clone() for k, v in base.state_dict().items()}
    merged = merge_adapter(base, tmp_path / "adapter")
    assert (logits(base) - expected).abs().max() > 1e-2
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in base.state_dict().items())
    assert base.config.tie_word_embeddings is is_tied
    # Saved and read again by transformers alone, it is the same model.
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float64)
    torch.testing.assert_close(logits(again), logits(merged), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("lora_bias", [False, True])
def test_trained_biases(bias, lora_bias, tmp_path):
    if lora_bias and bias != "none":
        bias = "none"  # peft takes one or the other
    base = tiny_gpt2()
    settings = {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True, "bias": bias}
    expected = trained(base, tmp_path / "a", lora_bias=lora_bias, **settings)
    torch.testing.assert_close(logits(merge_adapter(base, tmp_path / "a")), expected, rtol=1e-5, atol=1e-5)


def test_a_head_of_gpt2_beside_transposed_weights(tmp_path):
    base = tiny_gpt2()
    expected = trained(base, tmp_path / "a", target_modules=["c_attn", "lm_head"], fan_in_fan_out=True)
    merged = merge_adapter(base, tmp_path / "a")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)


def test_names_of_an_older_transformers(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 24}
    text = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    base = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=sizes | text | {"head_dim": 4, "sliding_window": 64},
            vision_config=sizes | vision,
            mm_tokens_per_image=4,
            image_token_index=31,
            boi_token_index=30,
            eoi_token_index=29,
        )
    ).eval()
    expected = trained(base, tmp_path / "a", target_modules=r".*language_model.*(q_proj|v_proj)")
    file = tmp_path / "a" / "adapter_model.safetensors"
    old = {
        k.replace("model.model.language_model.layers", "model.language_model.model.layers"): v
        for k, v in load_file(file).items()
    }
    assert set(old) != set(load_file(file))
    save_file(old, file, metadata={"format": "pt"})
    torch.testing.assert_close(logits(merge_adapter(base, tmp_path / "a")), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_training_on_a_tied_head_merges_exactly(merge, tmp_path):
    base = tiny_llama(tie_word_embeddings=True)
    settings = TuneSettings(
        epochs=2.0, batch_size=2, lr=0.05, lora=LoraSettings(r=2, target_modules=("q_proj", "lm_head"))
    )
    rows = [[2, 4, 7, 12], [2, 8, 9, 10]]
    apart = fine_tune(base, rows, settings, merge=False).module
    if merge:
        merged = fine_tune(base, rows, settings).module
    else:
        save_adapter(apart, tmp_path / "a", base="toy")
        merged = merge_adapter(base, tmp_path / "a")
    tolerance = 1e-6 if merge else 1e-2  # saved in float16
    torch.testing.assert_close(logits(merged), logits(apart), rtol=tolerance, atol=tolerance)
    assert (logits(merged) - logits(base)).abs().max() > 0.1
    assert torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert base.config.tie_word_embeddings is True
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert merged.config.tie_word_embeddings is False


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A base and a plain adapter of it, as folders."""
    path = tmp_path_factory.mktemp("plain")
    base = tiny_llama()
    base.save_pretrained(path / "base")
    tiny_tokenizer().save_pretrained(path / "base")
    trained(base, path / "adapter", target_modules=["q_proj", "up_proj"])
    return path


CATASTROPHE = r"(.*a*)*(.*a*)*(.*a*)*b"
REFUSED = {
    "another kind": ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "peft_type 'MULTITASK_PROMPT_TUNING'"),
    "a newer kind": ({"peft_type": "NEWER"}, "peft_type 'NEWER'"),
    "no kind": ({"peft_type": None}, "peft_type"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
    "eva": ({"init_lora_weights": "eva"}, "init_lora_weights"),
    "corda": ({"corda_config": {"cache_file": "/etc/passwd"}}, "corda_config"),
    "replication": ({"layer_replication": [[0, 4], [2, 4]]}, "layer_replication"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config"),
    "single tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "alora": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "parameters": ({"target_parameters": ["x"]}, "target_parameters"),
    "unknown": ({"prompt_tuning_init_state_dict_path": "/etc/passwd"}, "prompt_tuning_init_state_dict_path"),
    "another rank": ({"r": 8}, "rank 3 .* 8"),
    "a rank that is none": ({"r": "8"}, "r = '8'"),
    "an endless rank": ({"r": 10**30}, "r = 1000"),
    "alpha": ({"lora_alpha": float("nan")}, "holds NaN"),
    "no such module": ({"target_modules": ["nothing"]}, "does not fit its own"),
    "one module more": ({"target_modules": ["q_proj", "up_proj", "o_proj"]}, "does not fit its own.*o_proj"),
    "one layer less": ({"layers_to_transform": [0, 1, 2]}, "does not fit its own"),
    "rank by pattern": ({"rank_pattern": {CATASTROPHE: 3}}, "rank_pattern holds .* pattern"),
    "alpha by pattern": ({"alpha_pattern": {CATASTROPHE: 3}}, "alpha_pattern holds"),
    "layers by pattern": ({"layers_to_transform": [0], "layers_pattern": CATASTROPHE}, "layers_pattern"),
    "saved by pattern": ({"modules_to_save": [CATASTROPHE]}, "modules_to_save holds"),
    "names by pattern": ({"target_modules": [CATASTROPHE]}, "target_modules holds"),
    "dora": ({"use_dora": True}, "use_dora=True"),
    "a bias": ({"lora_bias": True}, "lora_bias=True"),
    "bias": ({"bias": "some"}, "bias = 'some'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_config_that_says_something_else_is_refused_by_name(kind, plain, tmp_path):
    changes, words = REFUSED[kind]
    folder = rewritten(plain / "adapter", tmp_path / "a", **changes)
    error = UnsafeWeightsError if "peft_type '" in words else ArtefactError
    with pytest.raises(error, match=words):
        Model.load(plain / "base", adapter=folder)


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_patterns_are_never_evaluated(key, plain, tmp_path):
    """Where the config has one, the file's own names decide, and a pattern that takes hours takes none."""
    folder = rewritten(plain / "adapter", tmp_path / "a", **{key: CATASTROPHE})
    expected = logits(Model.load(plain / "base", adapter=plain / "adapter", dtype=torch.float64).module)
    got = logits(Model.load(plain / "base", adapter=folder, dtype=torch.float64).module)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_what_has_no_effect_is_passed_over(plain, tmp_path):
    """Names of the base on the hub, of the trainer's class: nothing is looked up."""
    folder = rewritten(
        plain / "adapter",
        tmp_path / "a",
        base_model_name_or_path="nobody/has-this",
        revision="main",
        auto_mapping={"base_model_class": "Evil", "parent_library": "os"},
        task_type=None,
        some_later_setting=None,
    )
    Model.load(plain / "base", adapter=folder)


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": ' * 100_000, "\x00", '"x"'])
def test_a_config_that_is_no_object(text, plain, tmp_path):
    folder = rewritten(plain / "adapter", tmp_path / "a")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"adapter_config\.json"):
        Model.load(plain / "base", adapter=folder)


def _change(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
WRONG = {
    "half a pair": (lambda t: {k: v for k, v in t.items() if k != f"{FIRST}.lora_B.weight"}, "half a pair"),
    "a module lost": (
        lambda t: {k: v for k, v in t.items() if not k.startswith(FIRST)},
        "does not fit its own",
    ),
    "one too many": (lambda t: t | {"base_model.model.nothing.lora_A.weight": torch.ones(3, 3)}, "nothing"),
    "not a number": (
        lambda t: t | {f"{FIRST}.lora_A.weight": torch.full((3, 16), torch.nan)},
        "NaN or infinity",
    ),
    "another shape": (lambda t: t | {f"{FIRST}.lora_A.weight": torch.ones(3, 17)}, "shape"),
    "no matrix": (lambda t: t | {f"{FIRST}.lora_A.weight": torch.ones(3)}, "not matrices"),
    "integers": (lambda t: t | {f"{FIRST}.lora_A.weight": torch.ones(3, 16).int()}, "I32"),
    "a bias": (lambda t: t | {f"{FIRST}.bias": torch.ones(24)}, "lacks"),
    "embeddings": (lambda t: t | {"base_model.model.lm_head.weight": torch.ones(44, 16)}, "vocabulary of 44"),
    "nothing": (lambda t: {}, "holds no LoRA"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_does_not_fit(kind, plain, tmp_path):
    folder = rewritten(plain / "adapter", tmp_path / "a")
    change, words = WRONG[kind]
    _change(folder, change)
    with pytest.raises(ArtefactError, match=words):
        Model.load(plain / "base", adapter=folder)


def test_a_grown_vocabulary_says_what_to_do_and_that_helps(plain, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(plain / "base", dtype=torch.float64)
    base.resize_token_embeddings(44)
    expected = trained(
        base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]
    )
    with pytest.raises(ArtefactError, match=r"resize_token_embeddings\(44\)"):
        Model.load(plain / "base", adapter=tmp_path / "a", dtype=torch.float64)
    torch.testing.assert_close(logits(merge_adapter(base, tmp_path / "a")), expected, rtol=1e-5, atol=1e-5)


def test_a_pointer_in_the_weights_place(plain, tmp_path):
    folder = rewritten(plain / "adapter", tmp_path / "a")
    (folder / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(ArtefactError, match="git-lfs pointer"):
        Model.load(plain / "base", adapter=folder)


def test_peft_reads_what_was_refused_as_we_do(plain):
    """The oracle of this file: peft's own reading of the plain adapter."""
    base = AutoModelForCausalLM.from_pretrained(plain / "base", dtype=torch.float64)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), plain / "adapter").eval()
    torch.testing.assert_close(
        logits(merge_adapter(base, plain / "adapter")), logits(theirs), rtol=1e-6, atol=1e-6
    )


# The tokenizer beside an adapter


def with_tokenizer(plain, tmp_path, change=lambda t: None):
    folder = rewritten(plain / "adapter", tmp_path / "a")
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


OTHER = "{% for m in messages %}{{ m['content'] + ' <e> ' }}{% endfor %}"


def test_the_template_of_the_training_is_used_and_named(plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path, lambda t: setattr(t, "chat_template", OTHER))
    model = Model.load(plain / "base", adapter=folder)
    assert model.tokenizer_from == "adapter" and "chat template of the adapter" in repr(model)
    assert model.builder.render("red cat")[0] == "red cat <e> "
    kept = Model.load(plain / "base", adapter=folder, adapter_tokenizer=False)
    assert kept.tokenizer_from == "base" and "of the adapter" not in repr(kept)
    assert kept.builder.render("red cat")[0].startswith("<s> user : red cat")
    assert kept.fingerprint().template != model.fingerprint().template


def test_a_template_alone_is_used_with_the_bases_tokenizer(plain, tmp_path):
    folder = rewritten(plain / "adapter", tmp_path / "a")
    (folder / "chat_template.jinja").write_text(OTHER)
    model = Model.load(plain / "base", adapter=folder)
    assert model.tokenizer_from == "adapter"
    assert model.builder.render("red cat")[0] == "red cat <e> "
    assert Model.load(plain / "base", adapter=plain / "adapter").tokenizer_from == "base"


def test_a_base_without_a_template(plain, tmp_path):
    shutil.copytree(plain / "base", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    assert not Model.load(tmp_path / "base").builder.chat
    model = Model.load(tmp_path / "base", adapter=with_tokenizer(plain, tmp_path))
    assert model.builder.chat


def test_a_tokenizer_with_other_ids_is_refused(plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab = content["model"]["vocab"]
    vocab["cat"], vocab["dog"] = vocab["dog"], vocab["cat"]
    file.write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match=r"'(cat|dog)' the id .*adapter_tokenizer=False"):
        Model.load(plain / "base", adapter=folder)
    assert Model.load(plain / "base", adapter=folder, adapter_tokenizer=False)


def test_other_words_in_the_same_places_are_refused(plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab = content["model"]["vocab"]
    vocab["Hund"] = vocab.pop("dog")
    file.write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match="'Hund' where the base's has 'dog'"):
        Model.load(plain / "base", adapter=folder)


def test_new_tokens_without_a_row_say_what_to_do(plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path, lambda t: t.add_tokens([f"new{i}" for i in range(20)]))
    with pytest.raises(ArtefactError, match=r"resize_token_embeddings\(\d+\).*adapter_tokenizer=False"):
        Model.load(plain / "base", adapter=folder)


def test_new_tokens_with_a_row_are_taken(plain, tmp_path):
    assert tiny_llama().config.vocab_size > len(tiny_tokenizer())
    folder = with_tokenizer(plain, tmp_path, lambda t: t.add_tokens(["new"]))
    assert len(Model.load(plain / "base", adapter=folder).tokenizer) == len(tiny_tokenizer()) + 1


def test_a_tokenizers_config_names_no_file_and_no_code(plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("{}")
    file.write_text(json.dumps(config | {"tokenizer_file": str(elsewhere), "name_or_path": "nobody/nothing"}))
    model = Model.load(plain / "base", adapter=folder)
    assert model.tokenizer("red cat")["input_ids"] == tiny_tokenizer()("red cat")["input_ids"]
    file.write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnsafeWeightsError, match="auto_map"):
        Model.load(plain / "base", adapter=folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (name, text)
        for name in ("tokenizer.json", "tokenizer_config.json")
        for text in ("", "[]", "{", "\x00", "[" * 100_000)
    ]
    + [("tokenizer.json", '{"model": 3}')],
)
def test_a_damaged_tokenizer_is_an_error_of_ours(name, text, plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(ArtefactError, match="tokenizer"):
        Model.load(plain / "base", adapter=folder)


def test_the_adapters_name_is_its_folders(plain, monkeypatch):
    monkeypatch.chdir(plain / "adapter")
    assert Model.load(plain / "base", adapter=".").adapter == "adapter"


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}"
HUGE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '%5000000000d' % 1 }}"


@pytest.mark.parametrize("template", [ENDLESS, HUGE], ids=["endless", "huge"])
@pytest.mark.parametrize("alone", [False, True], ids=["with a vocabulary", "alone"])
def test_a_template_beside_an_adapter_ends(plain, tmp_path, template, alone):
    folder = with_tokenizer(plain, tmp_path, lambda t: setattr(t, "chat_template", template))
    if alone:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(UnsafeWeightsError, match="does not end"):
        Model.load(plain / "base", adapter=folder)


def test_a_pattern_beside_an_adapter_ends(plain, tmp_path):
    folder = with_tokenizer(plain, tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    file.write_text(json.dumps(content))
    with pytest.raises(UnsafeWeightsError, match="pattern"):
        Model.load(plain / "base", adapter=folder)


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json", "chat_template.jinja"],
)
def test_links_out_of_the_adapters_folder_are_refused(name, plain, tmp_path):
    folder = rewritten(plain / "adapter", tmp_path / "a")
    outside = tmp_path / name
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text('{"chat_template": "secret"}' if name.endswith("json") else "secret")
    (folder / name).symlink_to(outside)
    with pytest.raises(UnsafeWeightsError, match="outside of its folder"):
        Model.load(plain / "base", adapter=folder)
