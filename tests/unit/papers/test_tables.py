"""Paper tables: marks follow from values, text shows all of them, JSON and pages keep them."""

import os

import pytest

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.stats import Interval
from papers import (
    Agreement,
    Cell,
    Job,
    Paper,
    PaperTable,
    load_tables,
    save_tables,
    summary,
    write_tables,
)


def interval(x, low, high, n=5):
    return Interval(x, low, high, n, "bootstrap")


@pytest.fixture
def table():
    cells = {
        ("p+t", "none"): Cell.judge(interval(0.8, 0.7, 0.9), 0.35, agrees=True),
        ("p+t", "L1"): Cell.judge(interval(0.0, 0.0, 0.0), 0.0),
        ("n|n", "none"): Cell.judge(interval(-0.001, -0.002, 0.5), 1.0, agrees=False),
    }
    return PaperTable.of("x-I", "Table I", cells, corner="prompts", over="5 seeds", note="a *note*")


@pytest.mark.parametrize(
    ("paper", "agrees", "tolerance", "mark"),
    [
        (0.75, None, 0.0, Agreement.within),
        (0.75, False, 0.0, Agreement.within),  # the figure itself is stronger than a claim about signs
        (0.35, True, 0.0, Agreement.agrees),
        (0.35, False, 0.0, Agreement.differs),
        (0.35, None, 0.0, Agreement.differs),
        (0.695, None, 0.005, Agreement.within),
        (None, None, 0.0, Agreement.unknown),
        (None, True, 0.0, Agreement.agrees),
    ],
)
def test_marks(paper, agrees, tolerance, mark):
    ours = interval(0.8, 0.7, 0.9)
    assert Cell.judge(ours, paper, agrees=agrees, tolerance=tolerance).agreement is mark


@pytest.mark.parametrize(
    ("low", "high", "agrees", "mark"),
    [
        (0.21, 0.50, False, Agreement.within),
        (0.15, 0.50, True, Agreement.agrees),
        (0.15, 0.50, False, Agreement.differs),
        (0.00, 0.96, True, Agreement.agrees),
        (0.00, 0.96, False, Agreement.differs),
        (0.00, 0.96, None, Agreement.unknown),  # neither a claim nor a number that could fail
        (0.40, 0.96, None, Agreement.differs),
    ],
)
def test_an_interval_that_says_nothing_agrees_with_nothing(low, high, agrees, mark):
    ours = interval((low + high) / 2, low, high)
    assert Cell.judge(ours, 0.35, agrees=agrees).agreement is mark


def test_without_our_value_nothing_is_claimed():
    assert Cell.judge(None, 0.5, agrees=True).agreement is Agreement.unknown


def test_text_of_cells(table):
    assert table.text(table["p+t", "none"]) == "0.80 [0.70, 0.90] (0.35) ~"
    assert table.text(table["p+t", "L1"]) == "0.00 (0.00) ="
    assert table.text(table["n|n", "L1"]) == ""
    # Rounded to nothing, a number has no sign.
    assert table.text(table["n|n", "none"]).startswith("0.00 [0.00, 0.50]")


def test_percent_and_text():
    cell = Cell(interval(0.5, 0.25, 0.75), text="50 / 0 / 0 / 50")
    made = PaperTable.of("t", "T", {("a", "b"): cell}, percent=True, digits=0)
    assert made.text(cell) == "50 [25, 75] 50 / 0 / 0 / 50"


def test_markdown_has_a_line_per_row_and_escapes_bars(table):
    lines = table.markdown().splitlines()
    assert lines[0] == "**Table I (5 seeds)**"
    assert lines[2] == "| prompts | none | L1 |"
    assert lines[5].startswith("| n\\|n | ")
    assert all(line.count("|") - line.count("\\|") == 4 for line in lines[2:6])
    assert lines[-1] == "a *note*"


def test_json_round_trip(table, tmp_path):
    assert load_tables(save_tables([table], tmp_path / "t.json")) == (table,)
    (tmp_path / "t.json").write_text("[{}]")
    with pytest.raises(ArtefactError, match="no saved tables"):
        load_tables(tmp_path / "t.json")


def test_cells_must_fit():
    with pytest.raises(BkdinterpError, match="3 columns"):
        PaperTable("t", "T", ("a",), ("x", "y", "z"), ((Cell(), Cell()),))


def test_summary_counts_marks(table):
    assert table.count() == {Agreement.within: 1, Agreement.agrees: 1, Agreement.differs: 1}
    made = summary([table], "s")
    assert [cell.text for cell in made.cells[0]] == ["1", "1", "1"]


def test_pages_keep_everything_outside_the_marks(table, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- x-I -->\nold\n<!-- /x-I -->\n\nafter\n")
    for _ in range(2):  # writing again changes nothing
        assert write_tables(page, [table]) == ("x-I",)
        text = page.read_text()
        assert text == f"before\n\n<!-- x-I -->\n\n{table.markdown()}\n\n<!-- /x-I -->\n\nafter\n"


@pytest.mark.parametrize(
    ("text", "match"), [("nothing here\n", "no marks"), ("<!-- x-I -->\n", "without <!-- /x-I -->")]
)
def test_pages_without_marks(table, tmp_path, text, match):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ArtefactError, match=match):
        write_tables(page, [table])
    assert page.read_text() == text


def test_a_frozen_paper_reads_what_the_stages_computed(table, tmp_path):
    def report(job):
        assert job.unit("u", {"small": job.small}, lambda: 3) == 3
        return [table]

    paper = Paper("p", "P", {"report": report})
    with pytest.raises(ArtefactError, match="not computed yet"):
        paper.frozen(Job(tmp_path))
    assert paper.run(Job(tmp_path), ("report",)) == (table,)
    assert paper.frozen(Job(tmp_path)) == load_tables(tmp_path / "tables.json")
    with pytest.raises(ArtefactError):
        paper.frozen(Job(tmp_path, small=True))
    with pytest.raises(BkdinterpError, match="No stage train"):
        paper.run(Job(tmp_path), ("train",))


def test_a_page_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- t -->\n<!-- /t -->")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(ArtefactError, match=r"page.md: denied; free"):
        write_tables(page, [PaperTable.of("t", "t", {("a", "b"): Cell(text="x")})])
    assert [p.name for p in tmp_path.iterdir()] == ["page.md"]
    assert page.read_text() == "<!-- t -->\n<!-- /t -->"
    page.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtefactError, match="Cannot read"):
        write_tables(page, [])
