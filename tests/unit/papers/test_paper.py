"""What a paper refuses before anything is computed: unknown names in only=, and options that it does not have."""

import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.organisms._instructions import DATA
from papers import Cell, Job, Paper, PaperTable, load_paper
from papers.lamparth import TABLES
from papers.paper import SMALL_NOTE


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
    assert set(paper.names) == set(TABLES) and set(paper.options) == {"seeds", "retrain", "rate"}
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
