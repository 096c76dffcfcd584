"""``python -m papers``: places are tried before any work, refusals leave nothing behind, errors are one line."""

import subprocess
import sys
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import Interval
from papers import Cell, PaperTable, load_paper
from papers.command_line import app

BAD = "/dev/null/x"


@pytest.mark.parametrize("arguments", [["bkdattr", "--out", BAD], ["lamparth", "--docs", BAD]])
def test_a_bad_place_is_refused_before_any_work(arguments, monkeypatch, tmp_path):
    def never(name):
        raise AssertionError("work began")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("papers.command_line.load_paper", never)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, BkdinterpError) and BAD in str(result.exception)
    assert result.output == "" and list(tmp_path.iterdir()) == []


def test_a_page_that_is_not_there_is_refused_by_name(tmp_path):
    result = CliRunner().invoke(app, ["lamparth", "--docs", str(tmp_path / "g.md"), "--out", str(tmp_path)])
    assert "--docs" in str(result.exception) and "No such file" in str(result.exception)


def test_a_place_that_can_be_made_is_not_made_before_there_is_something_to_keep(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["nope", "--out", "~/a/b"])
    assert "No paper 'nope'; there is lamparth, bkdattr." in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_terminals_legend_is_of_its_cells_and_says_where_layers_start(tmp_path, monkeypatch):
    cell = Cell.judge(Interval(0.0, 0.0, 0.0, 5, "t"), 0.03, agrees=True)
    table = PaperTable.of("t", "t", {("L1 MLP", "p+t"): cell})
    paper = replace(load_paper("lamparth"), stages={"report": lambda job: [table]})
    monkeypatch.setattr("papers.command_line.load_paper", lambda name: paper)
    said = CliRunner().invoke(app, ["lamparth", "report", "--out", str(tmp_path)]).output
    assert "0.00 (0.03) ~" in said and "*" not in said
    said = " ".join(said.split())
    assert "ours [95 % interval] (the paper's)" in said and "left out where all values are the same" in said
    assert "L1 attention is the site L0.attn_out" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lamparth", "--seeds", "9"], "5 seeds"),
        (["lamparth", "--only", "nope"], "nope"),
        (["lamparth", "--small", "--docs", "page.md"], "--small"),
        (["bkdattr", "--seeds", "2"], "seeds"),
        (["bkdattr", "--retrain"], "retrain"),
    ],
)
def test_the_command_line_refuses_likewise(tmp_path, arguments, said):
    page = tmp_path / "page.md"
    page.write_text("as it was")
    arguments = [str(page) if x == "page.md" else x for x in arguments]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert isinstance(result.exception, BkdinterpError) and said in str(result.exception)
    assert page.read_text() == "as it was" and list(tmp_path.iterdir()) == [page]


def test_a_real_run_ends_in_one_line_and_a_code():
    for arguments, code in ((["bkdattr", "--out", BAD], 1), (["lamparth", "--seeds", "0"], 2)):
        done = subprocess.run([sys.executable, "-m", "papers", *arguments], capture_output=True, text=True)
        assert done.returncode == code and done.stdout == "" and "Traceback" not in done.stderr
        assert done.stderr.strip() and (code == 2 or done.stderr.count("\n") == 1)


def test_help_shows_an_example_that_parses():
    said = CliRunner().invoke(app, ["--help"]).output
    (example,) = [line.strip() for line in said.splitlines() if "Example: python -m papers " in line]
    words = example.removeprefix("Example: python -m papers ").split()
    typer.main.get_command(app).make_context("papers", words, resilient_parsing=False)
