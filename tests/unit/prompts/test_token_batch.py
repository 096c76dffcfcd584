import random
from dataclasses import replace

import pytest
import torch

from bkdinterp.errors import PromptError, SiteError
from bkdinterp.prompts import TokenBatch
from bkdinterp.sites import Where

# rows: prompts of 3 and 2 tokens, targets of 1 and 2
BATCH = TokenBatch.from_lists(
    [[5, 6, 7], [8, 9]], [[False, True, True], [False, False]], [[1], [2, 3]], pad_id=0
)


def picked(where) -> list[list[int]]:
    mask = BATCH.selection(Where.of(where))
    return [BATCH.input_ids[r][mask[r]].tolist() for r in range(2)]


def test_canonical_layout():
    assert BATCH.input_ids.tolist() == [[5, 6, 7, 1, 0], [0, 8, 9, 2, 3]]
    assert BATCH.attention_mask.tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert BATCH.n_prompt == 3
    assert BATCH.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 0, 1, 2, 3]]
    assert BATCH.targets.tolist() == [[1, 0], [2, 3]]
    assert BATCH.prompt_mask.int().tolist() == [[1, 1, 1, 0, 0], [0, 1, 1, 0, 0]]
    assert BATCH.target_mask.int().tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]


def test_selection_for_each_where():
    assert picked("last") == [[7], [9]]
    assert picked("trigger") == [[6, 7], []]
    assert picked("all") == [[5, 6, 7], [8, 9]]
    assert picked((0,)) == [[5], [8]]
    assert picked((1,)) == [[6], [9]]
    assert picked((-2,)) == [[6], [8]]
    assert picked((0, -1)) == [[5, 7], [8, 9]]
    assert picked(Where("none", generated=True)) == [[1], [2, 3]]
    assert picked(Where("last", generated=True)) == [[7, 1], [9, 2, 3]]
    assert picked(Where("trigger", generated=True)) == [[6, 7, 1], [2, 3]]
    for where in ("all", "trigger", "last"):
        mask = BATCH.selection(Where(where, generated=True))
        assert not (mask & (BATCH.attention_mask == 0)).any()


def test_trigger_never_selects_padding_or_targets():
    every = replace(BATCH, trigger_mask=torch.ones_like(BATCH.trigger_mask))
    assert torch.equal(every.selection(Where("trigger")), BATCH.prompt_mask)


@pytest.mark.parametrize("index", [2, -3])
def test_index_outside_the_shortest_prompt(index):
    with pytest.raises(SiteError, match=f"Position {index} .* row 1 has 2 tokens"):
        BATCH.selection(Where((index,)))


def test_rows():
    for index in ([1], slice(1, 2), torch.tensor([1]), torch.tensor([False, True]), range(1, 2)):
        one = BATCH.rows(index)
        assert one.input_ids.tolist() == [[0, 8, 9, 2, 3]]
        assert one.n_prompt == 3
    assert BATCH.rows([1, 0, 1]).trigger_mask.sum(dim=1).tolist() == [0, 2, 0]
    with pytest.raises(PromptError, match="batch of 2 rows"):
        BATCH.rows([2])
    with pytest.raises(PromptError, match="selects none"):
        BATCH.rows([])


def test_foreign_paddings_normalise_to_the_same_batch():
    rng = random.Random(0)
    for _ in range(30):
        rows = [[rng.randint(1, 99) for _ in range(rng.randint(1, 6))] for _ in range(4)]
        touched = [[rng.random() < 0.3 for _ in row] for row in rows]
        wanted = TokenBatch.from_lists(rows, touched, pad_id=7)
        for sides in (["left"] * 4, ["right"] * 4, rng.choices(["left", "right"], k=4)):
            width = max(map(len, rows)) + rng.randint(0, 2)  # also columns that nobody needs
            ids, mask, trigger = (torch.zeros(4, width, dtype=torch.long) for _ in range(3))
            ids += 55  # what stands under the padding must not matter
            for r, (row, side) in enumerate(zip(rows, sides)):
                at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
                ids[r, at], mask[r, at] = torch.tensor(row), 1
                trigger[r, at] = torch.tensor(touched[r], dtype=torch.long)
            got = TokenBatch.from_encoding(ids, mask, trigger_mask=trigger.bool(), pad_id=7)
            for name in ("input_ids", "attention_mask", "trigger_mask"):
                assert torch.equal(getattr(got, name), getattr(wanted, name))
            assert got.n_prompt == wanted.n_prompt


def test_foreign_targets_become_right_padded():
    got = TokenBatch.from_encoding(
        torch.tensor([[5, 6, 7], [8, 9, 0]]),
        torch.tensor([[1, 1, 1], [1, 1, 0]]),
        trigger_mask=BATCH.trigger_mask[:, :3],
        target_ids=torch.tensor([[0, 1], [2, 3]]),
        target_mask=torch.tensor([[0, 1], [1, 1]]),
    )
    assert torch.equal(got.input_ids, BATCH.input_ids)
    assert torch.equal(got.attention_mask, BATCH.attention_mask)


def test_masks_that_cannot_be_normalised():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(PromptError, match="Row 1: the mask has a hole"):
        TokenBatch.from_encoding(ids, torch.tensor([[1, 1, 1], [1, 0, 1]]))
    with pytest.raises(PromptError, match="Row 0 has no prompt token"):
        TokenBatch.from_encoding(ids, torch.tensor([[0, 0, 0], [1, 1, 1]]))
    with pytest.raises(PromptError, match="only 0 and 1"):
        TokenBatch.from_encoding(ids, torch.tensor([[2, 1, 1], [1, 1, 1]]))
    with pytest.raises(PromptError, match="marks padding"):
        TokenBatch.from_encoding(
            ids, torch.tensor([[0, 1, 1], [1, 1, 1]]), trigger_mask=torch.ones(2, 3, dtype=torch.bool)
        )
    with pytest.raises(PromptError, match="n_prompt=4"):
        TokenBatch(ids, torch.ones_like(ids), torch.zeros(2, 3, dtype=torch.bool), 4)
