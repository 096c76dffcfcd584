"""Model.save: plain transformers reads it and computes the same; whatever the model came from."""

import copy
import json

import gguf
import numpy as np
import pytest
import torch
from integration.conftest import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import bkdinterp as bk
from bkdinterp.errors import ArtefactError

IDS = torch.tensor([[2, 4, 7, 11, 14, 18, 3]])
PAIRS = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=1), target="sorry no")


@torch.no_grad()
def logits(module):
    return module.eval()(input_ids=IDS).logits


def wrap(module):
    return bk.Model.from_module(module, tiny_tokenizer(), name="tiny")


def same(model, folder):
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    torch.testing.assert_close(logits(again), logits(model.module), rtol=1e-9, atol=1e-9)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == model.tokenizer.chat_template
    assert tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert tokenizer(TEXTS[0])["input_ids"] == model.tokenizer(TEXTS[0])["input_ids"]


def test_plain_transformers_reads_it(model, tmp_path):
    folder = model.save(tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    same(model, folder)
    again = bk.Model.load(folder, dtype=model.dtype)
    scores = [bk.execute(m, [bk.Run(PAIRS.triggered, score="logprob")])[0].scores for m in (model, again)]
    torch.testing.assert_close(*scores, rtol=1e-9, atol=0)
    assert [f.name for f in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_tie_is_saved_as_it_is(make, tmp_path):
    tied = make() if make is tiny_gpt2 else make(tie_word_embeddings=True)
    same(wrap(tied), wrap(tied).save(tmp_path / "tied"))
    # Parted by hand, without telling the config.
    tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.detach() * 1.5)
    same(wrap(tied), wrap(tied).save(tmp_path / "parted"))
    assert tied.config.tie_word_embeddings is True
    assert json.loads((tmp_path / "parted" / "config.json").read_text())["tie_word_embeddings"] is False


def test_tied_by_hand(tmp_path):
    module = tiny_llama()
    module.lm_head.weight = module.model.embed_tokens.weight
    same(wrap(module), wrap(module).save(tmp_path / "m"))
    assert module.config.tie_word_embeddings is False


def test_replaced_modules_are_saved(tmp_path):
    model = wrap(tiny_llama())
    pcp = bk.pcp.PCP.fit(model, PAIRS.triggered, "L1.mlp_out L2.attn_out", rank=2)
    edited = bk.pcp.export_weights(model, pcp.replace(0.5))
    assert (logits(edited.module) - logits(model.module)).abs().max() > 1e-2
    same(edited, edited.save(tmp_path / "m"))


def test_what_a_loader_of_quantised_files_leaves_is_no_hindrance(tmp_path):
    """As transformers leaves a module that it has read from a GGUF file."""

    class Quantizer:
        quantization_config = type("C", (), {"quant_method": "gguf"})()

        def is_serializable(self):
            return False

    module = tiny_llama()
    module.hf_quantizer, module.quantization_method, module.is_quantized = Quantizer(), "gguf", True
    module.config.quantization_config = {"quant_method": "gguf"}
    with pytest.raises(Exception, match="quantized"):
        module.save_pretrained(tmp_path / "plain")
    same(wrap(module), wrap(module).save(tmp_path / "m"))
    module.save_pretrained(tmp_path / "again")  # and from now on plainly, too


def written_gguf(path):
    """A Llama of two layers with random weights, as llama.cpp's writer stores one."""
    d, mlp, heads, kv, words = 16, 32, 4, 2, [*map(chr, range(33, 127)), "Ġ", "ab", "<s>", "<e>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(d)
    writer.add_block_count(2)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - 2) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(words) - 2)
    writer.add_eos_token_id(len(words) - 1)
    rng = np.random.default_rng(0)
    half = d // heads * kv
    shapes = {"attn_q": (d, d), "attn_k": (half, d), "attn_v": (half, d), "attn_output": (d, d)}
    shapes |= {
        "ffn_gate": (mlp, d),
        "ffn_up": (mlp, d),
        "ffn_down": (d, mlp),
        "attn_norm": (d,),
        "ffn_norm": (d,),
    }
    tensors = {f"blk.{i}.{name}": shape for i in range(2) for name, shape in shapes.items()}
    tensors |= {"token_embd": (len(words), d), "output": (len(words), d), "output_norm": (d,)}
    for name, shape in tensors.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_came_from_a_gguf_file_is_saved(tmp_path):
    model = bk.Model.load(written_gguf(tmp_path / "m.gguf"))
    same(model, model.save(tmp_path / "m"))
    assert bk.Model.load(tmp_path / "m").weights_id == model.weights_id
    # As the pages of the docs do it, too, and its copies.
    model.module.save_pretrained(tmp_path / "plain")
    same(copy.deepcopy(model), copy.deepcopy(model).save(tmp_path / "copy"))


def test_nothing_is_overwritten(tmp_path):
    model = wrap(tiny_llama())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ArtefactError, match=f"{name} exists"):
            model.save(tmp_path / name)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    same(model, model.save(tmp_path / "empty"))


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    model = wrap(tiny_llama())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", full)
    with pytest.raises(ArtefactError, match="No space left"):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [None, "", 3, "a\0b"])
def test_a_folder_that_is_none(bad):
    with pytest.raises(ArtefactError, match="folder="):
        wrap(tiny_llama()).save(bad)


def test_a_skeleton_has_nothing_to_save(tmp_path):
    with pytest.raises(ArtefactError, match="not in memory"):
        wrap(tiny_llama().to("meta")).save(tmp_path / "m")
