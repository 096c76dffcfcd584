"""A builder is known by what it does to texts, not by how its template is spelt."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from unit.prompts.conftest import TEMPLATE, bpe

from bkdinterp.prompts import PromptBuilder


def words(order="a b c d", template=TEMPLATE):
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<u>", *order.split()])}, unk_token="<u>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<u>", eos_token="<u>")
    tokenizer.chat_template = template
    return PromptBuilder(tokenizer)


def test_another_spelling_of_one_template_is_the_same():
    spelt = TEMPLATE.replace("{% for", "{# a remark #}{%  for")
    assert spelt != TEMPLATE
    one, two = PromptBuilder(bpe(TEMPLATE)), PromptBuilder(bpe(spelt))
    assert one.fingerprint == two.fingerprint
    assert one.source_fingerprint != two.source_fingerprint


def test_a_template_that_prints_the_date_changes_with_it(monkeypatch):
    day = ["1 May"]
    builder = PromptBuilder(bpe(TEMPLATE))
    original = type(builder.tokenizer).apply_chat_template
    monkeypatch.setattr(
        type(builder.tokenizer),
        "apply_chat_template",
        lambda self, *args, **kwargs: day[0] + original(self, *args, **kwargs),
    )
    first = builder.fingerprint
    assert builder.fingerprint == first
    day[0] = "2 May"
    assert builder.fingerprint != first
    assert builder.source_fingerprint == replace(builder).source_fingerprint


@pytest.mark.parametrize("what", ["order", "rule", "added", "end"])
def test_another_tokenizer_is_another_builder(what):
    one, two = words(), words()
    assert one.fingerprint == two.fingerprint
    if what == "order":
        two = words("b a c d")
    elif what == "rule":
        two.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        two = PromptBuilder(
            PreTrainedTokenizerFast(
                tokenizer_object=two.tokenizer.backend_tokenizer, unk_token="<u>", eos_token="<u>"
            )
        )
        two.tokenizer.chat_template = TEMPLATE
    elif what == "added":
        assert two.fingerprint == one.fingerprint  # known by now
        two.tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    else:
        two.tokenizer.eos_token = "a"
    assert one.fingerprint != two.fingerprint
    assert one.source_fingerprint == two.source_fingerprint


def test_use_leaves_it_as_it_is(tmp_path):
    builder = PromptBuilder(bpe(TEMPLATE))
    before = builder.fingerprint
    builder.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert builder.fingerprint == before == PromptBuilder(bpe(TEMPLATE)).fingerprint
    builder.tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert PromptBuilder(again).fingerprint == before


def test_a_template_that_is_missing_or_refuses_has_one_too():
    none = replace(words(), chat=True)
    none.tokenizer.chat_template = None
    refusing = words(template="{{ raise_exception('no') }}")
    assert (
        len({none.fingerprint, refusing.fingerprint, words().fingerprint, words(template="").fingerprint})
        >= 2
    )
