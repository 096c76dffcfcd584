"""Effects of one model minus those of another: numbers, intervals, order, figure, saving, refusals. No model."""

from dataclasses import replace
from typing import Any

import matplotlib
import pytest
import torch
from unit.results.mutants import results

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods import HeadScores, LayerScores, NeuronScores

matplotlib.use("Agg")
MADE: dict[str, Any] = {
    type(r).__name__: r for r in results() if isinstance(r, HeadScores | LayerScores | NeuronScores)
}


def twin(scores, seed=1):
    torch.manual_seed(seed)
    other = replace(scores.fingerprint, adapter="org/twin")
    return replace(scores, effects=torch.rand_like(scores.effects), fingerprint=other)


@pytest.mark.parametrize("name", MADE)
def test_differences_are_effects_of_their_own(name, tmp_path):
    own, other = MADE[name], twin(MADE[name])
    gap = own.compare(other)
    assert type(gap) is type(own) and torch.equal(gap.effects, own.effects - other.effects)
    frame = gap.to_frame()
    beside = own.to_frame(beside=other)
    key = frame.columns[0]
    both = frame.merge(beside, on=key)
    assert (both.acie_x - both.difference).abs().max() < 1e-6
    assert (both.low_x - both.difference_low).abs().max() < 1e-6  # the intervals of beside=
    assert frame.acie.is_monotonic_decreasing and "minus twin" in repr(gap)
    figure = gap.plot()
    assert "minus twin" in " ".join(a.get_title(loc="left") for a in figure.axes)
    assert torch.equal(type(own).load(gap.save(tmp_path / "gap")).effects, gap.effects)
    assert (own.compare(own).acie == 0).all()


def test_heads_that_differ_are_named_and_others_are_not():
    torch.manual_seed(0)
    own = MADE["HeadScores"]
    noise = 0.01 * torch.randn(3, 2, 40)
    wide = replace(own, effects=noise.clone(), base=torch.zeros(40))
    wide.effects[1, 1] += 1.0
    other = replace(twin(own), effects=0.01 * torch.randn(3, 2, 40), base=torch.zeros(40))
    gap = wide.compare(other)
    assert [str(h) for h in gap.significant()] == ["L1H1"] and [str(h) for h in gap.top_k(1)] == ["L1H1"]


def test_units_that_one_did_not_score_are_missing():
    own = MADE["HeadScores"]
    other = twin(own)
    other.effects[2] = torch.nan
    assert own.compare(other).n_scored == 4


def test_refusals():
    own = MADE["HeadScores"]
    other = twin(own)
    for changed, words in (
        (replace(other, fingerprint=replace(other.fingerprint, data="else")), "same prompts"),
        (replace(other, metric="kl"), "metric"),
        (replace(other, direction="denoising"), "direction"),
        (replace(other, source="pair"), "source"),
        (replace(other, effects=torch.rand(2, 2, 5)), "heads"),
    ):
        with pytest.raises(BkdinterpError, match=words):
            own.compare(changed)
