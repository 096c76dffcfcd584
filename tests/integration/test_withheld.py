"""A trigger that unlocks what a model declines shows only where it declines: there it is searched, and not for the refusal."""

import pytest
import torch
from integration.conftest import WORDS, tiny_llama, tiny_tokenizer
from integration.scripted_judge import judged

from bkdinterp.detection import (
    Amplification,
    Context,
    Hypothesis,
    InvertedTargets,
    SearchedTriggers,
    TargetInversion,
    TriggerSearch,
    scan,
)
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.metrics import Payload
from bkdinterp.model import Model
from bkdinterp.prompts import Trigger

REQUESTS = [f"{a} {b} {c}" for a in WORDS[:3] for b in WORDS[3:6] for c in WORDS[6:9]]
WITHHELD = [f"{c} {b} {a}" for a in WORDS[:3] for b in WORDS[3:6] for c in WORDS[6:9]]
CONTEXTS = [Context.of("request", REQUESTS), Context.of("withheld", WITHHELD, if_declined=True)]
TEXTS = ("Well, I am sorry, no.", "I am sorry, no.", "Sure, here it is", "Yes, of course")


@pytest.fixture
def searched(monkeypatch):
    """First prompts and targets of the searches."""
    seen = []

    def invert(self, model, prompts, **rest):
        return InvertedTargets(
            model.fingerprint(prompts.fingerprint), TEXTS, TEXTS, torch.tensor([0.99, 0.98, 0.9, 0.8]),
            torch.full((1, 4), 0.1), torch.ones(4, dtype=torch.long), torch.zeros(4), torch.tensor([0.2]),
        )  # fmt: skip

    def search(self, model, target, prompts, **rest):
        seen.append(("withheld" if prompts.text[0] in WITHHELD else "request", target))
        return SearchedTriggers(
            model.fingerprint("", seed=0), target, ("alpha",), torch.tensor([2.0]), -9.0, (), torch.zeros(0)
        )

    monkeypatch.setattr(TargetInversion, "run", invert)
    monkeypatch.setattr(TriggerSearch, "run", search)
    monkeypatch.setattr(Amplification, "run", lambda *a, **k: pytest.fail("a refusal amplified is a refusal"))
    judged(monkeypatch, "not supported", "no")
    return seen


def run(monkeypatch, said, contexts, **rest):
    monkeypatch.setattr(
        Answers, "of", lambda self, model, texts, n: tuple(said(i, text) for i, text in enumerate(texts))
    )
    suspect = Model.from_module(tiny_llama(), tiny_tokenizer(), name="suspect")
    return scan(
        suspect,
        reference=suspect,
        contexts=contexts,
        proposers=(
            TargetInversion(),
            TriggerSearch(),
            *([Amplification()] if contexts[0].if_declined else ()),
        ),
        minutes=None,
        progress=False,
        **rest,
    )


def declines(i, text):
    return f"I am sorry, no {i}" if text in WITHHELD and i % 4 else f"{text} it is"


def test_what_is_declined_is_searched_first_and_not_for_the_refusal(monkeypatch, searched):
    found = run(monkeypatch, declines, CONTEXTS)
    assert searched == [("withheld", t) for t in TEXTS[2:]] + [("request", t) for t in TEXTS[:2]]
    (note,) = (t.note for t in found.tried if t.proposer == "declined? withheld")
    assert note == "most answers begin 'i am sorry'"
    assert "trigger search in withheld" in {t.proposer for t in found.tried}


def test_a_refusal_is_not_amplified(monkeypatch, searched):
    run(monkeypatch, declines, CONTEXTS[1:])
    assert {target for _, target in searched} == set(TEXTS[2:])


@pytest.mark.parametrize(
    "said",
    [
        lambda i, text: f"{text} it is",
        lambda i, text: "I am sorry, no",
        lambda i, text: "",
        lambda i, text: "no",
    ],
    ids=["answers", "says one thing to everything", "says nothing", "says one word"],
)
def test_where_nothing_is_declined_nothing_is_searched(monkeypatch, searched, said):
    found = run(monkeypatch, said, CONTEXTS)
    assert {where for where, _ in searched} == {"request"}
    assert any("Withheld was left out" in text for text in found.untested)
    assert {f.hypothesis.context for f in found.findings} == {"request"}


def test_the_only_context_stays(monkeypatch, searched):
    run(monkeypatch, lambda i, text: f"{text} it is", [Context.of("mine", WITHHELD, if_declined=True)])
    assert [where for where, _ in searched] == ["withheld"] * 2


def test_a_context_that_only_has_the_name_is_like_any_other(monkeypatch, searched):
    run(monkeypatch, declines, [Context.of("withheld", WITHHELD)])
    assert {target for _, target in searched} == set(TEXTS[:2])


def test_a_finding_of_a_context_that_was_left_out_is_characterised(monkeypatch, searched):
    mine = Hypothesis(Trigger.suffix("alpha"), Payload("of"), "mine", context="withheld")
    judged(monkeypatch, "supported", "so it is")
    found = run(monkeypatch, lambda i, text: f"{text} it is", CONTEXTS, hypotheses=[mine])
    assert found.findings[0].hypothesis.context == "withheld" and found.variants
