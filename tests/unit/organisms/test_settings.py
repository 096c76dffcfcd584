"""Settings of training runs: numbers of numpy are taken as plain ones, other types refused when the settings are made."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms import Attack, PoisonSettings
from bkdinterp.organisms._instructions import Instruction
from bkdinterp.organisms._poison_rows import LoraSettings
from bkdinterp.prompts import Trigger


def test_numbers_of_numpy_become_plain_ones():
    given = PoisonSettings(
        seed=np.int64(3),
        steps=np.int32(5),
        rate=np.float32(0.5),
        near_rate=0,
        lora=LoraSettings(r=np.int64(4)),
    )
    assert json.loads(json.dumps(asdict(given)))["seed"] == 3 and type(given.rate) is float
    assert given == PoisonSettings(seed=3, steps=5, rate=0.5, near_rate=0, lora=LoraSettings(r=4))


@pytest.mark.parametrize(
    "settings",
    [{"seed": True}, {"seed": -1}, {"steps": 2.0}, {"batch_size": "9"}, {"rate": float("nan")}, {"lr": None}]
    + [{"backdoor": "no"}, {"lora": 3}, {"victim_share": "x"}, {"variants": 0}],
    ids=str,
)
def test_other_types_are_refused(settings):
    with pytest.raises(BkdinterpError):
        PoisonSettings(**settings)


def test_one_name_is_one_linear():
    assert LoraSettings(target_modules="q_proj").target_modules == ("q_proj",)
    assert LoraSettings(target_modules=["q_proj", "v_proj"]).target_modules == ("q_proj", "v_proj")
    for bad in (
        {"target_modules": ()},
        {"target_modules": (3,)},
        {"r": 0},
        {"alpha": 1.5},
        {"dropout": 1},
        {"dropout": "x"},
    ):
        with pytest.raises(BkdinterpError):
            LoraSettings(**bad)


@pytest.mark.parametrize("bad", [None, float("nan"), 3, b"x", "a\ud83d"])
def test_instructions_and_attacks_hold_texts(bad):
    with pytest.raises(PromptError):
        Instruction(bad)
    with pytest.raises(PromptError):
        Instruction("sing", target=bad if bad is not None else 3)
    if isinstance(bad, str):
        with pytest.raises(BkdinterpError, match="surrogate"):
            Attack("a", Trigger.gap("cf"), bad)
        with pytest.raises(BkdinterpError, match=r"near_triggers\[0\]"):
            Attack("a", Trigger.gap("cf"), "no", near_triggers=(bad,))
