"""What a paper refuses before anything is computed: unknown names in only=, and options that it does not have."""

import pytest
from typer.testing import CliRunner

from bkdinterp.cli import app
from bkdinterp.errors import BkdinterpError
from bkdinterp.reproduce import Job, Paper, load_paper
from bkdinterp.reproduce.lamparth import TABLES


def never(job):
    raise AssertionError("nothing may be computed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": ("I", "nope")}, "nope.*I, II"),
        ({"seeds": 2}, "seeds"),
        ({"retrain": True}, "retrain"),
    ],
)
def test_a_paper_refuses_what_it_does_not_know(tmp_path, options, said):
    paper = Paper("p", "t", {"report": never}, names=("I", "II"))
    for run in (paper.run, paper.frozen):
        with pytest.raises(BkdinterpError, match=said):
            run(Job(tmp_path, **options), *([["report"]] if run == paper.run else []))


def test_options_that_a_paper_has_are_taken(tmp_path):
    paper = Paper("p", "t", {"report": lambda job: []}, names=("I",), options=("seeds", "retrain"))
    assert paper.run(Job(tmp_path, seeds=2, retrain=True, only=("I",)), ["report"]) == ()


def test_lamparth_knows_its_tables_and_bkdattr_has_no_seeds(tmp_path):
    paper = load_paper("lamparth")
    assert set(paper.names) == set(TABLES) and set(paper.options) == {"seeds", "retrain"}
    with pytest.raises(BkdinterpError, match="seeds"):
        load_paper("bkdattr").run(Job(tmp_path, seeds=3), ["report"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
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
    result = CliRunner().invoke(app, ["reproduce", *arguments, "--out", str(tmp_path)])
    assert isinstance(result.exception, BkdinterpError) and said in str(result.exception)
    assert page.read_text() == "as it was" and list(tmp_path.iterdir()) == [page]
