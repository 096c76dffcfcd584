"""Model.save: plain transformers reads it and computes the same; whatever the model came from."""

import json

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
    pcp = bk.PCP.fit(model, PAIRS.triggered, "L1.mlp_out L2.attn_out", rank=2)
    edited = bk.export_weights(model, pcp.replace(0.5))
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
    with pytest.raises(ArtefactError, match="no weights"):
        wrap(tiny_llama().to("meta")).save(tmp_path / "m")
