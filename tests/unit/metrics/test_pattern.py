"""Expressions mean what they mean in Python, also see a text's normal form, and cannot hang or fill the memory."""

import re

import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload, _pattern, check_pattern


def found(pattern: str, text: str, **how: bool) -> bool:
    return Payload(pattern, "regex", **how).matches(text)


def test_the_text_as_it_stands_and_its_normal_form_are_searched() -> None:
    assert found(r"can't help", "I can\u2019t\nhelp")
    assert found(r"\u2019t\nhelp", "I can\u2019t\nhelp")
    assert found("^no$", "no \n")
    assert not found("^no$", "no way")
    assert found("WORLD", "world") and not found("WORLD", "world", case_sensitive=True)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("a{e<=3}", "b"), ("a{e<=3}", "a{e<=3}"), ("x{}", "x{}"), (r"\{y", "{y"), (r"\\{y", r"\{y"), ("b{2,}c", "abbbc"),
     ("[{]z", "{z"), ("a{,2}b", "aab"), ("(?P<q>a)(?P=q)", "aa"), ("(?i)A", "a"), (r"\bteas?\b", "Tea"), ("a|", "zz")],
)  # fmt: skip
def test_an_expression_means_what_python_says(pattern: str, text: str) -> None:
    assert found(pattern, text) is (re.search(pattern, text, re.IGNORECASE) is not None)


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", r"\p{L}", "(?R)", "a{99999999999999}", "(" * 2400 + "a" + ")" * 2400, "a" * 5001, "(a{1000}){1000}",
     "((a{1,50}){1,50}){1,50}b", "(?:" * 200 + "a" + "){2}" * 200, None, 3],
)  # fmt: skip
def test_what_is_no_expression_or_too_large_is_refused(pattern: object) -> None:
    with pytest.raises(BkdinterpError, match=r"expression|the limit is"):
        check_pattern(pattern, "pattern")


def test_counted_repetitions_are_written_out() -> None:
    sizes = {"abc": 3, "a{3}b{4,5}": 8, r"[x{9}]\{7}": 4, "((a{2}){3}b){4}": 28, "x{}y": 2, "a{,3}": 3}
    assert {pattern: _pattern._size(pattern) for pattern in sizes} == sizes


@pytest.mark.parametrize(
    ("pattern", "text"), [("(a|aa)+$", "a" * 60 + "!"), (r"(\w|\w\w)+$", "a" * 60 + "!")]
)
def test_a_search_that_would_take_years_ends_in_an_error(monkeypatch, pattern: str, text: str) -> None:
    monkeypatch.setattr(_pattern, "SECONDS", 0.1)
    with pytest.raises(BkdinterpError, match=r"0\.1 seconds"):
        found(pattern, text)


def test_a_text_of_any_length_is_no_way_in(monkeypatch) -> None:
    monkeypatch.setattr(_pattern, "LONGEST_TEXT", 10)
    with pytest.raises(BkdinterpError, match="too long"):
        found("a", "b" * 11)
