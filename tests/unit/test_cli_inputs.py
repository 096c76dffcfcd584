"""Odd inputs of the commands: one error of ours that names the value, before a model is loaded."""

import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from bkdinterp import cli
from bkdinterp.errors import BkdinterpError

SAID = ("--trigger", "x", "--target", "y")
WITH_ROWS = ("audit", "scan", "rows", "attribute", "probe", "vector", "evaluate")
ONE = [{"instruction": "hi", "input": "", "output": "yes"}]


@pytest.fixture
def refused(monkeypatch):
    """The message of a command's error; no command may get as far as a model."""

    def never(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("bkdinterp.model.Model.load", never)
    monkeypatch.setattr("bkdinterp.organisms.load", never)

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        assert isinstance(result.exception, BkdinterpError), (result.exception, result.output)
        assert result.stdout == ""
        return str(result.exception)

    return run


FILES = {
    "no list": ("r.json", b"{}"),
    "no rows": ("r.json", b"[]"),
    "no mappings": ("r.json", b"[1]"),
    "other columns": ("r.json", b'[{"x": 1}]'),
    "no texts": ("r.json", b'[{"instruction": 3, "output": []}]'),
    "not UTF-8": ("r.json", b"\xff\xfe["),
    "broken lines": ("r.jsonl", b"{}\nnot"),
    "Latin cells": ("r.csv", b"input,output\ncaf\xe9,x\n"),
    "nested": ("r.json", b"[" * 100_000),
    "other type": ("r.txt", b"x"),
    "missing": ("r.json", None),
}


@pytest.mark.parametrize("command", WITH_ROWS)
@pytest.mark.parametrize("name", FILES)
def test_rows_of_a_wrong_shape(command, name, refused, tmp_path):
    file, content = FILES[name]
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    if command == "rows":
        said = refused("rows", "x", path)
    else:
        said = refused(command, "x", "--rows", path, *(() if command in ("audit", "scan") else SAID))
    assert str(path) in said


@pytest.mark.parametrize(
    ("command", "words"),
    [("audit", "at least 24"), ("scan", "at least 24"), ("rows", "at least 8"), ("evaluate", "two or more")],
)
def test_too_few_rows(command, words, refused, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(ONE))
    given = ["rows", "x", path] if command == "rows" else [command, "x", "--rows", path]
    said = refused(*given, *(SAID if command == "evaluate" else ()))
    assert words in said and str(path) in said


@pytest.mark.parametrize("command", ["audit", "scan"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no words"),
        (b" \n\t\n", "holds no words"),
        (b"caf\xe9\n", "UTF-8"),
        (b"fine\na\0b\n", "line 2"),
        (b"x" * 5000, "line 1"),
        (b"x\n" * 2**23 + b"x", "16 MiB"),
        (None, "No such file"),
        ("folder", "directory"),
        ("/dev/zero", "16 MiB"),
    ],
    ids=range(9),
)
def test_candidates(command, content, words, refused, tmp_path):
    path = tmp_path / "words.txt"
    if content == "folder":
        path.mkdir()
    elif content == "/dev/zero":
        path.symlink_to(content)
    elif content is not None:
        path.write_bytes(content)
    said = refused(command, "x", "--candidates", path)
    assert words in said and str(path) in said and len(said) < 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit", "x", "--minutes", "inf"], "--minutes=inf"),
        (["scan", "x", "--minutes", "inf"], "--minutes=inf"),
        (["poison", "x", *SAID, "--folder", "f", "--lr", "inf"], "--lr=inf"),
        (["audit", "x", "--phase", "nope"], "--phase 'nope'"),
        (["audit", "x", "--target", "y"], "without --trigger"),
        (["audit", "x", "--n", "3"], "--n=3"),
        (["audit", ""], "Missing MODEL"),
        (["audit", "x", "--trigger", "x", "--target", " "], "--target=' '"),
        (["poison", "x", "--trigger", "x", "--target", " ", "--folder", "f"], "--target=' '"),
        (["poison", "x", *SAID, "--folder", "f", "--rate", "0.9", "--near-rate", "0.9"], "near_rate=0.9"),
    ],
)
def test_values_that_no_run_can_use(arguments, words, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


LOADING = ("audit", "scan", "rows", "attribute", "probe", "vector", "evaluate", "poison", "doctor")
COMPARING = ("audit", "scan", "rows", "evaluate")
TUNED = tuple(c for c in LOADING if c != "poison")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *((c, "--reference") for c in COMPARING),
        *((c, "--adapter") for c in TUNED),
        *((c, "MODEL") for c in LOADING),
        *((c, "--settings") for c in LOADING if c != "doctor"),
        ("demo", "--base"),
    ],
)
def test_what_is_not_there_is_refused_before_the_model_is_loaded(
    command, option, refused, tmp_path, monkeypatch
):
    """A reference was looked for only after the suspect had been loaded."""
    monkeypatch.chdir(tmp_path)
    rows, missing = tmp_path / "rows.json", tmp_path / "not" / "there"
    rows.write_text(json.dumps(ONE * 8))
    (tmp_path / "model").mkdir()
    given = [] if command == "demo" else [missing if option == "MODEL" else tmp_path / "model"]
    given += [rows] if command == "rows" else []
    given += SAID if command in ("attribute", "probe", "vector", "evaluate", "poison") else ()
    given += ["--folder", tmp_path / "out"] if command == "poison" else []
    said = refused(command, *given, *(() if option == "MODEL" else (option, missing)))
    assert str(missing) in said and (option == "--settings" or option in said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["audit", "attribute", "probe", "vector", "evaluate"])
def test_a_trigger_or_target_of_only_spaces(command, refused):
    assert "' '" in refused(command, "x", "--trigger", " ", "--target", "y")
    assert "' '" in refused(command, "x", "--trigger", "x", "--target", " ")


@pytest.mark.parametrize("command", ["attribute", "vector", "evaluate"])
def test_an_unknown_metric(command, refused):
    assert "--metric 'nope'" in refused(command, "x", *SAID, "--metric", "nope")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["attribute", "x", *SAID], "heads/notes.txt"),
        (["attribute", "x", *SAID, "--units", "mlps"], "mlps"),
        (["probe", "x", *SAID], "probe.png/"),
        (["vector", "x", *SAID], "sweep/notes.txt"),
        (["evaluate", "x", *SAID], "work"),
        (["scan", "x"], "settings.yaml/"),
        (["audit", "x"], "report.html/"),
    ],
)
def test_what_is_in_the_way_of_a_result_is_seen_before_it_is_computed(arguments, place, refused, tmp_path):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if place.endswith("/") else path.write_text("mine")
    said = refused(*arguments, "--folder", tmp_path)
    assert str(tmp_path / place.split("/")[0]) in said and "give another" in said
    assert path.exists()


@pytest.mark.parametrize(("flagged", "code"), [([False] * 3, 0), ([False, True, False], 1)])
def test_rows_says_by_its_code_whether_a_row_is_flagged(flagged, code, monkeypatch, tmp_path):
    """It counted the marks, not the flagged rows, and always said that there are some."""
    path = tmp_path / "r.json"
    path.write_text(json.dumps(ONE * 8))
    found = SimpleNamespace(flagged=torch.tensor(flagged), describe=lambda: "said", to_frame=lambda: None)
    monkeypatch.setattr("bkdinterp.cli._inputs.Source.load_with", lambda self, reference: (None, None))
    monkeypatch.setattr("bkdinterp.detection.rows.poisoned_rows", lambda *args, **options: found)
    result = CliRunner().invoke(cli.app, ["rows", "x", str(path)])
    assert result.exit_code == code and "said" in result.output


def test_too_few_pairs_for_a_probe_are_refused(refused):
    assert "at least 10 pairs" in refused("probe", "/nowhere/x", *SAID, "--n", "8")
