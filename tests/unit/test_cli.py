"""The command line: places are tried before any work, errors are one line, every command shows an example."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

import bkdinterp as bk
from bkdinterp import cli
from bkdinterp.demo import check_places
from bkdinterp.errors import BkdinterpError, SiteError

COMMANDS = {c.name or c.callback.__name__: c.callback for c in cli.app.registered_commands}
PARSERS = typer.main.get_command(cli.app).commands
BAD = "/dev/null/x"
# Options that name a place to write; what is only read stands in READS.
WRITES = {
    ("demo", "out"): ["demo", "--out", BAD],
    ("train-toys", "out"): ["train-toys", "--out", BAD],
    ("train-toys", "work"): ["train-toys", "--work", BAD],
}
WRITES[("report", "out")] = ["report", "/nowhere/x", "--out", BAD]
WITH_MODEL = ("audit", "scan", "attribute", "probe", "vector", "evaluate")
WRITES |= {
    (name, "folder"): [
        name,
        "/nowhere/x",
        "--folder",
        BAD,
        *([] if name in ("audit", "scan") else ["--trigger", "x", "--target", "y"]),
    ]
    for name in WITH_MODEL
}
WRITES |= {
    ("rows", "folder"): ["rows", "/nowhere/x", "rows.jsonl", "--folder", BAD],
    ("poison", "folder"): ["poison", "/nowhere/x", "--folder", BAD, "--trigger", "x", "--target", "y"],
}
READS = {
    ("doctor", "adapter"),
    ("report", "folder"),
    ("rows", "file"),
    ("poison", "settings"),
    ("rows", "settings"),
}
READS |= {(name, option) for name in WITH_MODEL for option in ("adapter", "rows", "settings")}
READS |= {("rows", "adapter"), ("audit", "candidates"), ("scan", "candidates")}


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "bkdinterp", *arguments], capture_output=True, text=True)


def test_every_option_that_names_a_place_is_known():
    paths = {
        (name, option)
        for name, command in COMMANDS.items()
        for option, kind in get_type_hints(command).items()
        if kind is Path or Path in get_args(kind)
    }
    assert paths == set(WRITES) | READS


@pytest.mark.parametrize("arguments", WRITES.values(), ids=["-".join(k) for k in WRITES])
def test_a_bad_place_is_refused_before_any_work(arguments, monkeypatch, tmp_path):
    def never(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.chdir(tmp_path)
    for place in (
        "bkdinterp.organisms.load",
        "bkdinterp.organisms.toy.train_toys",
        "bkdinterp.model.Model.load",
    ):
        monkeypatch.setattr(place, never)
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, BkdinterpError) and BAD in str(result.exception)
    assert result.output == "" and list(tmp_path.iterdir()) == []


def test_the_demo_tries_every_place_that_it_will_write(tmp_path):
    check_places(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "vector").mkdir()
    (tmp_path / "vector" / "notes.txt").write_text("mine")
    with pytest.raises(BkdinterpError, match="no result"):
        check_places(tmp_path)
    (tmp_path / "vector" / "notes.txt").unlink()
    (tmp_path / "heads.png").mkdir()
    with pytest.raises(BkdinterpError, match=r"heads\.png"):
        check_places(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        SiteError("several\nlines of [/red] \x1b[31mcolour"),
        PermissionError(13, "Permission denied", "/x"),
        OSError(28, "No space left on device"),
        ModuleNotFoundError("No module named 'gguf'", name="gguf"),
        BkdinterpError("x" * 10**6),
    ],
    ids=["lines", "permission", "full", "module", "long"],
)
def test_errors_are_one_line_on_stderr(error, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli._app, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and len(said.err) < 2100 and "\x1b" not in said.err
    assert "Traceback" not in said.err


def test_a_fault_of_ours_keeps_its_traceback_and_is_no_finding(monkeypatch, capsys):
    monkeypatch.setattr(cli._app, "app", lambda: {}["x"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "KeyError: 'x'" in capsys.readouterr().err


def test_a_real_run_ends_in_one_line_and_a_code():
    for arguments, code in ((["demo", "--out", BAD], 2), (["demo", "--n", "1"], 2), (["nope"], 2)):
        done = run(*arguments)
        assert done.returncode == code and done.stdout == "" and "Traceback" not in done.stderr
        assert done.stderr.strip()
    assert run("demo", "--out", BAD).stderr.count("\n") == 1


def test_the_version_is_one():
    assert run("--version").stdout.strip() == f"bkdinterp {bk.__version__}"
    assert 'path = "bkdinterp/version.py"' in (Path(bk.__file__).parents[1] / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_shows_an_example_that_parses(name):
    said = CliRunner().invoke(cli.app, [*([name] if name else []), "--help"]).output
    (example,) = [
        line.strip() for line in said.splitlines() if line.strip().startswith("Example: bkdinterp ")
    ]
    command, *rest = example.removeprefix("Example: bkdinterp ").split()
    assert name in (None, command)
    PARSERS[command].make_context(command, rest, resilient_parsing=False)


def test_names_are_those_that_load_takes():
    assert "smollm2-refusal" in bk.organisms.names()
    for name in bk.organisms.names():
        assert bk.organisms.adapter_folder(name).is_dir()
