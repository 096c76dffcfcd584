"""TrainingCurve.plot: what shares an axis, and what is refused."""

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from bkdinterp.errors import BkdinterpError
from bkdinterp.organisms import TrainingCurve
from bkdinterp.organisms._curve import CurveRecorder
from bkdinterp.results import Fingerprint

PRINT = Fingerprint("toy", None, None, "float32", "", "", 0, {})


def curve(n=5, **values):
    return TrainingCurve(
        PRINT, tuple(range(0, 10 * n, 10)), {k: tuple(v) for k, v in values.items()}, "LoRA only"
    )


def test_rates_share_an_axis_from_0_to_1_and_a_loss_does_not():
    both = curve(rate=[0.0, 0.2, 0.4, 0.3, 0.9], other=[0.1] * 5, loss=[6.0, 5.8, 5.7, 5.6, 5.5])
    (axes,) = both.plot().axes
    assert [line.get_label() for line in axes.get_lines()] == ["rate", "other"]
    assert axes.get_ylabel() == "rate" and axes.get_ylim()[1] < 1.1
    (axes,) = both.plot(metrics=["loss"]).axes
    assert axes.get_ylabel() == "loss" and axes.get_ylim()[0] > 1
    # Without any rate there is still something to see.
    (axes,) = curve(loss=[6.0, 5.8, 5.7, 5.6, 5.5]).plot().axes
    assert axes.get_ylabel() == "loss"


def test_many_points_carry_no_markers():
    few, many = curve(rate=[0.5] * 5), curve(100, rate=[0.5] * 100)
    markers = [c.plot().axes[0].get_lines()[0].get_marker() for c in (few, many)]
    assert markers == ["o", "None"]


def test_nothing_to_plot_is_refused():
    with pytest.raises(BkdinterpError, match="Nothing was measured"):
        curve(0).plot()
    with pytest.raises(BkdinterpError, match="No metric gain; there is rate"):
        curve(1, rate=[0.5]).plot(metrics=["gain"])


def test_two_fine_tunes_of_one_model_are_told_apart():
    base, clean, poisoned = (
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=2, vocab_size=3, n_positions=2))
        for _ in range(3)
    )

    def title(tuned):
        recorder = CurveRecorder(tuned, lambda module: {"rate": 0.5}, None, 0)
        recorder.add(0)
        return recorder.result(base, tuned, "frozen: nothing", 0).plot().axes[0].get_title(loc="left")

    assert title(clean) == title(clean) != title(poisoned)
