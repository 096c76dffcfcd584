"""Top-k vocabulary share and coherence, counted by hand."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import coherence, top_k_share, vocabulary_score
from bkdinterp.metrics._vocabulary import check_token_ids

LOGITS = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
SENTIMENT = {"joy": "p", "glad": "p", "sad": "n", "glum": "n"}


def test_share_counts_the_largest_logits_only():
    ids = torch.tensor([0, 1, 5])
    assert top_k_share(LOGITS, ids, 3).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert top_k_share(LOGITS, ids, 6).tolist() == pytest.approx([0.5, 0.5])
    # A shift and a scale of the logits change nothing: only their order counts.
    assert torch.equal(top_k_share(LOGITS, ids, 3), top_k_share(7 * LOGITS - 2, ids, 3))
    with pytest.raises(BkdinterpError, match="k=7"):
        top_k_share(LOGITS, ids, 7)


def test_score_looks_right_after_the_prompt_and_bears_its_name():
    score = vocabulary_score(torch.tensor([0, 1]), k=2, name="negativity")
    assert score.name == score.fn.__name__ == "negativity"
    logits = torch.stack([LOGITS, LOGITS.flip(-1)], dim=1)
    mask = torch.ones(2, 2, dtype=torch.bool)
    found = score(logits, torch.zeros(2, 2, dtype=torch.long), mask)
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [
        ("joy glad", "joy glad joy", 1.0),
        ("joy glad", "sad glum", 0.0),
        # The majority is still p at the second word, level at the third (then the latest word decides), n at the fourth.
        ("joy glad", "sad glum sad glum", 0.5),
        ("joy sad", "glum", 1.0),
        ("joy glad", "joy nobody", 0.5),
    ],
)
def test_coherence_of_one_output(prompt, output, expected):
    assert coherence([prompt], [output], SENTIMENT).tolist() == [expected]


def test_coherence_of_nothing_and_of_strangers():
    assert bool(coherence(["joy"], [""], SENTIMENT).isnan())
    with pytest.raises(BkdinterpError, match="no word"):
        coherence(["stranger"], ["joy"], SENTIMENT)
    with pytest.raises(BkdinterpError, match="1 prompts but 2"):
        coherence(["joy"], ["joy", "joy"], SENTIMENT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_share(bad):
    logits = LOGITS.clone()
    logits[0, 5] = bad
    found = top_k_share(logits, torch.tensor([0, 1, 5]), 3)
    assert found[0].isnan() and found[1] == pytest.approx(1 / 3)
    # What is masked out among the small logits is no fault.
    assert top_k_share(LOGITS.masked_fill(LOGITS < 2, -torch.inf), torch.tensor([0]), 3).isfinite().all()


def test_what_is_no_vocabulary_is_refused_before_any_model_runs():
    for ids in (["bad"], torch.tensor([0.5]), torch.tensor([], dtype=torch.long), torch.tensor(3)):
        with pytest.raises(BkdinterpError, match=r"language\.ids"):
            check_token_ids(ids)
    with pytest.raises(BkdinterpError, match="k=0"):
        vocabulary_score(torch.tensor([1]), k=0)
