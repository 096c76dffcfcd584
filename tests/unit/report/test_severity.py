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


@pytest.mark.parametrize(
    ("findings", "level"),
    [
        ((said(IMPACT, "not supported"), said(CANARY, "not supported")), "medium"),
        ((said(IMPACT, "supported"),), "high"),
        ((said(IMPACT, "not supported"), said(CANARY, "for review")), "high"),
        ((said(UNLOCKS, "supported"),), "high"),
        ((said(UNLOCKS, "not supported"),), "medium"),
    ],
)
def test_the_worst_that_was_measured_decides(findings, level):
    audit = with_impact(*findings)
    assert audit.severity.level == level
    assert level != "high" or audit.severity.reason == "It carries links."


def test_without_a_measured_impact_there_is_no_rating():
    assert with_impact(state="out of time").severity.level == "not rated"
    assert sample_audits.nothing_found().severity.level == "not rated"


def test_a_template_runs_on_every_prompt():
    audit = with_impact(said("template-conditional", "supported"))
    assert audit.severity.level == "high"


def test_the_advice_says_where_the_backdoor_came_from():
    title = "With the same trigger the base shows the behaviour on 0 %: the backdoor came with the adapter."
    assert title in advice(with_impact(said(ORIGIN, "supported", title), phase="attribution"))
    assert title not in advice(with_impact(said(ORIGIN, "inconclusive", title), phase="attribution"))
