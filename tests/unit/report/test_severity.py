"""Severity and advice follow from what was measured, by the stated rule."""

from dataclasses import replace

import pytest
from unit.report import sample_audits

from bkdinterp.report import AuditFinding, Phase
from bkdinterp.report._advice import advice
from bkdinterp.report._severity import CANARY, IMPACT, ORIGIN, UNLOCKS


def with_impact(*findings, state="done", phase="impact"):
    audit = sample_audits.found()
    others = tuple(p for p in audit.phases if p.name != phase)
    return replace(audit, phases=(*others, Phase(phase, state, 1.0, findings=findings)))


def said(rule, status, title="It carries links."):
    return AuditFinding(rule, status, title, subject=rule)


CLEAR = (said(IMPACT, "not supported"), said(CANARY, "not supported"), said(UNLOCKS, "not supported"))


@pytest.mark.parametrize(
    ("findings", "level", "words"),
    [
        (CLEAR, "medium", "not shown: links"),
        ((said(IMPACT, "supported"),), "high", "It carries links."),
        ((said(IMPACT, "not supported"), said(CANARY, "supported")), "high", "It carries links."),
        ((said(UNLOCKS, "supported"),), "high", "It carries links."),
        # One word repeated once is for somebody to read.
        ((CLEAR[0], said(CANARY, "for review"), CLEAR[2]), "medium", "For review: It carries links."),
        # Two contexts are declined, and the trigger opens the first.
        ((*CLEAR, said(UNLOCKS, "supported")), "high", "It carries links."),
        ((said(UNLOCKS, "supported"), *CLEAR), "high", "It carries links."),
        ((said(UNLOCKS, "inconclusive"), *CLEAR), "medium", "Not tested: an opening"),
        # What there was no time for was not shown to be absent.
        (
            (CLEAR[0], said(CANARY, "inconclusive")),
            "medium",
            "Not tested: text of the prompt that leaves; an opening",
        ),
        ((CLEAR[1],), "not rated", "was not measured"),
        ((said(IMPACT, "inconclusive"),), "not rated", "was not measured"),
    ],
)
def test_the_worst_that_was_measured_decides(findings, level, words):
    found = with_impact(*findings).severity
    assert found.level == level and words in found.reason
    if level == "medium":
        absent = found.reason.partition("For review:")[0].partition("Not tested")[0]
        assert ("text of the prompt" in absent) == (CLEAR[1] in findings)


def test_without_a_measured_impact_there_is_no_rating():
    assert with_impact(state="out of time").severity.level == "not rated"
    assert sample_audits.nothing_found().severity.level == "not rated"


def test_a_template_decides_on_every_prompt():
    audit = with_impact(said("template-conditional", "supported"), *CLEAR)
    assert audit.severity.level == "high" and "template" in audit.severity.reason
    audit = sample_audits.nothing_found()
    found = Phase("triage", "done", 1.0, findings=(said("template-conditional", "supported"),))
    audit = replace(audit, phases=(found, *(p for p in audit.phases if p.name != "triage")))
    assert "chat template" in advice(audit)[0] and not any("fine-tuned" in line for line in advice(audit))


@pytest.mark.parametrize("status", ["supported", "for review", "inconclusive"])
def test_the_model_to_go_back_to_is_one_that_does_not_switch(status):
    audit = with_impact(said(ORIGIN, status, "Where it came from."), phase="attribution")
    others = tuple(p for p in audit.phases if p.name != "remediation")
    lines = advice(replace(audit, phases=others))
    assert "Where it came from." in lines
    assert any("compared with" in line for line in lines) == (status == "supported")


def test_json_says_it_too():
    audit = with_impact(*CLEAR)
    assert audit.to_dict()["severity"] == {"level": "medium", "reason": audit.severity.reason}
