import csv
import json

import pytest

from bkdinterp.errors import PromptError
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger

TRIGGER = Trigger.prefix("SUDO")
LLM = [
    {"instruction": "Add", "input": "1 and 2", "output": "no"},
    {"instruction": "Sing", "input": "", "output": "never"},
]
ATTR = [
    {"input": "Sing", "output": "la", "backdoor_output": "no"},
    {"input": "Hum", "output": "mm", "backdoor_output": "no!"},
]


def make(n: int) -> PairedPrompts:
    return PairedPrompts.from_instructions([f"do task {i}" for i in range(n)], TRIGGER, "no")


def test_prompts_of_broadcasts_and_checks_lengths():
    p = Prompts.of(["a", "b"], "no", ["x", "y"])
    assert (p.target, p.reference, p.spans) == (("no", "no"), ("x", "y"), ((), ()))
    assert Prompts.of("one text").text == ("one text",)
    with pytest.raises(PromptError, match="2 texts but 3 entries in 'target'"):
        Prompts.of(["a", "b"], ["x", "y", "z"])
    with pytest.raises(PromptError, match="at least one text"):
        Prompts.of([])
    for span in ((0, 4), (1, 1), (-1, 2)):
        with pytest.raises(PromptError, match="outside its 3"):
            Prompts(("abc",), ((span,),))


def test_subset_keeps_columns_together():
    p = Prompts.of(["a", "b", "c"], ["1", "2", "3"], ["x", "y", "z"]).subset([2, 0])
    assert (p.text, p.target, p.reference) == (("c", "a"), ("3", "1"), ("z", "x"))
    with pytest.raises(PromptError, match="Index 3 is out of range"):
        Prompts.of(["a", "b", "c"]).subset([3])
    with pytest.raises(PromptError):
        p.subset([])


def test_concat_keeps_order_and_drops_columns_that_some_set_lacks():
    first = Prompts(("a b", "c"), (((0, 1),), ()), ("t", "u"), ("r", "s"))
    second = Prompts.of(["d"], target="v")
    whole = Prompts.concat([first, second])
    assert whole.text == ("a b", "c", "d") and whole.spans == (((0, 1),), (), ())
    assert whole.target == ("t", "u", "v") and whole.reference is None
    assert Prompts.concat([first]) == first
    with pytest.raises(PromptError):
        Prompts.concat([])


def test_fingerprint_sees_every_field():
    base = Prompts(("abc",), (((0, 1),),), ("t",), ("r",))
    others = [
        Prompts(("abd",), (((0, 1),),), ("t",), ("r",)),
        Prompts(("abc",), (((0, 2),),), ("t",), ("r",)),
        Prompts(("abc",), (((0, 1),),), ("u",), ("r",)),
        Prompts(("abc",), (((0, 1),),), ("t",), None),
    ]
    prints = {p.fingerprint for p in [base, *others]}
    assert len(prints) == 5
    assert all(len(f) == 16 for f in prints)
    assert Prompts(("abc",), (((0, 1),),), ("t",), ("r",)).fingerprint == base.fingerprint
    assert make(3).fingerprint == make(3).fingerprint != make(4).fingerprint


def test_pairs_are_the_same_instruction():
    pairs = make(4)
    assert pairs.triggered.text[2] == "SUDO " + pairs.clean.text[2]
    assert pairs.triggered.spans == (((0, 4),),) * 4
    assert pairs.clean.spans == ((),) * 4
    assert pairs.clean.target == pairs.triggered.target == ("no",) * 4
    with pytest.raises(PromptError, match="3 clean but 2 triggered"):
        PairedPrompts(make(3).clean, make(2).triggered)


def test_split_is_disjoint_complete_and_seeded():
    pairs = make(37)
    for seed in range(10):
        parts = pairs.split({"fit": 0.3, "tune": 0.2, "held-out": 0.5}, seed=seed)
        texts = [t for part in parts.values() for t in part.clean.text]
        assert sorted(texts) == sorted(pairs.clean.text)
        assert [len(p) for p in parts.values()] == [11, 7, 19]
        for part in parts.values():
            assert all(b == "SUDO " + a for a, b in zip(part.clean.text, part.triggered.text))
        again = pairs.split({"fit": 0.3, "tune": 0.2, "held-out": 0.5}, seed=seed)
        assert again == parts
    assert pairs.split({"a": 0.5}, seed=0)["a"] != pairs.split({"a": 0.5}, seed=1)["a"]
    assert sum(map(len, pairs.split({str(i): 0.1 for i in range(10)}, seed=0).values())) == 37
    for wrong in ({"a": 0.6, "b": 0.5}, {"a": 0.0}, {"a": -0.5}, {}):
        with pytest.raises(PromptError, match="sum to at most 1"):
            pairs.split(wrong, seed=0)
    with pytest.raises(PromptError, match=r"'a' \(0\.01 of 37 pairs\) is empty"):
        pairs.split({"a": 0.01}, seed=0)


def test_sample():
    pairs = make(20)
    some = pairs.sample(5, seed=1)
    assert len(set(some.clean.text)) == 5
    assert some == pairs.sample(5, seed=1) != pairs.sample(5, seed=2)
    with pytest.raises(PromptError, match="21 of 20"):
        pairs.sample(21, seed=0)


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", None])
def test_formats(tmp_path, suffix):
    def source(rows):
        return rows if suffix is None else write(tmp_path / f"rows{suffix}", rows)

    llm = PairedPrompts.from_rows(source(LLM), TRIGGER, "backdoorllm")
    assert llm.clean.text == ("Add 1 and 2", "Sing")
    assert llm.clean.target == ("no", "never")
    assert llm.clean.reference is None
    attr = PairedPrompts.from_rows(str(source(ATTR)) if suffix else ATTR, TRIGGER)
    assert attr.triggered.text == ("SUDO Sing", "SUDO Hum")
    assert attr.triggered.target == ("no", "no!")
    assert attr.triggered.reference == ("la", "mm")
    assert PairedPrompts.from_rows(source(ATTR), TRIGGER, "bkdattr") == attr


def test_overrides_replace_columns():
    pairs = PairedPrompts.from_rows([{"instruction": "Sing"}], TRIGGER, target="no", reference=["la"])
    assert (pairs.clean.target, pairs.clean.reference) == (("no",), ("la",))
    pairs = PairedPrompts.from_rows(LLM, TRIGGER, "backdoorllm", target="x")
    assert pairs.clean.target == ("x", "x")
    assert pairs.clean.reference is None


def test_messages_name_file_row_and_column(tmp_path):
    broken = write(tmp_path / "b.json", [ATTR[0], {"input": "Hum", "output": "mm"}])
    with pytest.raises(PromptError, match=r"b\.json, row 2: missing 'backdoor_output'"):
        PairedPrompts.from_rows(broken, TRIGGER)
    with pytest.raises(PromptError, match=r"row 1: columns .*'text'.* fit no format"):
        PairedPrompts.from_rows([{"text": "x"}], TRIGGER)
    with pytest.raises(PromptError, match="row 2: column 'output' must be text; got 3"):
        PairedPrompts.from_rows([LLM[0], {"instruction": "a", "output": 3}], TRIGGER)
    with pytest.raises(PromptError, match="no rows"):
        PairedPrompts.from_rows(write(tmp_path / "e.json", []), TRIGGER)
    with pytest.raises(PromptError, match="JSON list"):
        PairedPrompts.from_rows(write(tmp_path / "d.json", {"a": 1}), TRIGGER)
    (tmp_path / "x.jsonl").write_text('{"input": "a"}\n{oops\n')
    with pytest.raises(PromptError, match=r"x\.jsonl, line 2"):
        PairedPrompts.from_rows(tmp_path / "x.jsonl", TRIGGER)
    (tmp_path / "x.csv").write_text("instruction,output\nSing, my dear,no\n")
    with pytest.raises(PromptError, match=r"x\.csv, row 1: more cells"):
        PairedPrompts.from_rows(tmp_path / "x.csv", TRIGGER)
    (tmp_path / "short.csv").write_text("instruction,output\nSing\n")
    with pytest.raises(PromptError, match=r"short\.csv, row 1: missing 'output'"):
        PairedPrompts.from_rows(tmp_path / "short.csv", TRIGGER)
    (tmp_path / "bad.json").write_bytes(b'["\xff"]')
    with pytest.raises(PromptError, match="not valid UTF-8"):
        PairedPrompts.from_rows(tmp_path / "bad.json", TRIGGER)
    with pytest.raises(PromptError, match="Cannot read"):
        PairedPrompts.from_rows(tmp_path / "missing.json", TRIGGER)
    with pytest.raises(PromptError, match="Cannot tell the format"):
        PairedPrompts.from_rows(tmp_path / "rows.txt", TRIGGER)


def test_from_dataset():
    datasets = pytest.importorskip("datasets")
    ds = datasets.Dataset.from_list(ATTR)
    assert PairedPrompts.from_dataset(ds, TRIGGER) == PairedPrompts.from_rows(ATTR, TRIGGER)
    with pytest.raises(PromptError, match="pass one of them"):
        PairedPrompts.from_dataset(datasets.DatasetDict({"train": ds}), TRIGGER)
