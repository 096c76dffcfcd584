"""Values at the door: plain Python values come out, everything else is refused by name."""

import numpy as np
import pytest
import torch

from bkdinterp.errors import ArtefactError, BkdinterpError, PromptError
from bkdinterp.values import as_choice, as_integer, as_number, as_path, as_seed, as_text, as_texts, shown


def test_plain_values_come_out():
    assert type(as_text(np.str_("é"), "x")) is str
    assert type(as_integer(np.int64(3), "x")) is int
    assert as_integer(torch.tensor(3), "x") == 3
    assert as_number(np.float32(0.5), "x") == 0.5 and as_number(torch.tensor(2.0), "x") == 2.0
    assert as_texts(iter(["a", "b"]), "x") == ("a", "b")
    assert "~" not in str(as_path("~/x", "folder"))
    assert as_choice("a", "kind", ["a", "b"]) == "a"


@pytest.mark.parametrize("bad", [None, float("nan"), 3, b"x", "x\ud83d"])
def test_what_is_no_text(bad):
    with pytest.raises(PromptError, match=r"texts\[1\]"):
        as_texts(["fine", bad], "texts")


@pytest.mark.parametrize("bad", ["one text", b"x", None, 3])
def test_one_text_is_no_list(bad):
    with pytest.raises(PromptError, match="list of texts"):
        as_texts(bad, "texts")


@pytest.mark.parametrize(
    "bad", [True, 3.0, "3", None, np.array([1, 2]), torch.tensor([1, 2]), torch.tensor(1.5)]
)
def test_what_is_no_integer(bad):
    with pytest.raises(BkdinterpError, match="n="):
        as_integer(bad, "n")


@pytest.mark.parametrize("bad", [True, "1", None, float("nan"), float("inf"), np.array([1.0, 2.0]), 1j])
def test_what_is_no_number(bad):
    with pytest.raises(BkdinterpError, match="coeff="):
        as_number(bad, "coeff")


def test_ranges_are_said():
    with pytest.raises(BkdinterpError, match="n=0 must be at least 1"):
        as_integer(0, "n", low=1)
    with pytest.raises(BkdinterpError, match="from 0 to 1"):
        as_number(2, "level", low=0, high=1)
    for bad in (-1, 2**32, 1.0):
        with pytest.raises(BkdinterpError, match="seed"):
            as_seed(bad)


@pytest.mark.parametrize("bad", ["", "a\0b", None, 3, b"x"])
def test_what_is_no_path(bad):
    with pytest.raises(ArtefactError, match="folder="):
        as_path(bad, "folder", error=ArtefactError)


def test_messages_can_be_written():
    shown("x\ud83d").encode("utf-8")
    assert len(shown("a" * 1000)) == 60

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Odd" in shown(Odd())
