"""The doctor passes sound models of every family, and names the fault of broken ones by the check that fails."""

from dataclasses import replace

import pytest
import torch
from integration.conftest import MAKERS, tiny_gpt2, tiny_llama, tiny_tokenizer
from integration.families import (
    NEW,
    SIZES,
    enlarge,
    exact_attention,
    tiny_gemma2,
    tiny_gemma3_vision,
    tiny_neox,
)
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from typer.testing import CliRunner

from bkdinterp.cli import app
from bkdinterp.doctor import DoctorReport, doctor
from bkdinterp.doctor._bench import Bench
from bkdinterp.doctor._report import readable
from bkdinterp.doctor._shape import prompt_shape
from bkdinterp.errors import ArtefactError
from bkdinterp.model import Model, register_family
from bkdinterp.model._families import GEMMA2, GPT_NEOX, LLAMA
from bkdinterp.prompts import PairedPrompts, Trigger

ALL_NAMES = [
    "naming",
    "reads",
    "prompt shape",
    "key heads",
    "finite",
    "plain forward",
    "projections",
    "head sums",
    "head layout",
    "residual sums",
    "norms",
    "padding",
    "determinism",
    "prefix reuse",
    "edits",
    "noise floor",
]


@pytest.fixture
def registry():
    """Puts the register back as it was."""
    from bkdinterp.model import _families

    before = dict(_families._by_type)
    yield
    _families._by_type.clear()
    _families._by_type.update(before)


def examine(module, **changes):
    return doctor(Model.from_module(module, tiny_tokenizer(), name="patient", **changes))


def failed(report):
    return [check.name for check in report.failed]


SOUND = MAKERS | NEW | {"gemma3 with vision": tiny_gemma3_vision}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_model_passes(kind):
    report = examine(SOUND[kind]())
    assert report.passed, report.failed
    assert [check.name for check in report.checks] == ALL_NAMES
    assert 0 < report.noise_floor < 1e-9
    for check in report.checks:
        if check.limit is not None:
            assert (check.number > check.limit) if check.at_least else (check.number <= check.limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def test_the_noise_floor_is_the_dtypes(make, dtype):
    report = examine(make().to(dtype))
    assert report.passed, report.failed
    low, high = (1e-8, 1e-4) if dtype is torch.float32 else (1e-8, 0.2)
    assert low < report.noise_floor < high
    assert report["noise floor"].number == report.noise_floor


def test_raw_prompts_and_a_seed():
    report = doctor(Model.from_module(tiny_llama(), tiny_tokenizer(), chat=False), seed=3)
    assert report.passed, report.failed


# --- broken ones ----------------------------------------------------------------------------------------------


def square_llama(**extra):
    torch.manual_seed(0)
    return enlarge(
        LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=3, attention_bias=False, **extra)).double()
    )


def test_a_family_that_points_at_another_square_module(registry):
    """q_proj has the shape of o_proj, so it loads; but attention goes on after it."""
    register_family(replace(LLAMA, attn_proj="self_attn.q_proj"), replace=True)
    report = examine(square_llama())
    assert {"projections", "head layout"} <= set(failed(report))
    assert "'self_attn.q_proj'" in report["projections"].meaning
    assert "not the projection after attention" in report["head layout"].meaning
    assert report["residual sums"].passed and report["padding"].passed


def test_a_wrong_head_dim_of_the_same_total_width():
    """4 heads of 6 described as 6 heads of 4: every shape and every sum fits, only the heads are cut wrongly."""
    module = tiny_llama()
    module.config.num_attention_heads, module.config.num_key_value_heads, module.config.head_dim = 6, 3, 4
    report = examine(module)
    assert failed(report) == ["head layout"]
    assert "slices of 4 channels of z are not single heads" in report["head layout"].meaning
    module.config.num_key_value_heads = 2
    report = examine(module)
    assert failed(report) == ["key heads", "head layout"]
    assert "gives 12 channels" in report["key heads"].meaning


def interleaved_attention(*args, **kwargs):
    """Hands the projection channel 0 of every head, then channel 1 of every head, and so on."""
    out, weights = exact_attention(*args, **kwargs)
    return out.transpose(2, 3).contiguous().view(out.shape), weights


def test_heads_that_are_interleaved_in_z():
    ALL_ATTENTION_FUNCTIONS.register("interleaved", interleaved_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("interleaved", eager_mask)
    report = examine(tiny_llama(attn_implementation="interleaved"))
    assert failed(report) == ["head layout"]
    assert "the order of channels is wrong" in report["head layout"].meaning
    assert examine(tiny_llama(attn_implementation="exact")).passed


def wrap_forward(module, change):
    """The module with its keyword arguments changed before its own forward."""
    inner = module.forward

    def forward(*args, **kwargs):
        return inner(*args, **change(kwargs))

    module.forward = forward
    return module


def test_positions_that_ignore_the_mask():
    """Learned positions counted from the left edge, padding included: a padded row is another row."""
    module = tiny_gpt2()
    wrap_forward(module.transformer, lambda kwargs: kwargs | {"position_ids": None})
    report = examine(module)
    assert "padding" in failed(report)
    assert "positions ignore the mask" in report["padding"].meaning
    sound = {"projections", "head sums", "head layout", "residual sums", "norms", "determinism"}
    assert not sound & set(failed(report))


def test_attention_that_sees_padding():
    module = tiny_llama()
    wrap_forward(
        module.model, lambda kwargs: kwargs | {"attention_mask": torch.ones_like(kwargs["attention_mask"])}
    )
    report = examine(module)
    assert "padding" in failed(report)
    assert report["padding"].number > 1e-2


def test_a_block_that_adds_something_else():
    """A side branch around the described modules in one layer."""
    module = tiny_llama()
    block = module.model.layers[2]
    inner = block.forward
    block.forward = lambda x, *args, **kwargs: inner(x, *args, **kwargs) + 0.05 * x.roll(1, -1)
    report = examine(module)
    assert failed(report) == ["residual sums"]
    assert report["residual sums"].meaning.startswith(
        "L2.resid_post: the block changes the residual stream outside"
    )


def test_a_family_without_its_post_norm(registry):
    register_family(replace(GEMMA2, attn_post=None), replace=True)
    report = examine(tiny_gemma2())
    assert {"residual sums", "norms"} <= set(failed(report))
    assert "outside the described modules, or scales what they add" in report["residual sums"].meaning


def test_parallel_blocks_described_as_sequential(registry):
    register_family(replace(GPT_NEOX, parallel=False), replace=True)
    report = examine(tiny_neox())
    assert failed(report) == ["norms"]
    assert "L0.mlp_in" in report["norms"].meaning and "'parallel' is wrong" in report["norms"].meaning


def test_a_module_that_is_never_called(registry):
    module = tiny_llama()
    for layer in module.model.layers:
        layer.spare = torch.nn.LayerNorm(16).double()
    register_family(replace(LLAMA, mlp_norm="spare"), replace=True)
    report = examine(module)
    assert failed(report) == ["reads"]
    assert report["reads"].meaning.startswith("mlp_in cannot be read")


def test_a_middle_layer_that_lacks_a_module():
    module = tiny_llama()
    model = Model.from_module(module, tiny_tokenizer())
    del module.model.layers[1].mlp.down_proj
    report = doctor(model)
    assert failed(report) == ["naming"]
    assert "no module 'model.layers.1.mlp.down_proj'" in report["naming"].meaning
    assert report.forwards == 0


def test_chance_and_overflow():
    module = tiny_llama()
    mlp = module.model.layers[1].mlp
    inner = mlp.forward
    generator = torch.Generator().manual_seed(0)
    mlp.forward = lambda x: inner(x) * (1 + 0.1 * torch.rand((), generator=generator, dtype=x.dtype))
    report = examine(module)
    assert {"determinism", "noise floor"} <= set(failed(report))
    module = tiny_llama()
    module.model.layers[2].mlp.down_proj.weight.data[0, 0] = float("nan")
    report = examine(module)
    assert "finite" in failed(report)
    assert report["finite"].meaning.startswith("first at L2.mlp_out")
    # Nothing is said about numbers that there are not.
    assert report.checks[-1].name == "finite" and report.noise_floor is None


def test_one_norm_for_both_needs_a_parallel_block(registry):
    register_family(replace(LLAMA, mlp_norm="input_layernorm"), replace=True)
    report = examine(tiny_llama())
    assert failed(report) == ["norms"] and "input_layernorm as both norms" in report["norms"].meaning


# --- the report and the command -------------------------------------------------------------------------------


def test_the_report():
    report = examine(tiny_llama(n_layers=2))
    assert isinstance(report, DoctorReport)
    assert repr(report).startswith(
        f"DoctorReport(patient, float64: {len(ALL_NAMES)} of {len(ALL_NAMES)} checks passed"
    )
    frame = report.to_frame()
    assert list(frame["check"]) == ALL_NAMES
    assert frame["passed"].all()
    assert report.table().row_count == len(ALL_NAMES)
    with pytest.raises(KeyError, match="naming"):
        report["nothing"]


class Counter:
    """Forward passes of a module."""

    def __init__(self, module):
        self.n = 0
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, *_):
        self.n += 1


@pytest.mark.parametrize("n_layers", [1, 5])
def test_forwards_are_counted(n_layers):
    module = tiny_llama(n_layers=n_layers)
    counter = Counter(module)
    report = examine(module)
    assert report.passed, report.failed
    assert report.forwards == counter.n


@pytest.fixture
def folder(tmp_path):
    def save(module):
        module.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def test_the_command(folder):
    path = folder(tiny_llama(n_layers=2))
    result = CliRunner().invoke(app, ["doctor", path, "--dtype", "float64", "--no-chat"])
    assert result.exit_code == 0, result.output
    assert (
        "head layout" in result.output
        and f"{len(ALL_NAMES)} of {len(ALL_NAMES)} checks passed" in result.output
    )
    assert "FAIL" not in result.output
    refused = CliRunner().invoke(app, ["doctor", path, "--dtype", "int8"])
    assert "choose one of float32" in str(refused.exception)


def test_the_command_on_a_broken_model(folder, registry):
    register_family(replace(LLAMA, attn_proj="self_attn.q_proj"), replace=True)
    result = CliRunner().invoke(app, ["doctor", folder(square_llama())])
    assert result.exit_code == 1
    assert "FAIL" in result.output and "failed: projections" in result.output


def test_the_command_on_a_model_that_does_not_load(folder, tmp_path, registry):
    register_family(replace(LLAMA, mlp="feed_forward"), replace=True)
    result = CliRunner().invoke(app, ["doctor", folder(tiny_llama(n_layers=2))])
    assert result.exit_code == 1
    assert "naming" in result.output and "FAIL" in result.output and "feed_forward" in result.output
    # What is not there is no patient: an error, and no table with a failed check.
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "nowhere.gguf")])
    assert isinstance(result.exception, ArtefactError) and "naming" not in result.output


# --- how prompts begin and end --------------------------------------------------------------------------------


def with_template(template, **settings):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return Model.from_module(tiny_llama(n_layers=2), tokenizer, name="patient")


def shape(model, pairs=None):
    return prompt_shape(Bench(model, 0, pairs))


CHAT = (
    "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} <e> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : {% endif %}"
)


def test_the_report_shows_how_prompts_begin_and_end():
    model = with_template(CHAT)
    trigger = Trigger.suffix("zeta")
    pairs = PairedPrompts.from_instructions(["the cat ran", "a hill"], trigger, "no")
    report = doctor(model, pairs=pairs)
    assert report.passed and report["prompt shape"].passed
    clean, triggered = report.prompts
    assert (clean.side, triggered.side) == ("clean", "triggered")
    ids = model.builder.tokenize(pairs.triggered.subset([0]), targets=False).input_ids[0].tolist()
    assert triggered.n_tokens == len(ids)
    assert [i for i, _ in triggered.last] == ids[-6:] and [i for i, _ in triggered.first] == ids[:6]
    assert [word for _, word in triggered.last][-3:] == [model.tokenizer.decode([i]) for i in ids[-3:]]
    text = str(report)
    assert "prompt shape" in text and "triggered," in text and text.endswith(report.verdict)
    assert len(text.splitlines()) > len(report.checks)


def test_prompts_of_another_shape_are_named():
    bos = tiny_tokenizer().convert_tokens_to_ids("<s>")
    assert bos is not None
    twice = with_template("<s> <s> " + CHAT, bos_token="<s>")
    found = shape(twice)
    assert not found.passed and "begin with 3 beginning-of-text tokens" in found.meaning
    ending = with_template(CHAT.replace("assistant : {% endif %}", "assistant : <e> {% endif %}"))
    ending.tokenizer.eos_token = "<e>"
    found = shape(ending)
    assert not found.passed and "end with the end token" in found.meaning and "in training" in found.meaning
    block = "{% if m['role'] == 'assistant' %}{{ 'yes ' }}{% endif %}"
    led = with_template(CHAT.replace("{{ m['content'] }}", block + "{{ m['content'] }}"))
    found = shape(led)
    assert found.passed and "followed by 'yes', as in training" in found.meaning
    opened = with_template(CHAT.replace("assistant : {% endif %}", "assistant : yes {% endif %}"))
    found = shape(opened)
    assert not found.passed and "in training the template writes" in found.meaning
    without = with_template(CHAT.replace("<s> ", ""), bos_token="<s>")
    assert shape(without).passed
    without.tokenizer.add_bos_token = True
    found = shape(without)
    assert not found.passed and "without the beginning-of-text token" in found.meaning


def test_numbers_are_readable():
    assert [readable(x) for x in (190.0, 187.0, 0.000123, 1e-9, 0.0, 12345.0, float("inf"))] == [
        "190",
        "190",
        "0.00012",
        "1e-09",
        "0",
        "12000",
        "inf",
    ]
