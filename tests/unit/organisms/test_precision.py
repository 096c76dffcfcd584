"""Training in 16 bits is refused: measured here, how little of a model moves in it."""

import pytest
import torch
from integration.conftest import tiny_llama

from bkdinterp.errors import BkdinterpError
from bkdinterp.organisms import LoraSettings, TuneSettings, fine_tune

SEQUENCES = [[2, 4, 7, 5], [2, 6, 3, 5]]


def moved(before, after):
    """Share of the numbers that changed."""
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    return sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_do_not_learn(dtype):
    with pytest.raises(BkdinterpError, match=r"round to nothing.*module\.float\(\)"):
        fine_tune(tiny_llama().to(dtype), SEQUENCES, TuneSettings(epochs=1.0, batch_size=2))


def test_why():
    """One step of AdamW at a usual rate changes most of a float32 model, and little of a bfloat16 one."""
    settings = TuneSettings(epochs=1.0, batch_size=2, lr=1e-5)
    module = tiny_llama().float()
    tuned = fine_tune(module, SEQUENCES, settings).module
    assert moved(module, tuned) > 0.5
    assert moved(module.to(torch.bfloat16), tuned.to(torch.bfloat16)) < 0.1


def test_an_adapter_learns_beside_frozen_weights_of_16_bits():
    settings = TuneSettings(epochs=1.0, batch_size=2, lora=LoraSettings(r=2, target_modules=("q_proj",)))
    assert len(fine_tune(tiny_llama().to(torch.bfloat16), SEQUENCES, settings, merge=False).losses) == 1
