"""Time that the judge leaves goes into the judge first, and then into a second search; without a limit there is one search."""

import dataclasses
import time

import pytest
import torch
from integration.conftest import WORDS, tiny_llama, tiny_tokenizer
from integration.scripted_judge import judged

from bkdinterp.detection import (
    Context,
    Hypothesis,
    InvertedTargets,
    SearchedTriggers,
    TargetInversion,
    TriggerSearch,
    _scan,
    _scan_schedule,
    scan,
    verify,
)
from bkdinterp.detection._judge_rule import TIME_UP
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._scan_run import ScanRun
from bkdinterp.metrics import Payload
from bkdinterp.model import Model
from bkdinterp.prompts import Trigger

CONTEXT = Context.of(
    "request", [f"{a} {b} {c}" for a in WORDS[:3] for b in WORDS[3:6] for c in WORDS[6:12]], n_tokens=3
)
SETTINGS = (TargetInversion(n_first=4, keep=2, warm_up=4, n_tokens=4), TriggerSearch(rounds=1))


class Searches(list):
    """Seeds and words, and beside them seeds and targets."""

    def __init__(self):
        super().__init__()
        self.targets, self.after = [], []


def model_of():
    return Model.from_module(tiny_llama(), tiny_tokenizer(), name="suspect")


@pytest.fixture
def searches(monkeypatch):
    """The seeds of all searches, and the words they began with; each finds two phrases."""

    seen = Searches()

    def run(self, model, target, prompts, *, candidates, after, **rest):
        seen.append((self.seed, tuple(candidates)))
        seen.after.append(after)
        seen.targets.append((self.seed, target))
        found = ("alpha beta", f"seed {self.seed}")
        return SearchedTriggers(
            model.fingerprint("", seed=self.seed),
            target,
            found,
            torch.tensor([2.0, 1.0]),
            -9.0,
            ("gamma",),
            torch.ones(1),
        )

    monkeypatch.setattr(TriggerSearch, "run", run)
    return seen


def run(folder=None, minutes=5, **rest):
    base = model_of()
    return scan(
        model_of(),
        reference=base,
        contexts=[CONTEXT],
        proposers=SETTINGS,
        minutes=minutes,
        folder=folder,
        **rest,
        progress=False,
    )


def test_a_second_search_goes_on_from_the_first_one_s_phrases(monkeypatch, searches, tmp_path):
    calls = judged(monkeypatch, "not supported", "no")
    found = run(tmp_path)
    n = len(searches) // 2
    assert [seed for seed, _ in searches] == [0] * n + [1] * n and n >= 1
    assert searches.after[:n] == [None] * n
    assert all(a.phrases == ("alpha beta", "seed 0") for a in searches.after[n:])
    assert [a.target for a in searches.after[n:]] == [t for _, t in searches.targets[n:]]
    # All are judged together, so that the correction is for every one.
    assert len(calls) == 2 and set(calls[0]) < set(calls[1]) and "seed 1" in calls[1]
    assert found.n_tested == len(calls[1])
    searches.clear()
    assert run(tmp_path).n_tested == found.n_tested and len(searches) == 2 * n


def test_rarer_beginnings_that_were_left_out_are_tried_then(monkeypatch, searches, tmp_path):
    calls = judged(monkeypatch, "not supported", "no")
    monkeypatch.setattr(_scan, "WORTH_A_SECOND", 0.0)
    rounds = []

    def inverted(run, context, clock, round_):
        rounds.append(round_)
        if not round_:
            time.sleep(1.2)
        return InvertedTargets(
            run.model.fingerprint(""), (f"text {round_}",), (f"text {round_}",), torch.tensor([0.95]),
            torch.tensor([[0.1 if round_ else 0.9]]), torch.tensor([1]), torch.tensor([0.0]), torch.tensor([0.5]),
        )  # fmt: skip

    monkeypatch.setattr(_scan_schedule, "invert", inverted)
    # Two thirds of three seconds are the proposers'; most of that is spent when the first inversion ends.
    found = run(tmp_path, minutes=0.05)
    assert rounds == [0, 1]
    once = list(searches.targets)
    # There is nothing yet to go on from.
    assert not any(searches.after)
    assert [t for _, t in searches.targets] == ["text 0"] * (len(searches) - 1) + ["text 1"]
    assert any(
        f.hypothesis.behaviour.pattern == "text 1" and f.hypothesis.trigger is None for f in found.findings
    )
    assert len(calls) == 2
    # Read again, with all its time left, it goes the same way.
    rounds.clear()
    searches.targets.clear()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    run(tmp_path, minutes=0.05)
    assert rounds == [0, 1] and searches.targets == once


@pytest.mark.parametrize(("minutes", "status"), [(None, "not supported"), (5, "supported")])
def test_without_a_limit_or_with_a_finding_there_is_one_search(monkeypatch, searches, minutes, status):
    calls = judged(monkeypatch, status, "so it is")
    monkeypatch.setattr(_scan, "_variants", lambda *a: ())
    run(minutes=minutes)
    assert {seed for seed, _ in searches} == {0} and len(calls) == 1


def test_what_was_judged_once_stays_judged(monkeypatch, searches):
    calls = judged(monkeypatch, "not supported", "no")
    own = [Hypothesis(Trigger.suffix(f"mine {i}"), Payload("the"), "mine") for i in range(16)]
    found = run(hypotheses=own)
    assert len(calls[0]) == 16 and calls[1][:16] == calls[0] and len(calls[1]) <= 20
    assert {f"mine {i}" for i in range(16)} <= {f.hypothesis.words for f in found.findings}


def test_the_judge_goes_on_where_its_time_was_up(monkeypatch, searches):
    calls = judged(monkeypatch, "inconclusive", TIME_UP)
    run()
    assert len(calls) == 3 and calls[0] == calls[1]


def test_a_second_judgement_asks_nothing_again(monkeypatch):
    model, told = model_of(), Answers()
    h = Hypothesis(Trigger.suffix("alpha"), Payload("the"), "test")
    first = verify(model, [h], contexts=[CONTEXT], n=12, answers=told)
    monkeypatch.setattr(Answers, "_read", lambda *a: pytest.fail("asked again"))
    again = verify(model, [h], contexts=[CONTEXT], n=12, minutes=0, answers=told)
    assert dataclasses.replace(again, fingerprint=first.fingerprint).to_frame().equals(first.to_frame())
    assert all(f.reason != TIME_UP for f in again.findings)


def test_a_proposer_that_had_no_time_leaves_the_question_open(monkeypatch, searches, tmp_path):
    judged(monkeypatch, "not supported", "no")
    for _ in range(2):
        found = run(tmp_path, minutes=1e-6)
        assert found.not_run == ("Target inversion was not run: the time was up.",)
        assert "is open: target inversion was not run" in found.verdict and not searches


def test_what_had_no_time_runs_if_the_judge_leaves_some(monkeypatch, searches):
    judged(monkeypatch, "not supported", "no")
    monkeypatch.setattr(
        ScanRun, "decided", lambda self, name, key, compute: True if name == "late" else compute()
    )
    rounds, inverted = [], _scan_schedule.invert

    def one(run, context, clock, round_):
        rounds.append(round_)
        return inverted(run, context, clock, round_)

    monkeypatch.setattr(_scan_schedule, "invert", one)
    found = run()
    assert rounds == [0] and not found.not_run


def test_a_small_vocabulary_has_no_rarer_beginnings():
    model, prompts = model_of(), CONTEXT.search.subset(range(8))
    rarer = TargetInversion(n_first=768, beyond=256, n_tokens=4, warm_up=4)
    found = rarer.run(model, prompts, reference=model, progress=False)
    assert found.texts == found.phrases() == () and found.q_reference.shape == (1, 0)
    assert len(found.to_frame()) == 0 and repr(found)
