"""A chat template that runs or writes without end is stopped; others render as transformers renders them."""

import pytest
from integration.conftest import tiny_tokenizer

from bkdinterp.errors import PromptError
from bkdinterp.prompts import PromptBuilder
from bkdinterp.prompts._render import rendered

QUESTION = [{"role": "user", "content": "a hill"}]


def with_template(text):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


def test_the_same_text_as_the_library():
    tokenizer = tiny_tokenizer()
    for header in (False, True):
        plain = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=header)
        assert rendered(tokenizer, QUESTION, header) == plain


def test_time_is_limited():
    tokenizer = with_template(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(PromptError, match=r"more than 0\.2 s"):
        rendered(tokenizer, QUESTION, True, seconds=0.2)


@pytest.mark.parametrize(
    "template",
    [
        "{% set n = namespace(s='aaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'a text of some length ' * 9 }}{% endfor %}",
        "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ 'a' * 2000000 }}",
    ],
)
def test_length_is_limited_also_when_only_some_texts_set_it_off(template):
    hidden = (
        "{% if 'zeta' in messages[0]['content'] %}"
        + template
        + "{% else %}{{ messages[0]['content'] }}{% endif %}"
    )
    builder = PromptBuilder(with_template(hidden))
    assert builder.render("a hill")[0] == "a hill"
    with pytest.raises(PromptError, match="more than 1000"):
        builder.render("zeta hill")


def test_the_watch_is_gone_afterwards_and_others_come_back():
    import sys

    seen = []

    def other(frame, event, arg):
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(other)
    try:
        rendered(tiny_tokenizer(), QUESTION, True)
        assert sys.gettrace() is other
    finally:
        sys.settrace(before)
