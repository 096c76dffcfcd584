"""Notebooks show every result as a small table of text: no element, attribute, formula or control character of a suspect's."""

from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
from unit.results.mutants import results

from bkdinterp.detection import InvertedTargets
from bkdinterp.errors import BkdinterpError

EVIL = "<script>alert('x')</script><img src=x onerror=y>&lt;b&gt;\"' $\\href{javascript:x}{y}$ \x1b[2J\u202e\u2028\u0301"
TAGS = {"div", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_comment(self, data):
        pytest.fail(f"a comment: {data}")

    def handle_data(self, data):
        self.texts.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert set(reader.tags) <= TAGS and reader.tags.count("tr") <= 9
    assert reader.attributes == [("class", "tex2jax_ignore mathjax_ignore")]  # its formulas are not typeset
    assert all(text.isprintable() for text in reader.texts)
    html.encode()  # no lone surrogates: a notebook is a file of UTF-8
    assert len(html) < 20_000
    return reader


def evil(value):
    """The value with every text in it replaced; None where it holds no text."""
    if isinstance(value, str):
        return EVIL
    if isinstance(value, tuple) and value and all(isinstance(x, str) for x in value):
        return tuple(f"{EVIL}{i}" for i in range(len(value)))
    if isinstance(value, dict) and value:
        inside = {key: evil(x) for key, x in value.items()}
        return None if None in inside.values() else inside
    return None


@pytest.mark.parametrize("result", results(), ids=lambda r: type(r).__name__)
def test_a_table_is_text_whatever_the_result_holds(result):
    read(result._repr_html_())
    read(replace(result, fingerprint=replace(result.fingerprint, model=EVIL, adapter=EVIL))._repr_html_())
    for field in fields(result):
        other = evil(getattr(result, field.name))
        if other is None or not field.init:
            continue
        try:
            html = replace(result, **{field.name: other})._repr_html_()
        except (BkdinterpError, KeyError, ValueError, AttributeError, TypeError):
            continue  # not a text of a model's, but a name that must be a known one
        read(html)


def test_half_a_character_in_a_saved_file_is_shown_as_a_replacement(tmp_path):
    found = next(r for r in results() if type(r).__name__ == "InvertedTargets")
    folder = replace(found, texts=("a\ud800b", *found.texts[1:])).save(tmp_path / "r")
    loaded = InvertedTargets.load(folder)
    assert loaded.texts[0] == "a\N{REPLACEMENT CHARACTER}b"
    read(loaded._repr_html_())


def test_texts_of_a_model_reach_the_table_as_text():
    by_name = {type(r).__name__: r for r in results()}
    found = by_name["InvertedTargets"]
    cells = read(replace(found, texts=(EVIL,) * len(found.texts))._repr_html_()).texts
    assert any(text.startswith("<script>alert") for text in cells)
