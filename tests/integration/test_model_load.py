"""Loading: folders, adapters, modules, nnsight models; and what is refused, naming the value and the fix."""

import json
import shutil

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import MAKERS, TEXTS, tiny_llama, tiny_tokenizer
from nnsight.modeling.transformers import TransformersModel
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from transformers.utils import logging as transformers_logging

from bkdinterp.engine import Run, execute
from bkdinterp.errors import (
    ArtefactError,
    BkdinterpError,
    PromptError,
    UnsafeWeightsError,
    UnsupportedArchitectureError,
)
from bkdinterp.interventions import ZeroAblate
from bkdinterp.model import Architecture, Model, load_module, merge_adapter
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Component, Site

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
PROMPTS = Prompts.of(TEXTS[:3], target="sorry no can")


@pytest.fixture(scope="module", params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    path = tmp_path_factory.mktemp(kind)
    MAKERS[kind]().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """The saved folder, to be damaged."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def logprob(model, *edits):
    return execute(model, [Run(PROMPTS, *edits, score="logprob")])[0].scores


# --- roads in -------------------------------------------------------------------------------------------------


def test_a_small_folder_prints_no_bar_and_leaves_bars_as_they_were(folder, capfd):
    assert transformers_logging.is_progress_bar_enabled()
    load_module(folder)
    assert "Loading weights" not in capfd.readouterr().err
    assert transformers_logging.is_progress_bar_enabled()


def test_a_saved_folder(kind, folder):
    model = Model.load(folder, dtype=torch.float64)
    memory = Model.from_module(MAKERS[kind](), tiny_tokenizer())
    assert model.dtype == torch.float64
    assert model.name == folder.name
    assert model.builder.chat
    assert model.architecture == memory.architecture
    torch.testing.assert_close(logprob(model), logprob(memory), **CLOSE)
    expected = oracle.mean_logprobs(memory.module, oracle.rows_of(memory.tokenizer, PROMPTS), kind)
    torch.testing.assert_close(logprob(model), expected, **CLOSE)
    assert model.weights_id == memory.weights_id
    assert "float64" in repr(model)
    assert Model.load(str(folder)).dtype == torch.float32


def test_a_module_in_memory_shares_its_weights(kind):
    module = MAKERS[kind]().train()
    model = Model.from_module(module, tiny_tokenizer(), name="mine")
    assert model.module is module
    assert module.training  # runs put it into eval mode and back
    before, id_before = logprob(model), model.weights_id
    with torch.no_grad():
        next(iter(module.parameters())).mul_(1.5)
    assert (logprob(model) - before).abs().max() > 1e-3
    assert model.weights_id != id_before


def test_an_nnsight_model(kind, folder):
    nn_model = TransformersModel(
        str(folder), task="text-generation", tokenizer=tiny_tokenizer(), dispatch=True
    )
    model = Model.from_nnsight(nn_model, name="theirs")
    assert model.nn is nn_model
    assert model.name == "theirs"
    reference = Model.load(folder, dtype=model.dtype)
    torch.testing.assert_close(logprob(model, ZeroAblate("L1H2")), logprob(reference, ZeroAblate("L1H2")))
    assert (logprob(model, ZeroAblate("L1H2")) - logprob(model)).abs().max() > 1e-3


@pytest.fixture(scope="module")
def adapter(kind, tmp_path_factory):
    """A LoRA that matters, on the projections of the family; the folder and peft's own logits."""
    module = MAKERS[kind]()
    targets = {"llama": ["q_proj", "o_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}[kind]
    torch.manual_seed(3)
    lora = LoraConfig(
        r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False, fan_in_fan_out=kind == "gpt2"
    )
    wrapped = get_peft_model(module, lora).eval()
    path = tmp_path_factory.mktemp(f"{kind}-adapter")
    wrapped.save_pretrained(path)
    ids = torch.tensor([oracle.Row(tiny_tokenizer(), TEXTS[0]).prompt])
    with torch.no_grad():
        return path, ids, wrapped(ids).logits


def test_an_adapter_is_merged_into_the_base(kind, folder, adapter):
    path, ids, expected = adapter
    model = Model.load(folder, adapter=path, dtype=torch.float64)
    plain = Model.load(folder, dtype=torch.float64)
    assert model.adapter == path.name
    assert not any("lora" in name for name, _ in model.module.named_modules())
    with torch.no_grad():
        torch.testing.assert_close(model.module(ids).logits, expected, rtol=1e-6, atol=1e-6)
        assert (plain.module(ids).logits - expected).abs().max() > 1e-2
    # peft's own forward, from the saved files
    again = PeftModel.from_pretrained(load_module(folder, dtype=torch.float64)[0], str(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.module(ids).logits, again(ids).logits, rtol=1e-6, atol=1e-6)


def test_merging_leaves_the_base_alone_unless_told(kind, adapter):
    base = MAKERS[kind]()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    merged = merge_adapter(base, adapter[0])
    assert all(torch.equal(before[k], v) for k, v in base.state_dict().items())
    assert not all(torch.equal(before[k], v) for k, v in merged.state_dict().items())


# --- what is refused ------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it writes a marker."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_pickled_weights(copy, tmp_path):
    for file in copy.glob("*.safetensors"):
        file.unlink()
    torch.save({"x": Bomb(tmp_path / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(UnsafeWeightsError, match=r"pytorch_model\.bin.*safetensors"):
        Model.load(copy)
    assert not (tmp_path / "ran").exists()


def test_pickled_adapter(folder, adapter, tmp_path):
    shutil.copytree(adapter[0], tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    torch.save({"x": Bomb(tmp_path / "ran")}, tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(UnsafeWeightsError, match=r"adapter_model\.bin"):
        Model.load(folder, adapter=tmp_path / "a")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model_type", ["evil", "keep"])
def test_custom_code_is_never_run(copy, tmp_path, model_type):
    """An auto_map with its modeling file, under an unknown name and under a known one."""
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w').close()\nraise SystemExit\n"
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil"):
        (copy / f"{name}.py").write_text(code, encoding="utf-8")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": "configuration_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.EvilForCausalLM",
    }
    if model_type == "evil":
        config["model_type"] = "evil"
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if model_type == "evil":
        with pytest.raises(UnsafeWeightsError, match="own code"):
            Model.load(copy)
    else:
        # A known family loads with the library's own classes, or not at all.
        try:
            model = Model.load(copy)
        except BkdinterpError:
            pass
        else:
            assert type(model.module).__module__.startswith("transformers.")
    assert not marker.exists()


UNKNOWN = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=1,
            ffn_dim=16,
            num_attention_heads=2,
            word_embed_proj_dim=16,
        )
    ),
    "bert": lambda: BertLMHeadModel(
        BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            is_decoder=True,
        )
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_family(name, tmp_path):
    module = UNKNOWN[name]()
    with pytest.raises(
        UnsupportedArchitectureError,
        match=rf"'{name}'; known are: llama, .*gpt2.*top modules are: .*register_family",
    ):
        Model.from_module(module, tiny_tokenizer())
    module.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedArchitectureError, match=rf"'{name}'; known are llama, .*gpt2.*register_family"
    ):
        Model.load(tmp_path)


def test_a_known_name_on_another_tree():
    """The config says llama, the tree lacks a module: what was looked for and what was found."""
    module = tiny_llama(n_layers=2)
    block = module.model.layers[1]
    block.feed_forward = block.mlp
    del block.mlp
    with pytest.raises(
        UnsupportedArchitectureError, match=r"looked for module 'model\.layers\.1\.mlp.*found .*feed_forward"
    ):
        Architecture.detect(module)


def test_a_peft_wrapped_module():
    wrapped = get_peft_model(tiny_llama(n_layers=2), LoraConfig(r=2, target_modules=["o_proj"]))
    with pytest.raises(UnsupportedArchitectureError, match="merge"):
        Model.from_module(wrapped, tiny_tokenizer())
    # The inner model still carries LoRA layers in the place of its projections.
    with pytest.raises(UnsupportedArchitectureError, match="merge"):
        Model.from_module(wrapped.base_model.model, tiny_tokenizer())


def test_d_head_is_read_and_checked():
    """d_head != d_model / n_heads is read from the config; a config that lies about it is found out."""
    module = tiny_llama(n_layers=2)
    arch = Architecture.detect(module)
    assert (arch.d_head, arch.d_model, arch.n_heads, arch.n_kv_heads) == (6, 16, 4, 2)
    assert arch.width(Site(0, Component.z)) == 24
    module.config.head_dim = 4
    with pytest.raises(UnsupportedArchitectureError, match=r"\(16, 24\).*4 heads of 4.*\(16, 16\).*head_dim"):
        Architecture.detect(module)
    plain = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )
    assert Architecture.detect(plain).d_head == 8


def test_output_weights_sum_to_the_projection(kind):
    module = MAKERS[kind]()
    arch = Architecture.detect(module)
    z = torch.randn(
        5, arch.n_heads, arch.d_head, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for layer in range(arch.n_layers):
        proj = module.get_submodule(arch.location(Site(layer, Component.attn_proj)).path)
        heads = sum(z[:, h] @ arch.output_weights(module, layer)[h] for h in range(arch.n_heads))
        exact = proj(z.reshape(5, -1)).detach() - (0 if proj.bias is None else proj.bias.detach())
        torch.testing.assert_close(heads, exact, **CLOSE)


def test_a_folder_without_tokenizer_or_a_dtype_that_is_none(folder, copy):
    for file in copy.iterdir():
        if "token" in file.name:
            file.unlink()
    with pytest.raises(ArtefactError, match=r"tokenizer.*"):
        Model.load(copy)
    with pytest.raises(ArtefactError, match=r"dtype=torch\.int8.*torch\.float32"):
        Model.load(folder, dtype=torch.int8)


def test_a_chat_template_that_is_missing(kind):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    module = MAKERS[kind]()
    with pytest.raises(PromptError, match="chat=False"):
        Model.from_module(module, tokenizer, chat=True)
    model = Model.from_module(module, tokenizer)
    assert not model.builder.chat
    raw = execute(model, [Run(Prompts.of("a hill", target="yes red"), score="sum_logprob")])[0].scores
    ids = [tokenizer(t, add_special_tokens=False).input_ids for t in ("a hill", "yes red")]
    assert float(raw[0]) == pytest.approx(float(oracle.target_logprobs(module, *ids, kind).sum()), rel=1e-8)


def test_an_adapter_for_another_base(kind, adapter, tmp_path):
    other = tiny_llama(n_layers=4, hidden_size=20) if kind == "llama" else tiny_llama()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ArtefactError, match="base"):
        merge_adapter(other, adapter[0])
    fewer = MAKERS[kind](n_layers=2)
    with pytest.raises(ArtefactError, match=r"this base lacks"):
        merge_adapter(fewer, adapter[0])
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ArtefactError, match="base"):
        Model.load(tmp_path / "other", adapter=adapter[0])
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


def test_damaged_files(copy, adapter, tmp_path):
    weights = next(copy.glob("*.safetensors"))
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    with pytest.raises(ArtefactError, match="Cannot load"):
        Model.load(copy)
    weights.write_bytes(b"\xff" * 64)
    with pytest.raises(ArtefactError, match="Cannot load"):
        Model.load(copy)
    weights.write_bytes(good)
    shutil.copytree(adapter[0], tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtefactError, match="Cannot read the adapter"):
        Model.load(copy, adapter=tmp_path / "a")
    (copy / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        Model.load(copy)


def test_weights_that_do_not_fill_the_model(copy):
    """A checkpoint that lacks tensors must not load with random numbers in their place."""
    from safetensors.torch import load_file, save_file

    weights = next(copy.glob("*.safetensors"))
    tensors = load_file(weights)
    gone = next(k for k in tensors if "o_proj" in k or "attn.c_proj.weight" in k)
    save_file({k: v for k, v in tensors.items() if k != gone}, weights, metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match=gone.split(".")[-2]):
        Model.load(copy)


def test_nothing_there(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match=r"config\.json"):
        Model.load(tmp_path / "empty")
    with pytest.raises(ArtefactError, match="GGUF"):
        Model.load(tmp_path / "none.gguf")
    with pytest.raises(ArtefactError, match=r"adapter_model\.safetensors"):
        Model.load(folder, adapter=tmp_path / "empty")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(ArtefactError, match="Cannot load"):
        Model.load(tmp_path / "bad.gguf")
    shutil.copy(folder / "config.json", tmp_path / "empty")
    with pytest.raises(ArtefactError, match=r"no \.safetensors"):
        Model.load(tmp_path / "empty")
    assert AutoConfig.from_pretrained(folder).model_type in MAKERS
