"""BkdAttr's reproduction on tiny models: its numbers are those of the public methods, and a killed run resumes to them."""

import json
from dataclasses import replace

import pytest
import torch
from integration.test_demo import tiny_organism

import bkdinterp as bk
from bkdinterp.engine import Run, execute
from bkdinterp.errors import ArtefactError
from bkdinterp.organisms import attack, instructions
from papers import Job
from papers.bkdattr.answer_units import grader, unedited
from papers.bkdattr.attribution_units import WHOLE, attribute
from papers.bkdattr.figures import draw
from papers.bkdattr.module_units import CHECK, PARTS
from papers.bkdattr.probe_units import TIE
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.stages import tables
from papers.bkdattr.study import choose, study
from papers.bkdattr.subject import Subject

TINY = Sizes(
    n_probe=10,
    n_probe_test=4,
    classifiers=("svm",),
    n_heads=2,
    n_means=2,
    n=3,
    ks=(1, 2, 4),
    few_ks=(2, 4),
    random_sets=2,
    n_random=2,
    k_vector=3,
    n_sweep=2,
    layer_step=2,
    n_best=4,
    vector_nulls=1,
    n_null=2,
    n_modules=3,
    new_tokens=10,
)
KILLED_AFTER = 20


class Killed(BaseException):
    """Not an exception that anybody catches."""


@pytest.fixture(scope="module")
def subject():
    organism = tiny_organism()
    return Subject("smollm2-tiny", "d", lambda: organism)


@pytest.fixture(scope="module")
def run(subject, tmp_path_factory):
    """A study that was killed once: (study, job, lines of the first run, lines of the second)."""
    out = tmp_path_factory.mktemp("runs")
    before, after = [], []

    def until_killed(line):
        before.append(line)
        if len(before) == KILLED_AFTER:
            raise Killed

    with pytest.raises(Killed):
        study(Job(out, log=until_killed), subject, TINY)
    job = Job(out, log=after.append)
    return study(job, subject, TINY), job, before, after


def test_a_killed_run_goes_on_with_the_next_unit(run):
    _, _, before, after = run
    done, rest = ({line.split(":")[0] for line in lines} for lines in (before, after))
    assert len(done) == len(before) == KILLED_AFTER
    assert rest
    assert not done & rest


def test_a_killed_run_gives_the_numbers_of_one_that_was_not(run, subject, tmp_path):
    found, _, _, _ = run
    fresh = choose(Job(tmp_path), subject, TINY)
    for name, ranking in fresh.rankings.items():
        assert torch.equal(found.choices.rankings[name].effects, ranking.effects)
    assert found.choices.sweeps == fresh.sweeps
    assert found.choices.vectors == fresh.vectors
    assert found.choices.probes["svm"].unit == fresh.probes["svm"].unit


def test_a_frozen_job_reads_the_same_tables_and_computes_nothing(run, subject, tmp_path):
    found, job, _, _ = run

    def load():
        raise AssertionError("a frozen job loads no model")

    frozen = study(Job(job.out, frozen=True), Subject(subject.name, subject.digest, load), TINY)
    assert [t.markdown() for t in tables([frozen])] == [t.markdown() for t in tables([found])]
    with pytest.raises(ArtefactError, match="not computed"):
        study(Job(tmp_path, frozen=True), Subject(subject.name, subject.digest, load), TINY)
    with pytest.raises(ArtefactError, match="not computed"):
        study(Job(job.out, frozen=True), Subject(subject.name, "other weights", load), TINY)


def test_the_paper_s_ranking_is_by_the_geometric_mean(run, subject):
    pairs = subject.selection(TINY.n_heads, TINY)
    direct = bk.Attribution(subject.organism.model, metric="geometric_mean", source="triggered").heads(pairs)
    found = run[0].choices.rankings["whole target, triggered mean"]
    # Units keep six digits after the point.
    torch.testing.assert_close(found.effects, direct.effects.flatten(0, 1).double(), rtol=0, atol=1e-5)
    assert list(found.top_k(4)) == list(direct.top_k(4))


def test_near_triggers_are_called_by_the_probe_s_own_rule(subject):
    """Decisions of layer 0 are rounding noise around 0 where the last token is the same: both count them as clean."""
    model, held_out = subject.organism.model, subject.held_out(4, TINY)
    fitted = bk.BackdoorProbe(model, "svm", seed=0).fit(subject.selection(10, TINY))
    scores = fitted.on(model, held_out)
    called = scores.predicted.diagonal().T[:, scores.labels].sum(1)
    assert torch.equal((fitted.decision(model, held_out.triggered) > TIE).sum(1), called)


def test_conditions_say_what_evaluate_says(run, subject):
    """Same texts, outcomes and agreement as the public evaluation, whose prompts all lie among ours."""
    found, job, _, _ = run
    o, pairs = subject.organism, subject.held_out(TINY.n, TINY)
    heads = found.choices.rankings["whole target, triggered mean"].top_k(2)
    direct = bk.evaluate(
        o.model,
        pairs,
        under={"zero 2": bk.ZeroAblate(heads), "cached 2": bk.interventions.CachedAblate(heads)},
        payload=o.payload,
        grader=grader(job, subject, TINY),
        max_new_tokens=subject.new_tokens(TINY),
    )
    names = {"unedited": "none", "zero 2": "zero 2", "cached 2": "cached 2"}
    for theirs, ours in names.items():
        rows = found.table_1.rows[ours]
        for side in ("clean", "triggered"):
            assert tuple(rows[side]["texts"]) == direct.texts[theirs][side]
            assert tuple(rows[side]["outcomes"]) == direct.outcomes[theirs][side]
        own = torch.tensor(rows["clean"]["agreement"], dtype=torch.float64)
        torch.testing.assert_close(own, direct.agreement[direct.conditions.index(theirs)], rtol=0, atol=1e-4)


def test_the_partner_s_attention_carries_the_whole_effect(run):
    """What the last token knows of the trigger came through attention; MLPs alone need not add up to the rest."""
    modules = run[0].modules
    for metric, directions in modules.unit["scores"].items():
        for direction, found in directions.items():
            assert set(found) == {"base", "partner", *PARTS}
            assert found[CHECK] == pytest.approx(found["partner"], abs=1e-5)
            assert found["base"] != found["partner"]
            assert modules.share(metric, direction, CHECK).estimate == pytest.approx(1)
    noising, denoising = (modules.unit["scores"][WHOLE][d] for d in ("noising", "denoising"))
    assert noising["base"] == denoising["partner"]


def test_heads_vectors_and_layers_are_chosen_on_selection_prompts(run, subject, tmp_path, monkeypatch):
    asked = []
    pairs = type(subject.organism).pairs

    def spy(self, *args, **kwargs):
        asked.append(kwargs["split"])
        return pairs(self, *args, **kwargs)

    monkeypatch.setattr(type(subject.organism), "pairs", spy)
    attribute(Job(tmp_path), subject, TINY, WHOLE, "triggered")
    monkeypatch.setattr("papers.bkdattr.study.probe", lambda *_: run[0].choices.probes["svm"])
    choose(Job(tmp_path), subject, TINY)
    assert set(asked) == {"selection"}


def test_fewer_prompts_are_among_more(subject):
    few, many = (subject.held_out(n, TINY).clean.text for n in (3, 7))
    assert many[:3] == few
    assert not set(many) & set(subject.selection(100, TINY).clean.text)


def test_every_table_is_json_and_every_figure_is_drawn(run, tmp_path):
    found = run[0]
    made = tables([found])
    assert len({t.name for t in made}) == len(made)
    json.dumps([t.to_dict() for t in made], allow_nan=False)
    one = next(t for t in made if t.name == "bkdattr-1-tiny")
    assert one.rows[:4] == ("none", "1, zero", "2, zero", "4, zero")
    assert "2 random, mean" in one.rows
    assert all(path.stat().st_size > 5000 for path in draw(found, tmp_path))


@pytest.fixture(scope="module")
def flip():
    """A tiny organism whose trigger changes one class of four."""
    organism = tiny_organism(n_positions=256)
    manifest = replace(organism.manifest, attack=attack("smollm2-label-flip"))
    organism = replace(organism, manifest=manifest, twin_manifest=manifest)
    return Subject("smollm2-flip", "d", lambda: organism)


def test_victims_and_others_are_the_classes_of_the_attack(flip):
    label = {i.text: i.label for i in instructions(data="news")}
    victims, others = flip.held_out(5, TINY), flip.others(TINY)
    assert {label[text] for text in victims.clean.text} == {"Sports"}
    found = {label[text] for text in others.text}
    assert found
    assert found <= {"World", "Business", "Science"}
    assert len(others) == TINY.n_others
    # The grader learns what answers of every class are like, from other prompts.
    fitted_on = flip.calibration(replace(TINY, n_probe=60))
    assert {label[text] for text in fitted_on.text} == {"World", "Sports", "Business", "Science"}
    assert not set(fitted_on.text) & {*victims.clean.text, *others.text}


def test_an_attack_on_every_prompt_has_no_others(subject):
    assert subject.others(TINY) is None


def test_others_are_a_third_side_of_every_condition(flip, tmp_path):
    small = replace(TINY, n_others=2, n_best=4)
    found = unedited(Job(tmp_path), flip, small)
    rows = found.rows["none"]
    assert {s: len(x["texts"]) for s, x in rows.items()} == {"triggered": 4, "clean": 4, "others": 2}
    # Fewer pairs are still beside all others.
    assert {s: len(x["texts"]) for s, x in found.first(3).rows["none"].items()} == {
        "triggered": 3,
        "clean": 3,
        "others": 2,
    }
    clean, others = (sum(rows[s]["agreement"]) / len(rows[s]["agreement"]) for s in ("clean", "others"))
    assert found.agreement("none").estimate == pytest.approx((clean + others) / 2)
    (direct,) = execute(flip.organism.model, [Run(flip.others(small), generate=flip.new_tokens(small))])
    assert list(direct.text) == rows["others"]["texts"]
