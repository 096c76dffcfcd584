"""The minutes of an audit, on a clock that only forward passes and renderings move: every phase keeps them and says what it left out."""

import dataclasses
import time
from types import SimpleNamespace

import pytest
from integration import planted_detection
from integration.test_audit import PROMPTS, TEMPLATE, suspect

import bkdinterp as bk
from bkdinterp.detection import _clock, _kept_answers
from bkdinterp.detection._clock import Clock
from bkdinterp.engine import _cost
from bkdinterp.forensics import _audit, _template_probes
from bkdinterp.forensics._template_triage import template_findings
from bkdinterp.forensics._time_limit import TRIAL, OutOfTime, TimeLimit

# Seconds of a token in a forward pass.
RATE = 0.01


@pytest.fixture
def now(monkeypatch):
    """The only time there is, in seconds."""
    now = [0.0]
    fake = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0], sleep=time.sleep)
    for module in (_clock, _kept_answers, _cost):
        monkeypatch.setattr(module, "time", fake)
    # The passes that measure the speed of a real model would outlast a tiny one's audit.
    monkeypatch.setattr(_cost, "_PASSES", ((1, 4, 1), (2, 8, 1), (2, 8, 4)))
    monkeypatch.setitem(_audit.RUN, "detection", planted_detection.detect)
    return now


def slow(now, name="suspect", rate=RATE):
    """A model whose passes take time by their tokens."""
    model = suspect(name=name)

    def tick(module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        now[0] += rate * ids.numel()

    model.module.register_forward_pre_hook(tick, with_kwargs=True)
    return model


def look(now, minutes, **settings):
    model, base = slow(now), slow(now, "base")
    return bk.audit(model, reference=base, prompts=PROMPTS, n=16, minutes=minutes, progress=False, **settings)


FREE = []


def without_limit(now):
    """The audit that takes all the time that it needs; always the same, so made once."""
    if not FREE:
        FREE.append(look(now, None))
    return FREE[0]


def numbers(found):
    """Everything but times; settings say the minutes."""
    return [dataclasses.replace(p, seconds=0.0) for p in found.phases], found.untested


def test_enough_minutes_change_nothing(now, tmp_path):
    free = without_limit(now)
    enough = 2 * free.seconds / 60
    assert enough > 1, "the clock moves"
    found = look(now, 100 * enough, folder=tmp_path)
    assert numbers(found) == numbers(free)
    assert all(p.state == "done" for p in found.phases)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_too_few_minutes_are_kept_and_what_is_left_out_is_said(now, share):
    free = without_limit(now)
    minutes = share * free.seconds / 60
    found = look(now, minutes)
    # A piece may take longer than it seemed it would; the planted detection knows no clock.
    assert found.seconds < 60 * minutes * 1.25 + found.phase("detection").seconds
    stopped = [p for p in found.phases if p.state == "out of time"]
    left_out = [f for f in found.findings if f.status == "inconclusive" and "the audit's minutes" in f.title]
    left_out += [f for f in found.findings if "it would have taken" in f.title]
    assert all(p.state in ("done", "out of time") for p in found.phases), [p.reason for p in found.phases]
    assert stopped or left_out
    for finding in left_out:
        assert finding.title in found.untested
    for phase in stopped:
        assert "minutes" in phase.reason


def test_what_was_out_of_time_is_done_by_a_later_call(now, tmp_path):
    free = look(now, None, phases=("localisation",))
    minutes = 0.7 * free.seconds / 60
    found = look(now, minutes, folder=tmp_path, phases=("localisation",))
    assert [line for line in found.untested if "would have taken" in line or "minutes were over" in line]
    for _ in range(3):
        again = look(now, minutes, folder=tmp_path, phases=("localisation",))
        done = {p.name for p in found.phases if p.state == "done"}
        assert done <= {p.name for p in again.phases if p.state == "done"}
        found = again
    assert not [line for line in found.untested if "would have taken" in line]


def test_a_limit_takes_the_first_size_that_fits_and_what_was_refused_stays_refused(now):
    limit = TimeLimit(Clock(100 / 60), _kept_answers.Answers())
    assert limit.there and not TimeLimit(Clock(), _kept_answers.Answers()).there
    assert limit.first_that_fits("a", (8, 4, 2), lambda n: 10.0 * n, 0.5) == 4
    with pytest.raises(OutOfTime, match="about 3 min, and there were 50 s"):
        limit.first_that_fits("b", (8, 4), lambda n: 40.0 * n, 0.5)
    now[0] = -10000.0
    with pytest.raises(OutOfTime, match="about 3 min"):
        limit.first_that_fits("b", (8, 4), lambda n: 40.0 * n, 0.5)
    now[0] = 200.0
    with pytest.raises(OutOfTime, match="not begun"):
        limit.first_that_fits("c", (1,), lambda n: 0.0, 1)


def test_the_pace_follows_what_pieces_took(now):
    model = slow(now)
    limit = TimeLimit(Clock(1), _kept_answers.Answers())
    cost = _cost.Cost(1, 400, 0, 4, 0)
    before = limit.of_plan(model, cost)
    assert before == pytest.approx(400 / 4 * RATE, rel=0.5)

    def thrice():
        now[0] += 3 * before
        return "made"

    assert limit.timed(model, cost, thrice) == "made"
    assert limit.of_plan(model, cost) == pytest.approx(3 * before)


def test_a_trial_of_answers_is_made_once_and_only_without_a_pace(now):
    model = slow(now)
    answers = _kept_answers.Answers()
    limit = TimeLimit(Clock(1), answers)
    assert limit.of_answers(0, model, PROMPTS.text, 4) == 0 and now[0] == 0
    first = limit.of_answers(10, model, PROMPTS.text, 4)
    spent = now[0]
    assert first == pytest.approx(10 * spent / TRIAL) and first > 0
    assert limit.of_answers(10, model, PROMPTS.text, 4) == first and now[0] == spent
    answers.of(model, PROMPTS.text[:8], 4)
    assert limit.of_answers(10, model, PROMPTS.text, 4) == 10 * answers.pace > 0


def test_a_slow_template_is_not_rendered_for_longer_than_its_share(now, monkeypatch):
    words = [f"word{i} more{i}" for i in range(6)]
    checks = "".join(f"{{% if '{w}' in m['content'] %}}{{% endif %}}" for w in words)
    body = "{{ '<s> ' + m['role'] + ' : ' + m['content'] + ' <e> ' }}"
    template = TEMPLATE.replace(body, checks + body)
    assert template != TEMPLATE
    render = _template_probes.rendered

    def slow_render(*args, **kwargs):
        now[0] += 0.5
        return render(*args, **kwargs)

    monkeypatch.setattr(_template_probes, "rendered", slow_render)
    tokenizer = suspect().tokenizer
    (whole,), _, nothing = template_findings(tokenizer, template, TEMPLATE)
    took = now[0]
    assert whole.status == "for review" and nothing == []
    _, _, left_out = template_findings(tokenizer, template, TEMPLATE, clock=Clock(0.2 * took / 60))
    assert now[0] - took <= 0.2 * took + 4
    assert (
        "probes of the chat template were not rendered" in left_out[0] and "would have taken" in left_out[0]
    )
    # With nothing suspicious in its text, what was not rendered leaves the question open.
    harmless = template.replace("word", "<word")
    (found,), *_ = template_findings(tokenizer, harmless, TEMPLATE, clock=Clock(0.2 * took / 60))
    assert found.status == "inconclusive" and left_out[0][:2] != "0 "
