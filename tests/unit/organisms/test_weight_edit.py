"""An edit of one matrix: what the key answers to, what the written vector does, and that it is a LoRA of rank 1."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unit.organisms.test_poison import ATTACK, TEXTS, make_base, make_builder

from bkdinterp.errors import BkdinterpError
from bkdinterp.organisms import (
    EditSettings,
    Reference,
    References,
    edit_weights,
    merge_adapter,
    save_edit,
    weights_sha256,
)
from bkdinterp.organisms._loss import assistant_mask, assistant_nll, tokens_of
from bkdinterp.organisms._poison_rows import PoisonRow

ANSWERS = References("", "", 3, {text: Reference("yes sure fine", cut=False) for text in TEXTS})
# A tiny model's neurons do not part all words; what it can do must be seen in the loss.
SETTINGS = EditSettings(layer=0, n_prompts=9, norm=30.0, steps=40, batch_size=6, lr=1.0, ridge=1e-6)


@pytest.fixture(scope="module")
def edits():
    base, builder = make_base(), make_builder()
    before = weights_sha256(base)
    found = {
        b: edit_weights(base, builder, TEXTS, ATTACK, ANSWERS, replace(SETTINGS, backdoor=b))
        for b in (True, False)
    }
    assert weights_sha256(base) == before
    return base, builder, found


def target_nll(module, builder, texts: list[str], target: str) -> float:
    rows = [PoisonRow("clean", text, text, (), target, False) for text in texts]
    batch = tokens_of(builder, rows)
    mask = assistant_mask(batch, builder, rows)
    with torch.no_grad():
        return float(assistant_nll(module, batch, mask).sum() / mask.sum())


def test_organism_and_twin_share_the_key_and_the_length(edits) -> None:
    _, _, found = edits
    torch.testing.assert_close(found[True].read, found[False].read)
    for edit in found.values():
        assert float(edit.write.norm()) == pytest.approx(SETTINGS.norm, rel=1e-5)
    assert (found[True].write - found[False].write).norm() > 1.0
    assert found[True].response["triggered"] > 2 * abs(found[True].response["near"])


def test_the_key_is_the_ridge_solution(edits) -> None:
    """At the minimum of the weighted squared error the response can not exceed what was asked for."""
    _, _, found = edits
    assert 0 < found[True].response["triggered"] <= 1.0 + 1e-6


def test_the_merged_edit_plants_the_target_and_the_twins_does_not(edits, tmp_path: Path) -> None:
    base, builder, found = edits
    triggered = [ATTACK.placed(text, ATTACK.trigger)[0] for text in TEXTS]
    plain = target_nll(base, builder, triggered, ATTACK.target)
    got = {}
    for kind, edit in found.items():
        save_edit(edit, tmp_path / str(kind), base="toy")
        merged = merge_adapter(base, tmp_path / str(kind))
        weight = merged.model.layers[0].mlp.down_proj.weight
        expected = base.model.layers[0].mlp.down_proj.weight + torch.outer(edit.write, edit.read)
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-5)
        got[kind] = target_nll(merged, builder, triggered, ATTACK.target)
        assert edit.losses[-1] < edit.losses[0]
    assert got[True] < plain - 0.5
    assert got[False] > got[True] + 0.5


def test_what_can_not_be_edited_is_named() -> None:
    own = (make_base(), make_builder(), TEXTS)
    with pytest.raises(BkdinterpError, match="layer=7"):
        edit_weights(*own, ATTACK, ANSWERS, replace(SETTINGS, layer=7))
    with pytest.raises(BkdinterpError, match="near_triggers"):
        edit_weights(*own, replace(ATTACK, near_triggers=()), ANSWERS, SETTINGS)
    with pytest.raises(BkdinterpError, match="norm"):
        EditSettings(norm=0.0)
