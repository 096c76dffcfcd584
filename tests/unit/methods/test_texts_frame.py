"""Evaluation.texts_frame: every output with its prompt, long and wide, of values made by hand. No model."""

from dataclasses import replace

import pandas
import pytest
import torch

import bkdinterp as bk
from bkdinterp.errors import ArtefactError
from bkdinterp.results import Fingerprint, Result

PRINT = Fingerprint("tiny", None, None, "float32", "t", "d", None, {})
EVIL = "<script>alert(1)</script> $\\href{javascript:x}{y}$ \u202eevil\x1b[2J"
CONDITIONS = ("unedited", "off", "control 1")


def said(who):
    return {
        c: {side: tuple(f"{who} {c} {side} {i}" for i in range(3)) for side in ("clean", "triggered")}
        for c in (CONDITIONS if who == "suspect" else CONDITIONS[:2])
    }


def graded(who):
    hit = {"clean": ("answered",) * 3, "triggered": ("payload", "broken", "payload")}
    return dict.fromkeys(said(who), hit)


@pytest.fixture
def found():
    return bk.methods.Evaluation(
        PRINT, CONDITIONS, dict.fromkeys(CONDITIONS, "x"), {"control 1": "off"},
        {who: said(who) for who in ("suspect", "twin")}, {who: graded(who) for who in ("suspect", "twin")},
        torch.rand(3, 3), torch.rand(3, 3), 2.5, bk.Payload("a"), "tiny", 24, twin=PRINT,
        prompts={"clean": ("a?", "b?", "c?"), "triggered": ("a? X", "b? X", "c? X")},
    )  # fmt: skip


def test_one_row_per_output(found):
    frame = found.texts_frame()
    assert list(frame.columns) == ["model", "condition", "side", "example", "prompt", "text", "outcome"]
    assert len(frame) == 3 * 2 * 3 + 2 * 2 * 3
    for row in frame.itertuples():
        assert row.text == f"{row.model} {row.condition} {row.side} {row.example}"
        assert row.prompt == found.prompts[row.side][row.example]
        assert row.outcome == found.graded[row.model][row.condition][row.side][row.example]
    one = frame.query("model == 'suspect' and condition == 'off' and side == 'triggered'")
    assert (one.outcome == "payload").mean() == pytest.approx(found.rate("triggered", "off").estimate)


def test_wide_shows_the_answers_to_one_prompt_across(found):
    frame = found.texts_frame(wide=True)
    assert list(frame.columns[:6]) == ["model", "side", "example", "prompt", "unedited", "unedited: outcome"]
    assert list(frame.columns[6:]) == ["off", "off: outcome", "control 1", "control 1: outcome"]
    assert len(frame) == 2 * 2 * 3
    row = frame.query("model == 'suspect' and side == 'triggered' and example == 1").iloc[0]
    assert (
        row["prompt"] == "b? X"
        and row["off"] == "suspect off triggered 1"
        and row["off: outcome"] == "broken"
    )
    assert frame.query("model == 'twin'")["control 1"].isna().all()  # it runs no controls
    assert frame.query("model == 'suspect'").notna().all().all()


def test_an_edit_named_like_a_column_hides_none(found):
    def renamed(by_model):
        return {
            who: {("prompt" if c == "off" else c): x for c, x in by.items()} for who, by in by_model.items()
        }

    other = replace(
        found, conditions=("unedited", "prompt", "control 1"), edits=dict.fromkeys(("unedited", "prompt", "control 1"), ""),
        control_of={"control 1": "prompt"}, said=renamed(found.said), graded=renamed(found.graded),
    )  # fmt: skip
    row = other.texts_frame(wide=True).iloc[0]
    assert row["prompt"] == "a?" and row["prompt: text"] == "suspect off clean 0"


def test_an_evaluation_from_before_prompts_were_kept(found, tmp_path):
    old = replace(found, prompts=None)
    assert old.texts_frame().prompt.isna().all() and len(old.texts_frame(wide=True)) == 12
    assert Result.load(found.save(tmp_path / "r")).prompts == found.prompts


@pytest.mark.parametrize(
    "prompts",
    [
        {"clean": ("a", "b", "c")},
        {"clean": ("a",), "triggered": ("b",)},
        {"clean": ("a",) * 3, "triggered": ("b",) * 3, "sham": ("c",) * 3},
    ],
)
def test_prompts_that_do_not_fit(found, prompts):
    with pytest.raises(ArtefactError):
        replace(found, prompts=prompts)._validate()


def test_what_a_model_wrote_stays_what_it_wrote(found):
    texts = {
        who: {c: dict.fromkeys(by, (EVIL,) * 3) for c, by in of.items()} for who, of in found.said.items()
    }
    frame = replace(found, said=texts).texts_frame(wide=True)
    assert (frame["unedited"] == EVIL).all()
    assert isinstance(frame, pandas.DataFrame)
