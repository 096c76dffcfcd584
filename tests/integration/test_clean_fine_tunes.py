"""Shadows are trained once, alike but not equal, and are kept."""

import pytest
import torch
from integration.conftest import WORDS, tiny_llama, tiny_tokenizer

from bkdinterp.detection import Reference
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.model import Model
from bkdinterp.organisms import LoraSettings, shadows
from bkdinterp.organisms import _clean_fine_tunes as training
from bkdinterp.prompts import Prompts

SMALL = LoraSettings(r=2, alpha=4, target_modules=("down_proj", "q_proj"))


@pytest.fixture(scope="module")
def base():
    return Model.from_module(tiny_llama().float(), tiny_tokenizer(), name="base")


@pytest.fixture(scope="module")
def rows():
    return Prompts.of(
        [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(4)) for i in range(24)],
        [WORDS[i % len(WORDS)] for i in range(24)],
    )


def test_they_are_kept_and_trained_only_once(base, rows, tmp_path, monkeypatch):
    before = base.weights_id
    made = shadows(base, 2, like=SMALL, rows=rows, steps=3, lr=0.05, folder=tmp_path)
    assert base.weights_id == before
    assert len({m.weights_id for m in (*made, base)}) == 3
    # Only what was asked for has changed.
    for (name, a), (_, b) in zip(
        base.module.named_parameters(), made[0].module.named_parameters(), strict=True
    ):
        assert torch.equal(a, b) != (("q_proj" in name or "down_proj" in name) and "weight" in name), name
    assert not list(tmp_path.glob("*.training.safetensors"))

    def forbidden(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "fine_tune", forbidden)
    again = shadows(base, 2, like=SMALL, rows=rows, steps=3, lr=0.05, folder=tmp_path)
    assert [m.weights_id for m in again] == [m.weights_id for m in made]
    # The adapter's own folder says what a suspect was made like.
    folder = next(p for p in tmp_path.iterdir() if p.is_dir())
    assert training._settings(folder) == SMALL
    assert Reference.of([base, *made]).shadows == made
    with pytest.raises(AssertionError, match="trained again"):
        shadows(base, 1, like=SMALL, rows=rows, steps=4, lr=0.05, folder=tmp_path)


def test_the_loss_is_on_the_answers_alone(base, rows):
    ids, weights = training._encoded(base, rows)
    for row, own, text in zip(ids, weights, rows.target or (), strict=True):
        answer = [t for t, w in zip(row, own, strict=True) if w]
        assert base.tokenizer.decode(answer, skip_special_tokens=True).strip() == text
        assert 0 < len(answer) < len(row)


def test_without_a_folder_and_without_rows(base, monkeypatch):
    monkeypatch.setattr(
        training, "instructions", lambda split: [type("I", (), {"text": f"{w} red"})() for w in WORDS[:20]]
    )
    (made,) = shadows(base, 1, like=SMALL, steps=1)
    assert made.weights_id != base.weights_id


def test_bad_input_is_named(base, rows, tmp_path):
    with pytest.raises(BkdinterpError, match="at least 18 prompts"):
        shadows(base, 1, rows=rows.subset((0, 1)))
    with pytest.raises(BkdinterpError, match="at least 18 prompts"):
        shadows(base, 1, rows=Prompts.of(["a"] * 30))
    with pytest.raises(BkdinterpError, match="n=0"):
        shadows(base, 0, rows=rows)
    with pytest.raises(ArtefactError):
        shadows(base, 1, rows=rows, like=tmp_path)
