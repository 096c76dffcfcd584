"""Settings files: they give a command's options, errors name what is wrong, and what a run writes repeats it."""

import json
import os

import pytest
import typer
import yaml
from typer.testing import CliRunner

from bkdinterp import cli
from bkdinterp.cli import _suspect_commands
from bkdinterp.cli._settings_file import NAME, write_settings
from bkdinterp.errors import ArtefactError, BkdinterpError


@pytest.fixture
def scanned(monkeypatch):
    """What `bkdinterp scan` would run with, instead of running it."""
    seen = {}

    class Stop(BkdinterpError):
        pass

    def printer(**given):
        seen.update(given)
        return None

    def source(*given):
        seen["source"] = given
        raise Stop("stop")

    monkeypatch.setattr(_suspect_commands, "Printer", printer)
    monkeypatch.setattr(_suspect_commands.i, "Source", source)
    return seen


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_gives_options_and_the_command_line_wins(tmp_path, scanned, suffix):
    values = {
        "model": "from/file",
        "device": "cpu",
        "folder": str(tmp_path / "a"),
        "quiet": True,
        "gguf-file": "x.gguf",
    }
    path = tmp_path / f"s{suffix}"
    path.write_text(json.dumps(values) if suffix == ".json" else yaml.safe_dump(values))
    run("scan", "--settings", str(path))
    assert scanned["source"][0] == "from/file" and scanned["quiet"] is True
    assert scanned["source"][3] == "x.gguf" and str(scanned["folder"]) == str(tmp_path / "a")
    run("scan", "other/model", "--settings", str(path), "--folder", str(tmp_path / "b"))
    assert scanned["source"][0] == "other/model" and str(scanned["folder"]) == str(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("minuts: 3", "no option 'minuts'"),
        ("command: audit", "is for the command 'audit'"),
        ("- 1\n- 2", "must hold options by name"),
        ("minutes: {a: 1}", "must be a text, a number"),
        ("a: &x 1\nb: *x", "aliases"),
        ("a: [", "neither YAML nor JSON"),
        ("!!python/object/apply:os.system ['true']", "neither YAML nor JSON"),
        ("settings: other.yaml", "no option 'settings'"),
        ("model: a\nmodel: b", "names 'model' twice"),
        ("gguf-file: a\ngguf_file: b", "names 'gguf_file' twice"),
        ("model: [a, b]", "model=['a', 'b'] must be a single value"),
        ("minutes: true", "minutes=True must be no true or false"),
        ("quiet: 'no'", "quiet='no' must be true or false"),
        ("minutes: many", "minutes='many'"),
        ("minutes: 0", "minutes=0"),
        ("minutes: .nan", "minutes=nan"),
        ("minutes: .inf", "--minutes=inf must be a finite number"),
        ("n: 1" + ":1" * 30_000, "more than 64 bits"),
        ('model: "\\ud800"', "half of a surrogate pair"),
        ("a: " + "[" * 60_000, "nested too deeply"),
        ("a: " + "[\n" * 30_000, "nested too deeply"),
        ("# " + "x" * 2**16, "more than 65536 bytes"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, words):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    result = run("scan", "x", "--settings", str(path))
    assert isinstance(result.exception, BkdinterpError) and words in str(result.exception)
    assert str(path) in str(result.exception)


def test_json_names_an_option_once(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"model": "a", "model": "b"}')
    result = run("scan", "x", "--settings", str(path))
    assert isinstance(result.exception, BkdinterpError) and "names 'model' twice" in str(result.exception)


def test_one_value_of_an_option_that_may_be_repeated(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(_suspect_commands.i, "trigger_of", lambda phrases, position: seen.append(phrases))
    path = tmp_path / "s.yaml"
    for text in ("trigger: SUDO", "trigger: [SUDO]"):
        path.write_text(text)
        run("audit", "/nowhere/x", "--settings", str(path))
    assert seen == [["SUDO"], ["SUDO"]]


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_file_is_not_read(tmp_path, kind):
    path = tmp_path / "x"
    {"device": lambda: path.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[
        kind
    ]()
    result = run("scan", "x", "--settings", str(path))
    assert isinstance(result.exception, ArtefactError) and "is not a file" in str(result.exception)


def test_a_missing_file_is_an_error_of_ours(tmp_path):
    result = run("scan", "x", "--settings", str(tmp_path / "none.yaml"))
    assert isinstance(result.exception, BkdinterpError) and "none.yaml" in str(result.exception)


def test_what_a_run_writes_repeats_it(tmp_path, monkeypatch):
    seen = []

    def stop(self, reference):
        write_settings(tmp_path)
        seen.append(self)
        raise BkdinterpError("stop")

    monkeypatch.setattr(_suspect_commands.i.Source, "load_with", stop)
    run("scan", "some/model", "--seed", "3", "--minutes", "2.5", "--no-chat")
    written = yaml.safe_load((tmp_path / NAME).read_text())
    assert written["command"] == "scan" and written["seed"] == 3 and written["minutes"] == 2.5
    run("scan", "--settings", str(tmp_path / NAME))
    assert seen[0] == seen[1] and seen[1].chat is False
    assert yaml.safe_load((tmp_path / NAME).read_text()) == written


def test_the_commands_come_in_the_order_of_need():
    names = list(typer.main.get_command(cli.app).list_commands(None))
    assert names[:2] == ["audit", "scan"] and set(names) == {
        c.name or c.callback.__name__ for c in cli.app.registered_commands
    }
