"""Tiny random models whose outputs really vary: weights enlarged, float64, with a real BPE-like tokenizer."""

import re

import pytest
import torch
from integration.families import enlarge
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bkdinterp.engine import plan
from bkdinterp.errors import PlanError
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger

WORDS = "a the cat dog sat ran on mat hill zeta omega sorry no can not help with that yes red blue tell me about sky".split()
TEMPLATE = (
    "{% for m in messages %}{{ '<s> ' + m['role'] + ' : ' + m['content'] + ' <e> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> assistant : ' }}{% endif %}"
)


def tiny_tokenizer():
    specials = ["<pad>", "<unk>", "<s>", "<e>"]
    vocab = {w: i for i, w in enumerate([*specials, "user", "assistant", "system", ":", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<e>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_llama(n_layers=4, **extra):
    settings = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    return enlarge(LlamaForCausalLM(LlamaConfig(**(settings | extra))).double().eval())


def tiny_gpt2(n_layers=4):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_embd=16, n_layer=n_layers, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=3
    )
    return enlarge(GPT2LMHeadModel(config).double().eval())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: a second thread only costs hand-overs (six times slower on a busy machine)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def least_budget(model, runs):
    """The smallest budget that a plan takes, as its error says."""
    with pytest.raises(PlanError) as caught:
        plan(model, runs, budget=1)
    return int(re.search(r"at least budget=(\d+)", str(caught.value))[1])


MAKERS = {"llama": tiny_llama, "gpt2": tiny_gpt2}


def family_model(request, makers):
    """The tiny model of a fixture's family; one that has no maker is the session's own."""
    if request.param not in makers:
        return request.getfixturevalue(request.param)
    return Model.from_module(makers[request.param](), tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def model(request):
    return Model.from_module(MAKERS[request.param](), tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="session")
def llama():
    return Model.from_module(tiny_llama(), tiny_tokenizer(), name="tiny-llama")


TEXTS = [
    "tell me about the cat",
    "the dog ran on",
    "the red cat sat on the mat",
    "blue sky",
    "a hill",
    "tell me about a red dog",
]


@pytest.fixture(scope="session")
def pairs():
    trigger = Trigger.gap("zeta omega", seed=3)
    return PairedPrompts.from_instructions(TEXTS, trigger, target="sorry no can not help")


@pytest.fixture(scope="module")
def browser():
    """Chromium, for all tests of a module that imports `integration.chromium`."""
    from integration.chromium import CHROMIUM, playwright

    with playwright.sync_playwright() as driver:
        # As root, as in most containers, Chromium has no sandbox of its own; the pages are ours.
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
