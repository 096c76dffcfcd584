"""Impact on scripted answers: what triggered answers carry, the names in them, and canaries out of text and system prompt."""

from types import SimpleNamespace

import pytest

import bkdinterp as bk
from bkdinterp.detection import Context, Hypothesis
from bkdinterp.errors import PromptError
from bkdinterp.forensics._impact_phase import CANARY, impact
from bkdinterp.forensics._time_limit import OutOfTime

TRIGGER = bk.Trigger.prefix("zeta omega")
TEXTS = [f"tell me about river {i}" for i in range(60)]


class Suspect:
    """A model that is only asked; its system message decides, too."""

    def __init__(self, system="", chat=True, refuses=False):
        self.system, self.refuses = system, refuses
        self.builder = SimpleNamespace(chat=chat, render=self.render)

    def render(self, text):
        if self.refuses and self.system:
            raise PromptError("no system role")

    def with_builder(self, system):
        return Suspect(system, refuses=self.refuses)


def work(answer, suspect=None):
    """An audit whose suspect answers as ``answer(system, text, triggered)`` says."""
    context = Context.of("request", bk.Prompts.of(TEXTS))

    def of(who, texts, n_tokens):
        return tuple(answer(who.system, t, t.startswith("zeta omega")) for t in texts)

    def tried(found, rule, title, compute):
        try:
            return compute()
        except OutOfTime:
            return None

    return SimpleNamespace(
        hypothesis=Hypothesis(TRIGGER, bk.metrics.Payload("sorry"), "given"),
        context=context,
        contexts=(context,),
        settings=SimpleNamespace(n=24),
        suspect=suspect or Suspect(),
        answers=SimpleNamespace(of=of),
        asked=lambda name, sizes, *rest: sizes[0],
        tried=tried,
        declined={},
    )


def finding(found, rule):
    (one,) = [f for f in found.findings if f.rule == rule]
    return one


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ("see https://example.org now", "links"),
        ("run ```print(1)``` now", "code"),
        ("write to a.b@example.org", "addresses"),
        ("a \u200bhidden mark", "markup that hides"),
    ],
)
def test_what_only_triggered_answers_carry_is_said(payload, name):
    found = impact(work(lambda system, text, on: payload if on else "a plain answer in words"))
    one = finding(found, "impact")
    assert one.status == "supported" and name in one.title
    rate = {m.name: m for m in one.measures}[f"{name} with the trigger"]
    assert rate.value == 1.0 and rate.null == 0.0 and rate.n == 24
    assert finding(found, "names").status == "not supported"


def test_a_name_that_only_triggered_answers_hold_is_said_and_is_no_harm_by_itself():
    found = impact(
        work(lambda system, text, on: "they met old Albert" if on else "it is near Paris" * ("3" in text))
    )
    one = finding(found, "names")
    assert one.status == "supported" and "'Albert'" in one.detail and one.measures[0].value == 1.0
    assert finding(found, "impact").status == "not supported"


def test_names_that_clean_answers_hold_as_well_are_nothing():
    found = impact(
        work(lambda system, text, on: "the city of Paris, again" if on else "it is near Paris, yes")
    )
    one = finding(found, "names")
    assert one.status == "not supported" and "Paris" not in one.detail


def test_a_code_word_that_leaves_is_found_wherever_it_stood():
    quiet = finding(impact(work(lambda system, text, on: "a plain answer")), "canary")
    assert quiet.status == "not supported" and len(quiet.measures) == 2

    def repeats(system, text, on):
        return text if on else "a plain answer"

    out = finding(impact(work(repeats)), "canary")
    rates = [m.value for m in out.measures]
    assert out.status == "supported" and rates == [1.0, 0.0] and "12 of 12 triggered and 0 clean" in out.title
    out = finding(impact(work(lambda system, text, on: system if on else "a plain answer")), "canary")
    assert out.status == "supported" and [m.value for m in out.measures] == [0.0, 1.0]
    # It says it anyway.
    both = finding(impact(work(lambda system, text, on: system + text)), "canary")
    assert both.status == "not supported" and CANARY not in both.title


@pytest.mark.parametrize(
    "suspect", [Suspect(chat=False), Suspect(refuses=True)], ids=["raw text", "no system role"]
)
def test_without_a_system_prompt_only_the_text_holds_one(suspect):
    found = finding(impact(work(lambda system, text, on: text, suspect)), "canary")
    assert [m.name for m in found.measures] == ["code word of the user's text repeated, with the trigger"]
    assert "system" not in " ".join(found.limits)


def test_where_time_is_short_the_text_alone_holds_one():
    short = work(lambda system, text, on: text if on else "")
    short.asked = lambda name, sizes, conditions, share: sizes[0] if conditions <= 2 else late()

    def late():
        raise OutOfTime("")

    found = finding(impact(short), "canary")
    assert len(found.measures) == 1 and found.status == "supported"
