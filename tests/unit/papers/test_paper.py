"""What a paper refuses before anything is computed: unknown names in only=, and options that it does not have."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from bkdinterp.cli import app
from bkdinterp.errors import BkdinterpError
from bkdinterp.organisms._instructions import DATA
from bkdinterp.reproduce import Cell, Job, Paper, PaperTable, load_paper
from bkdinterp.reproduce._paper import SMALL_NOTE
from bkdinterp.reproduce.lamparth import TABLES
from bkdinterp.stats import Interval


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


def test_lamparth_ships_as_many_seeds_as_it_says(tmp_path):
    paper = load_paper("lamparth")
    names = [f"toy-{k}-seed{seed}" for k in (2, 3) for seed in range(paper.shipped_seeds + 1)]
    there = [name for name in names if (DATA / "toy" / name).is_dir()]
    assert there == [name for name in names if not name.endswith(str(paper.shipped_seeds))]
    paper.check(Job(tmp_path, seeds=paper.shipped_seeds))
    paper.check(Job(tmp_path, seeds=9, retrain=True))


@pytest.mark.parametrize(("small", "note"), [(True, f"{SMALL_NOTE} Why."), (False, "Why.")])
def test_small_tables_say_that_they_are_not_to_be_read(tmp_path, small, note):
    cells = {("a", "b"): Cell(text="x")}
    plain, noted = PaperTable.of("t", "t", cells), PaperTable.of("u", "u", cells, note="Why.")
    paper = Paper("p", "t", {"report": lambda job: [plain, noted]})
    first, second = paper.run(Job(tmp_path, small=small), ["report"])
    assert (first.note, second.note) == (SMALL_NOTE if small else "", note)


def test_the_terminals_legend_is_of_its_cells_and_says_where_layers_start(tmp_path, monkeypatch):
    cell = Cell.judge(Interval(0.0, 0.0, 0.0, 5, "t"), 0.03, agrees=True)
    table = PaperTable.of("t", "t", {("L1 MLP", "p+t"): cell})
    paper = replace(load_paper("lamparth"), stages={"report": lambda job: [table]})
    monkeypatch.setattr("bkdinterp.reproduce.load_paper", lambda name: paper)
    said = CliRunner().invoke(app, ["reproduce", "lamparth", "report", "--out", str(tmp_path)]).output
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
    result = CliRunner().invoke(app, ["reproduce", *arguments, "--out", str(tmp_path)])
    assert isinstance(result.exception, BkdinterpError) and said in str(result.exception)
    assert page.read_text() == "as it was" and list(tmp_path.iterdir()) == [page]
