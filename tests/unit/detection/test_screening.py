"""A threshold keeps its promise on clean prompts, whatever their scores look like."""

import math

import numpy as np
import pytest
import torch

from bkdinterp.detection.inputs import InputScreening, screen_inputs, threshold_at
from bkdinterp.errors import BkdinterpError
from bkdinterp.results import Fingerprint, Result


def test_the_threshold_is_an_order_statistic():
    scores = [float(i) for i in range(1, 20)]
    assert threshold_at(scores, 0.05) == 19 and threshold_at(scores, 0.1) == 18
    assert threshold_at(scores[:18], 0.05) == math.inf
    assert threshold_at(scores, 0.5) == 10


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_the_false_alarms_are_those_asked_for(draw):
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        limit = threshold_at(getattr(rng, draw)(30), 0.1)
        rates.append((getattr(rng, draw)(200) > limit).mean())
    assert 0.07 < np.mean(rates) <= 0.103


class Longest:
    """Scores a prompt by its longest word."""

    name = "longest"

    class model:
        @staticmethod
        def fingerprint(data, *, seed=None):
            return Fingerprint("m", None, None, "float32", "", data, seed, {})

    def scores(self, texts, *, folder=None):
        return torch.tensor([float(max(map(len, t.split()))) for t in texts])


def test_prompts_are_screened_by_kind(tmp_path):
    clean = [f"a {'x' * (1 + i % 9)}" for i in range(40)]
    kinds = {"clean": clean[:10], "triggered": ["a " + "x" * 20] * 8}
    found = Result.load(screen_inputs(Longest(), clean, kinds).save(tmp_path / "s"))
    assert isinstance(found, InputScreening) and found.threshold == 9
    assert found.rate("triggered").estimate == 1.0 and found.rate("clean").estimate == 0.0
    assert found.auroc().estimate == 1.0 and found.auroc("clean").low < 0.5 < found.auroc("clean").high
    assert list(found.to_frame().prompts) == ["clean", "triggered"] and found.plot().axes
    assert "longest" in repr(found)
    with pytest.raises(BkdinterpError, match="Unknown kind"):
        found.rate("near")


def test_too_few_clean_prompts_promise_nothing():
    with pytest.raises(BkdinterpError, match="19 clean ones"):
        screen_inputs(Longest(), ["a b"] * 18, {"clean": ["a"]})
    with pytest.raises(BkdinterpError, match="0 kinds"):
        screen_inputs(Longest(), ["a b"] * 30, {})
