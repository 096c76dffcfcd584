"""The reproduction of Lamparth & Reuel at the sizes of CI: every stage, every table of the toys, and nothing twice."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import Interval
from papers import Agreement, Job, load_paper, load_tables
from papers.command_line import app
from papers.lamparth import stages
from papers.lamparth.table_freezing import CONDITIONS
from papers.lamparth.tables import ON_TOYS, TRAINS
from papers.lamparth.toy_measurements import agrees, pooled
from papers.lamparth.toys import PCA_KINDS, load_toy, over_seeds

PAGE = Path(__file__).resolve().parents[2] / "docs" / "papers.md"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(tmp_path_factory.mktemp("lamparth"), small=True, only=tuple(ON_TOYS))


@pytest.fixture(scope="module")
def tables(job):
    return {table.name: table for table in load_paper("lamparth").run(job)}


def test_every_table_has_its_place_in_the_docs(tables):
    page = PAGE.read_text(encoding="utf-8")
    missing = [name for name in tables if f"<!-- {name} -->" not in page or f"<!-- /{name} -->" not in page]
    assert not missing


@pytest.mark.parametrize("sentiments", [2, 3])
def test_no_reported_prompt_was_fitted_or_tuned_on_and_none_comes_twice(tmp_path, sentiments):
    toy = load_toy(Job(tmp_path), sentiments, 0)
    fitted = {text for prompts in toy.pool(PCA_KINDS[sentiments]) for text in prompts.text}
    assert fitted >= {text for prompts in toy.fit_sets.values() for text in prompts.text}
    for kind, prompts in toy.sets.items():
        assert len(set(prompts.text)) == 100 and not set(prompts.text) & fitted, kind
    pairs = toy.pairs("p")
    assert (pairs.clean.text, pairs.triggered.text) == (toy.sets["pp"].text, toy.sets["pt"].text)
    assert [c.split()[0] for c in pairs.clean.text] == [t.split()[0] for t in pairs.triggered.text]


def test_tables_hold_values_beside_figures(tables):
    for number in ("I-2", "I-3", "II", "III", "IV", "V", "VI", "VII", "XII", "XIII", "XIV"):
        table = tables[f"lamparth-{number}"]
        assert sum(table.count().values()) >= 3, table.name
        for row in table.cells:
            for cell in row:
                assert cell.paper is None or cell.ours is not None
                assert cell.ours is None or cell.ours.low <= cell.ours.estimate <= cell.ours.high


def test_the_shipped_toys_do_what_their_manifests_say(tables):
    for k, kinds in ((2, ("p+p", "n+n", "p+t")), (3, ("p+p", "n+n", "p+t", "s+t"))):
        table = tables["lamparth-III" if k == 2 else "lamparth-IV"]
        values = {kind: table[kind, "none"].ours.estimate for kind in kinds}
        assert values["p+p"] <= 0.1 and values["n+n"] >= 0.95 and values["p+t"] > 0.5, (k, values)


def test_patching_the_first_attention_takes_the_trigger_away(tables):
    # The first word is the same: all that the model can know of the trigger starts at its token in layer 1.
    effect = tables["lamparth-XII"]["L1 attention", "indirect effect"]
    assert effect.ours.high < -0.5 and effect.agreement in (Agreement.agrees, Agreement.within)
    for name in ("lamparth-XII-seeds", "lamparth-XII-2-seeds"):
        alone = tables[name]["seed 0", "L1 attention"].ours
        assert alone.estimate == -tables[name]["seed 0", "p+t unpatched"].ours.estimate < -0.5


def test_all_conditions_of_the_freezing_runs_are_there(tables):
    assert tables["lamparth-freezing-2"].rows == tuple(CONDITIONS)


def test_nothing_is_computed_twice(job, tables):
    lines = []
    again = load_paper("lamparth").frozen(replace(job, log=lines.append))
    assert again == tuple(tables.values()) == load_tables(job.out / "tables-small.json")
    assert not lines


@pytest.mark.parametrize(
    ("ours", "paper", "before", "paper_before", "same"),
    [
        (0.80, 0.35, None, None, True),  # both between low and high
        (0.00, 0.04, None, None, True),
        (1.00, 0.35, None, None, False),
        (0.00, 0.00, 0.80, 0.35, True),  # both fall
        (0.78, 0.36, 0.80, 0.35, True),  # both stay
        (0.60, 0.36, 0.80, 0.35, False),
        (0.90, 0.20, 0.80, 0.35, False),
    ],
)
def test_what_counts_as_agreement(ours, paper, before, paper_before, same):
    assert agrees(ours, paper, before, paper_before) is same


def test_intervals_over_seeds_are_students():
    found = over_seeds([0.1, 0.2, 0.3])
    # t(.975, 2) = 4.3027, standard error .1 / sqrt(3)
    assert found.estimate == pytest.approx(0.2) and found.high - 0.2 == pytest.approx(
        4.3027 * 0.057735, rel=1e-4
    )
    assert over_seeds([0.5]) == Interval(0.5, 0.5, 0.5, 1, "t")
    units = [{"e": {"pt": Interval(x, x, x, 9, "b").to_dict()}} for x in (0.9, 1.0, 1.0)]
    assert pooled(units, "e", "pt").high == 1.0


def test_retrain_trains_the_toys_before_anything_else(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(stages, "train_toys", lambda out, **settings: asked.append((out, settings["seeds"])))
    monkeypatch.setattr(stages, "run_stage", lambda job, works: asked.append(works))
    stages.train(Job(tmp_path, seeds=2, retrain=True))
    stages.train(Job(tmp_path))
    assert asked == [(tmp_path / "toys", range(2)), TRAINS, TRAINS]


def test_another_share_of_poison_has_a_folder_of_its_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(stages, "train_toys", lambda out, *, rate, **_: asked.append((out, rate)))
    monkeypatch.setattr(stages, "run_stage", lambda job, works: None)
    argv = ["lamparth", "train", "--retrain", "--rate", "0.03", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, argv).exit_code == 0
    assert asked == [(tmp_path / "lamparth-rate-0.03" / "toys", 0.03)]
    page = tmp_path / "page.md"
    page.write_text("")
    refused = CliRunner().invoke(app, [*argv[:-2], "--docs", str(page)])
    assert isinstance(refused.exception, BkdinterpError) and "--rate" in str(refused.exception)
    with pytest.raises(BkdinterpError, match="trained again"):
        load_paper("lamparth").check(Job(tmp_path, rate=0.03))
    with pytest.raises(BkdinterpError, match="has no rate"):
        load_paper("bkdattr").check(Job(tmp_path, rate=0.03))
