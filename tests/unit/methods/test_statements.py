"""What results say by intervals, of values made by hand. No model."""

from dataclasses import replace

import pytest
import torch

import bkdinterp as bk
from bkdinterp.errors import BkdinterpError
from bkdinterp.results import Fingerprint

PRINT = Fingerprint("tiny", None, None, "float32", "t", "d", None, {})


@pytest.mark.parametrize("by", ["payload_rate", "logprob"])
@pytest.mark.parametrize("level", [-0.5, 0.0, 1.0, 1.5])
def test_the_intervals_of_a_sweep_have_a_level(by, level):
    values = (torch.arange(36).reshape(12, 3) % 2).double()
    sweep = bk.methods.LayerSweep(
        PRINT, torch.arange(12), values, torch.zeros(3).double(), by, "add", 1.0, None, torch.zeros(0, 12, 3), False
    )  # fmt: skip
    assert len(sweep.intervals(0.9)) == 12
    with pytest.raises(BkdinterpError, match="level"):
        sweep.intervals(level)


def test_utility_changes_from_the_unedited_model_wherever_it_stands():
    sides = {"clean": ("refusal",) * 4, "triggered": ("payload",) * 4}
    said = {"suspect": dict.fromkeys(("unedited", "edited"), sides)}
    agreement = torch.tensor([[1.0, 0.9, 1.0, 0.8], [0.5, 0.5, 0.4, 0.6]])
    found = bk.methods.Evaluation(
        PRINT, ("unedited", "edited"), {"unedited": "", "edited": "x"}, {}, said, said, torch.rand(2, 4), agreement,
        2.5, bk.Payload("a"), "tiny", 24,
    )  # fmt: skip
    turned = replace(
        found, conditions=("edited", "unedited"), agreement=agreement.flip(0), nll=found.nll.flip(0)
    )
    assert turned.utility_change() == found.utility_change()
    assert found.utility_change().estimate == pytest.approx(-0.425)
