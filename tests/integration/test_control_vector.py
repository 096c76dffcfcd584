"""A saved control vector, read back with gguf and added by hand as llama.cpp does, equals the Steer that it stands for; and
what can be said in plain transformers: a hook, or the bias of an output projection."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from integration.conftest import tiny_gpt2, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.errors import ArtefactError, BkdinterpError, SiteError

gguf = pytest.importorskip("gguf")
CLOSE: Any = {"rtol": 1e-6, "atol": 2e-6}


@pytest.fixture(scope="module")
def gpt2():
    return bk.Model.from_module(tiny_gpt2(), tiny_tokenizer(), name="tiny-gpt2")


@pytest.fixture(scope="module")
def vector(llama, pairs):
    return bk.BackdoorVector.extract(llama, "L1H0, L2H1", pairs, kind="difference")


def directions(path):
    """What llama.cpp's loader makes of a file: block -> direction. Tensors are F32 and named from 1."""
    reader = gguf.GGUFReader(str(path))
    found = {}
    for tensor in reader.tensors:
        prefix, _, number = tensor.name.partition(".")
        assert prefix == "direction" and int(number) >= 1
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and list(tensor.shape) == [
            len(tensor.data)
        ]
        found[int(number)] = torch.from_numpy(np.array(tensor.data))
    return reader, found


def last_logits(module, model, prompts, added=None):
    """Plain logits at the last token, with a hook on each block that adds its direction to what leaves the block."""
    batch = model.builder.tokenize(prompts, targets=False)
    family, handles = model.architecture.family, []
    for layer, direction in (added or {}).items():

        def hook(_, __, output, direction=direction):
            if isinstance(output, tuple):
                return (output[0] + direction.to(output[0].dtype), *output[1:])
            return output + direction.to(output.dtype)

        block = module.get_submodule(f"{family.layers}.{layer}")
        handles.append(block.register_forward_hook(hook))
    try:
        with torch.no_grad():
            out = module(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            )
    finally:
        for handle in handles:
            handle.remove()
    return out.logits[:, -1]


def under(model, prompts, edit):
    """Logits at the last token under an edit: the lens of the last layer, whose norm and unembedding are the model's."""
    last = f"L{model.architecture.n_layers - 1}.resid_post"
    (result,) = bk.execute(model, [bk.Run(prompts, edit, reads=(bk.Read(last),))])
    return bk.methods.unembed(model, result.reads[0])


@pytest.mark.parametrize(("layers", "coeff"), [(1, 1.0), ([1, 2], -2.5), (2, 3)])
def test_the_file_does_what_the_steer_does(llama, pairs, vector, tmp_path, layers, coeff):
    path = vector.save_gguf(tmp_path / "new" / "v.gguf", llama, layers, coeff=coeff)
    reader, found = directions(path)
    chosen = [layers] if isinstance(layers, int) else layers
    assert sorted(found) == sorted(chosen)  # direction.N is layer N, counted from 0
    for direction in found.values():
        torch.testing.assert_close(direction, (coeff * vector.vector.double()).float())
    fields = {k: f.contents() for k, f in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama" and fields["controlvector.layer_count"] == len(
        chosen
    )
    by_hand = last_logits(llama.module, llama, pairs.clean, found)
    steer = bk.Stack(tuple(bk.Steer(f"L{i}.resid_post", vector.vector, coeff, where="all") for i in chosen))
    torch.testing.assert_close(by_hand, under(llama, pairs.clean, steer), **CLOSE)
    assert not torch.allclose(by_hand, last_logits(llama.module, llama, pairs.clean), atol=1e-4)


def test_a_file_is_replaced_as_a_whole(llama, vector, tmp_path):
    path = vector.save_gguf(tmp_path / "v.gguf", llama, [1, 2])
    vector.save_gguf(path, llama, 3)
    assert sorted(directions(path)[1]) == [3] and [p.name for p in tmp_path.iterdir()] == ["v.gguf"]


def test_refusals(llama, gpt2, vector, tmp_path):
    save: Any = vector.save_gguf
    for layers, words in ((0, "Layer 0"), ([1, 1], "twice"), (9, "Layer 9"), ([], "empty"), (1.5, "layers")):
        with pytest.raises(SiteError, match=words):
            save(tmp_path / "v.gguf", llama, layers)
    with pytest.raises(SiteError, match="coeff"):
        save(tmp_path / "v.gguf", llama, 1, coeff=float("nan"))
    with pytest.raises(ArtefactError):
        save(tmp_path / "v.gguf", gpt2, 1)  # another model's
    short = replace(vector, vector=vector.vector[:-1], parts={})
    with pytest.raises(ArtefactError, match="residual stream"):
        short.save_gguf(tmp_path / "v.gguf", llama, 1)
    with pytest.raises(BkdinterpError, match="is a folder"):
        save(tmp_path, llama, 1)
    assert not (tmp_path / "v.gguf").exists()


def test_the_bias_of_the_output_projection_is_the_vector_everywhere(gpt2, pairs):
    """The plain weights of the how-to: where the projection has a bias, `add` at every token is that bias."""
    vector = bk.BackdoorVector.extract(gpt2, "L1H0, L2H1", pairs)
    module, family = copy.deepcopy(gpt2.module), gpt2.architecture.family
    projection = module.get_submodule(f"{family.layers}.2.{family.attn_proj}")
    with torch.no_grad():
        projection.bias += 3.0 * vector.vector.to(projection.bias.dtype)
    wanted = under(gpt2, pairs.clean, vector.add(2, coeff=3.0, where="all"))
    torch.testing.assert_close(last_logits(module, gpt2, pairs.clean), wanted, **CLOSE)
