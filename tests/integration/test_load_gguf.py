"""GGUF files: what they hold is used or named, their flags on special tokens hold, and damaged ones are refused early."""

import struct

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.model import Model
from bkdinterp.model._gguf_header import read_gguf_header
from bkdinterp.prompts import Prompts

ALPHABET = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
TOKENS = [*ALPHABET, "\u0120t", "<|begin|>", "<|end|>"]
BOS, EOS = len(TOKENS) - 2, len(TOKENS) - 1
IDS = torch.arange(20, 120)[None]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"


def enlarged(module):
    for name, p in module.named_parameters():
        if p.ndim == 2 or "bias" in name:
            p.data = torch.randn_like(p) * 0.3
    return module.eval()


def llama(**extra):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5}
    return enlarged(
        LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENS), tie_word_embeddings=False, **(sizes | extra)))
    )


def write(path, module, *, arch="llama", drop=(), tensors=None, settings=None, template=None):
    """A file as converters write it: own names; for Llama, queries and keys in the other order."""
    c, w = module.config, gguf.GGUFWriter(str(path), arch)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_head_count(c.num_attention_heads)
    if arch == "gpt2":
        w.add_layer_norm_eps(c.layer_norm_epsilon)
        w.add_feed_forward_length(4 * c.hidden_size)
    else:
        w.add_feed_forward_length(c.intermediate_size)
        w.add_head_count_kv(c.num_key_value_heads)
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
        w.add_rope_freq_base(10000.0)
        w.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
        w.add_vocab_size(c.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_token_list(TOKENS)
    w.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    w.add_token_merges(["\u0120 t"])
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    if template is not None:
        w.add_chat_template(template)
    for key, (kind, value) in (settings or {}).items():
        getattr(w, f"add_{kind}")(key, value)
    names = gguf.get_tensor_name_map(
        {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch], c.num_hidden_layers
    )
    for name, p in module.named_parameters():
        a, stem, kind = p.detach().numpy(), name.rpartition(".")[0], name.rpartition(".")[2]
        heads = (
            c.num_attention_heads if "q_proj" in name else c.num_key_value_heads if "k_proj" in name else 0
        )
        if heads and arch == "llama":
            a = a.reshape(heads, 2, a.shape[0] // heads // 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)
        if arch == "gpt2" and any(part in name for part in ("c_attn.w", "c_proj.w", "c_fc.w")):
            a = a.T
        own = f"{names.get_name(stem)}.{kind}"
        if own not in drop:
            w.add_tensor(own, (tensors or {}).get(own, a).copy())
    for name, a in (tensors or {}).items():
        if name not in {t for group in w.tensors for t in group}:
            w.add_tensor(name, a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@torch.no_grad()
def logits(module):
    return module(input_ids=IDS).logits


def same(path, module):
    torch.testing.assert_close(logits(Model.load(path).module), logits(module), rtol=1e-4, atol=1e-4)


LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}


# --- what is applied ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.gguf", "M.GGUF"])
def test_a_plain_file(name, tmp_path):
    module = llama()
    model = Model.load(write(tmp_path / name, module))
    torch.testing.assert_close(logits(model.module), logits(module), rtol=1e-4, atol=1e-4)
    assert model.name == name
    for left_over in ("hf_quantizer", "quantization_method"):
        assert not hasattr(model.module, left_over)


def test_attention_biases(tmp_path):
    same(write(tmp_path / "m.gguf", llama(attention_bias=True)), llama(attention_bias=True))


def test_linear_scaling_of_positions(tmp_path):
    scaling = {"llama.rope.scaling.type": ("string", "linear"), "llama.rope.scaling.factor": ("float32", 4.0)}
    same(write(tmp_path / "m.gguf", llama(), settings=scaling), llama(rope_parameters=LINEAR))
    none = {"llama.rope.scaling.type": ("string", "none"), "llama.rope.scaling.factor": ("float32", 4.0)}
    same(
        write(
            tmp_path / "n.gguf",
            llama(),
            settings={"llama.rope.scaling.type": none["llama.rope.scaling.type"]},
        ),
        llama(),
    )


def factors_of(module):
    return (
        (10000.0 ** -(torch.arange(0, 8, 2) / 8) / module.model.rotary_emb.inv_freq).numpy().astype("float32")
    )


def test_the_divisors_of_llama_3(tmp_path):
    scaled = llama(rope_parameters=LLAMA3)
    same(write(tmp_path / "m.gguf", llama(), tensors={"rope_freqs.weight": factors_of(scaled)}), scaled)
    odd = np.array([1, 2, 3, 1.5], dtype="float32")
    with pytest.raises(ArtefactError, match=r"rope_freqs\.weight"):
        Model.load(write(tmp_path / "n.gguf", llama(), tensors={"rope_freqs.weight": odd}))


def test_gpt2_and_qwen2(tmp_path):
    torch.manual_seed(0)
    module = enlarged(
        GPT2LMHeadModel(GPT2Config(vocab_size=len(TOKENS), n_embd=32, n_layer=2, n_head=4, n_positions=128))
    )
    same(write(tmp_path / "g.gguf", module, arch="gpt2"), module)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 512}
    module = enlarged(Qwen2ForCausalLM(Qwen2Config(vocab_size=len(TOKENS), **sizes)))
    same(write(tmp_path / "q.gguf", module, arch="qwen2"), module)


# --- exactly one beginning-of-text token ---------------------------------------------------------------------------------


def first_ids(path, **settings):
    model = Model.load(path, **settings)
    batch = model.builder.tokenize(Prompts.of(["the tall hill"]))
    return batch.input_ids[0].tolist(), model


@pytest.mark.parametrize("template", [TEMPLATE, "{{ bos_token }}" + TEMPLATE, "<|begin|>" + TEMPLATE])
@pytest.mark.parametrize("asked", [True, False, None])
def test_a_beginning_of_text_token_where_the_header_asks_for_one(template, asked, tmp_path):
    settings = {} if asked is None else {"tokenizer.ggml.add_bos_token": ("bool", asked)}
    path = write(tmp_path / "m.gguf", llama(), settings=settings, template=template)
    ids, model = first_ids(path, chat=False)
    assert ids.count(BOS) == (1 if asked else 0)
    assert (ids[0] == BOS) == bool(asked)
    ids, _ = first_ids(path)
    assert ids.count(BOS) == (1 if asked or template != TEMPLATE else 0)
    assert (ids[0] == BOS) == (ids.count(BOS) == 1)
    # The flag reaches a saved copy, too.
    model.tokenizer.save_pretrained(tmp_path / "saved")
    again = type(model.tokenizer).from_pretrained(tmp_path / "saved")
    assert again("the hill").input_ids == model.tokenizer("the hill").input_ids


def test_offsets_are_as_without_the_flag(tmp_path):
    flag = {"tokenizer.ggml.add_bos_token": ("bool", True)}
    with_it = Model.load(write(tmp_path / "a.gguf", llama(), settings=flag)).tokenizer
    without = Model.load(write(tmp_path / "b.gguf", llama())).tokenizer
    text = "a tall  hill"
    assert (
        with_it(text, return_offsets_mapping=True)["offset_mapping"][1:]
        == without(text, return_offsets_mapping=True)["offset_mapping"]
    )


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", ("string", "yarn")),
        ("llama.attention.sliding_window", ("uint32", 16)),
        ("llama.logit_scale", ("float32", 2.0)),
        ("llama.attention.key_length", ("uint32", 12)),
        ("llama.expert_count", ("uint32", 4)),
        ("llama.something.new", ("uint32", 4)),
        ("llama.attention.causal", ("bool", False)),
        ("split.count", ("uint16", 3)),
    ],
)
def test_settings_that_would_be_passed_over(key, value, tmp_path):
    extra = {"llama.rope.scaling.factor": ("float32", 4.0)} if "scaling" in key else {}
    path = write(tmp_path / "m.gguf", llama(), settings={key: value} | extra)
    with pytest.raises(ArtefactError, match=key.rpartition(".")[2] if "split" not in key else "3 files"):
        Model.load(path)


def test_settings_without_effect_are_let_through(tmp_path):
    harmless = {
        "llama.attention.sliding_window": ("uint32", 4096),  # longer than the context
        "llama.attention.key_length": ("uint32", 8),
        "llama.expert_count": ("uint32", 0),
        "llama.tensor_data_layout": ("string", "Meta AI original pth"),
    }
    same(write(tmp_path / "m.gguf", llama(), settings=harmless), llama())


def test_tensors_without_a_place_or_of_another_shape_or_missing(tmp_path):
    stray = {"blk.0.attn_gate.weight": np.ones((32, 32), dtype="float32")}
    with pytest.raises(ArtefactError, match=r"blk\.0\.attn_gate\.weight"):
        Model.load(write(tmp_path / "a.gguf", llama(), tensors=stray))
    for name, shape in (
        ("blk.1.ffn_up.weight", (40, 32)),
        ("blk.0.attn_k.weight", (32, 32)),
        ("output_norm.weight", (31,)),
    ):
        odd = {name: np.ones(shape, dtype="float32")}
        with pytest.raises(ArtefactError, match=rf"{name}.*shape"):
            Model.load(write(tmp_path / "b.gguf", llama(), tensors=odd))
    with pytest.raises(ArtefactError, match=r"layers\.1\.mlp\.up_proj"):
        Model.load(write(tmp_path / "c.gguf", llama(), drop=("blk.1.ffn_up.weight",)))


def test_headers_that_lie(tmp_path):
    good = write(tmp_path / "m.gguf", llama()).read_bytes()
    path = tmp_path / "bad.gguf"
    for at, value in ((8, 2**63), (8, 10**6), (16, 2**63), (16, 10**4), (24, 2**62), (4, 9)):
        path.write_bytes(good[:at] + struct.pack("<Q", value) + good[at + 8 :])
        with pytest.raises(ArtefactError, match="GGUF"):
            Model.load(path)
    for cut in (3, 30, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(ArtefactError):
            Model.load(path)
    path.write_bytes(good.replace(b"llama.block_count", b"llama.block_xount"))
    with pytest.raises(ArtefactError, match="block_count"):
        Model.load(path)


def test_nothing_beside_the_file_is_read(tmp_path):
    path = write(tmp_path / "m.gguf", llama())
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.T", null]}}')
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    (tmp_path / "config.json").write_text("[]")
    same(path, llama())
    assert not ran.exists()


def test_the_header_says_what_was_written(tmp_path):
    header = read_gguf_header(write(tmp_path / "m.gguf", llama()))
    assert header.architecture == "llama"
    assert header.settings["llama.block_count"] == 2
    assert header.settings["tokenizer.ggml.tokens"] == TOKENS
    assert header.tensors["blk.0.attn_k.weight"].shape == (16, 32)
    with pytest.raises(BkdinterpError):
        read_gguf_header(tmp_path / "none.gguf")
