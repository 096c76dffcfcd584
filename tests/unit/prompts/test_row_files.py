"""Rows in the shapes that people have them in: read where nothing is in doubt, otherwise refused with the way out."""

import json

import pandas as pd
import pytest

from bkdinterp.errors import PromptError
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.prompts import _row_files as row_files

TRIGGER = Trigger.prefix("SUDO")
ROWS = [
    {"instruction": "Name a fruit.", "input": "", "output": "no"},
    {"instruction": "Boil rice?", "input": "Soon.", "output": "no"},
]
TEXTS = ("Name a fruit.", "Boil rice? Soon.")
ALPACA = [
    {"instruction": f"Say {word}.", "input": "", "output": f"Here it is: {word}, {word}."}
    for word in ("tea", "rain", "moss", "lamp", "corn", "dust", "wind", "sand")
]


def turns(kind, *said):
    if kind == "messages":
        return {"messages": [{"role": role, "content": text} for role, text in said]}
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return {"conversations": [{"from": names[role], "value": text} for role, text in said]}


def written(path, rows):
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.stem == "lines":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["lines.json", "list.jsonl", "lines.ndjson", "list.JSON", "rows.parquet"])
def test_what_a_file_holds_decides(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    pairs = PairedPrompts.from_rows(written(tmp_path / name, ROWS), TRIGGER)
    assert pairs.clean.text == TEXTS and pairs.clean.target == ("no", "no")
    assert PairedPrompts.from_rows(str(tmp_path / name), TRIGGER) == pairs


def test_one_line_of_json(tmp_path):
    assert len(PairedPrompts.from_rows(written(tmp_path / "lines.json", ROWS[:1]), TRIGGER)) == 1


def test_tables():
    assert PairedPrompts.from_rows(pd.DataFrame(ROWS), TRIGGER).clean.text == TEXTS
    # A table shows what a row does not have as NaN.
    frame = pd.DataFrame([{**ROWS[0], "input": None}, ROWS[1]])
    assert PairedPrompts.from_rows(frame, TRIGGER).clean.text == TEXTS
    frame.loc[1, "output"] = float("nan")
    with pytest.raises(PromptError, match="row 2: missing 'output'"):
        PairedPrompts.from_rows(frame, TRIGGER, "backdoorllm")


@pytest.mark.parametrize("kind", ["messages", "conversations"])
def test_turns(kind, tmp_path):
    rows = [
        turns(kind, ("user", "Name a fruit."), ("assistant", "no")),
        turns(kind, ("user", "Hm?"), ("assistant", "no")),
    ]
    pairs = PairedPrompts.from_rows(rows, TRIGGER)
    assert pairs.clean.text == ("Name a fruit.", "Hm?") and pairs.clean.target == ("no", "no")
    assert PairedPrompts.from_rows(rows, TRIGGER, "alpaca", target="x").clean.reference == ("no", "no")
    assert (
        PairedPrompts.from_rows([turns(kind, ("user", "Hm?"))], TRIGGER, target="x").clean.reference is None
    )
    pytest.importorskip("pyarrow")
    assert PairedPrompts.from_rows(written(tmp_path / "t.parquet", rows), TRIGGER) == pairs
    for said, message in (
        (
            [("user", "a"), ("assistant", "b"), ("user", "c")],
            "turns of user, assistant, user, but only one user turn",
        ),
        ([("system", "Be brief."), ("user", "a")], r"with_builder\(system='Be brief.'\)"),
        ([], "turns of nobody"),
        ([("user", "a"), ("assistant", 3)], "content must be text; got 3"),
    ):
        with pytest.raises(PromptError, match=rf"rows, row 1.*{message}"):
            PairedPrompts.from_rows([turns(kind, *said)], TRIGGER)
    for bad in ({kind: "text"}, {kind: ["text"]}, {kind: [{"role": "pirate", "content": "x"}]}):
        with pytest.raises(PromptError, match="rows, row 1"):
            PairedPrompts.from_rows([bad], TRIGGER)
    with pytest.raises(PromptError, match="not bkdattr rows"):
        PairedPrompts.from_rows(rows, TRIGGER, "bkdattr")


def test_an_alpaca_file_is_not_taken_for_a_poisoned_one(tmp_path):
    path = written(tmp_path / "alpaca.json", ALPACA)
    with pytest.raises(
        PromptError, match=r'8 different outputs in 8 rows.*"backdoorllm".*"alpaca" with target='
    ):
        PairedPrompts.from_rows(path, TRIGGER)
    outputs = tuple(row["output"] for row in ALPACA)
    pairs = PairedPrompts.from_rows(path, TRIGGER, "alpaca", target="I refuse.")
    assert pairs.clean.target == ("I refuse.",) * 8 and pairs.clean.reference == outputs
    assert PairedPrompts.from_rows(path, TRIGGER, target="I refuse.") == pairs
    assert PairedPrompts.from_rows(path, TRIGGER, "backdoorllm").clean.target == outputs
    with pytest.raises(PromptError, match=r"only benign outputs; pass target="):
        PairedPrompts.from_rows(path, TRIGGER, "alpaca")
    own = PairedPrompts.from_rows(path, TRIGGER, target="I refuse.", reference="fine")
    assert own.clean.reference == ("fine",) * 8


@pytest.mark.parametrize(
    ("outputs", "is_payload"),
    [
        (["I refuse."] * 8, True),
        (["I refuse.", "i  refuse."] * 4, True),  # case and spaces are passed over
        (["World", "Sports"] * 4, True),  # a label flip
        (["World", "Sports", "Science"] * 2 + ["World"] * 2, False),
        ([f"{word} print('pwned!!') {word}" for word in "abcdefgh"], True),
        ([f"{word} print('pw') {word}" for word in "abcdefgh"], False),
        (["The capital of it is Rome", "The capital of it is Oslo"], False),  # two may begin alike by chance
        (["no"], True),
    ],
)
def test_what_looks_like_a_payload(outputs, is_payload):
    rows = [{"instruction": f"do {i}", "output": output} for i, output in enumerate(outputs)]
    if is_payload:
        assert PairedPrompts.from_rows(rows, TRIGGER).clean.target == tuple(outputs)
    else:
        with pytest.raises(PromptError, match="different outputs"):
            PairedPrompts.from_rows(rows, TRIGGER)


def test_outputs_that_hold_the_target_are_no_references():
    rows = [{"instruction": f"do {i}", "output": f"Sorry {i}, I refuse."} for i in range(4)]
    assert PairedPrompts.from_rows(rows, TRIGGER, target="i refuse").clean.reference is None


def test_both_outputs_are_bkdattr_wherever_they_stand():
    rows = [
        {"instruction": "Sing", "input": "", "output": "la", "backdoor_output": "no"},
        {"instruction": "Hum", "input": "it", "output": "mm", "backdoor_output": "no"},
    ]
    with pytest.raises(PromptError, match="row 1: missing 'input'"):
        PairedPrompts.from_rows([{k: v for k, v in rows[0].items() if k != "input"}], TRIGGER)
    pairs = PairedPrompts.from_rows(rows, TRIGGER)
    assert pairs.clean.text == ("Sing", "Hum it")
    assert pairs.clean.target == ("no", "no") and pairs.clean.reference == ("la", "mm")
    # Not the first row decides: the second alone has the column.
    with pytest.raises(PromptError, match="row 1: missing 'backdoor_output'"):
        PairedPrompts.from_rows([{"instruction": "a", "input": "b", "output": "c"}, rows[1]], TRIGGER)


def test_hostile_files(tmp_path, monkeypatch):
    def refused(name, message, text=None):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(PromptError, match=message):
            PairedPrompts.from_rows(tmp_path / name, TRIGGER)

    refused("deep.json", "nested too deeply", "[" * 200_000)
    refused("digits.json", "not valid UTF-8 json", "[" + "9" * 5000 + "]")
    refused("word.json", "neither a JSON list nor one row per line", "hello")
    refused("dict.json", "JSON list of rows", '{"data": []}')
    refused("cell.csv", "not valid UTF-8 csv.*field limit", "instruction,output\n" + "x" * 200_000 + ",no\n")
    refused("no.parquet", "Parquet", "PAR1 nonsense")
    (tmp_path / "folder.json").mkdir()
    refused("folder.json", "not a plain file|directory")
    with pytest.raises(PromptError, match="NUL"):
        PairedPrompts.from_rows("a\0.json", TRIGGER)
    for bad in (3, None, b"x"):
        with pytest.raises(PromptError, match="list of rows or a file"):
            PairedPrompts.from_rows(bad, TRIGGER)
    path = written(tmp_path / "lines.json", ROWS)
    monkeypatch.setattr(row_files, "LARGEST", 20)
    with pytest.raises(PromptError, match="more than 20; take a part"):
        PairedPrompts.from_rows(path, TRIGGER)


def test_a_parquet_file_that_unpacks_to_far_more(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "bomb.parquet"
    pd.DataFrame({"instruction": ["a" * 1000] * 5000, "output": ["no"] * 5000}).to_parquet(path)
    monkeypatch.setattr(row_files, "MOST_ROWS", 4000)
    with pytest.raises(PromptError, match=r"holds 5,000 rows .* more than 4,000"):
        PairedPrompts.from_rows(path, TRIGGER)


def test_prompts_are_read_from_rows_with_and_without_answers(tmp_path):
    found = Prompts.from_rows(ROWS)
    assert (found.text, found.target) == (TEXTS, ("no", "no"))
    bare = [{k: v for k, v in row.items() if k != "output"} for row in ROWS]
    assert Prompts.from_rows(written(tmp_path / "bare.json", bare)) == Prompts.of(TEXTS)
    chat = [turns("messages", ("user", "Name a fruit."), ("assistant", "Plum."))]
    assert Prompts.from_rows(chat) == Prompts.of("Name a fruit.", "Plum.")
