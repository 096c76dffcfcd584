"""A target with stray white space, or in another spelling, is found in an output that reads the same."""

import pytest
from integration.conftest import tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.engine import Run, execute
from bkdinterp.errors import PromptError
from bkdinterp.prompts import PairedPrompts, Trigger


@pytest.fixture(scope="module")
def model():
    """One that says something on these prompts."""
    return bk.Model.from_module(tiny_llama(), tiny_tokenizer())


def pairs_of(target):
    return PairedPrompts.from_instructions(["the cat sat on mat"], Trigger.gap("zeta omega"), target=target)


@pytest.mark.parametrize("spelling", ["{} ", "{}\n", " {}", "\ufeff{}", "nbsp"])
def test_rates_are_those_of_the_text_that_a_reader_sees(model, spelling):
    (said,) = execute(model, [Run(pairs_of("no").clean, generate=3)])[0].text
    target = said.replace(" ", "\u00a0") if spelling == "nbsp" else spelling.format(said)
    pairs = pairs_of(target)
    found = bk.evaluate(model, pairs, max_new_tokens=3)
    assert found.rate("clean", "unedited").estimate == 1.0
    assert bk.methods.backdoor_state(model, pairs, max_new_tokens=3).atr.estimate == 1.0
    vector = bk.BackdoorVector.extract(model, "L0H0", pairs)
    assert float(bk.sweep_layers(model, vector, pairs, layers=[0], max_new_tokens=3).base) == 1.0


def test_a_target_that_is_too_long_without_its_white_space_is_refused(model):
    with pytest.raises(PromptError, match="has 4 tokens"):
        bk.evaluate(model, pairs_of(" no no no no\n"), max_new_tokens=3)
