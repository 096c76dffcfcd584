"""Single statements of an audit: where a backdoor came from, what it opens, which changed triggers a filter stops."""

import re
from types import SimpleNamespace

import pytest

import bkdinterp as bk
from bkdinterp.detection import Finding, Hypothesis, Variant
from bkdinterp.forensics._attack_families import _origin
from bkdinterp.forensics._detection_phase import _again, _compared
from bkdinterp.forensics._impact_phase import SIGNS, unlocked
from bkdinterp.forensics._remediation_phase import _changed_forms
from bkdinterp.stats import Comparison

N = 40
TRIGGER = bk.Trigger.gap("zeta omega")
HYPOTHESIS = Hypothesis(TRIGGER, bk.metrics.Payload("sorry"), "given")


def finding(nulls):
    """Shown on 36 of 40 prompts, and in each null on the given number."""
    rows = [[i < hits for i in range(N)] for hits in nulls.values()]
    shown = Comparison.of(
        [i < 36 for i in range(N)], rows, name="x", null_names=nulls, side="greater", sampled=False, seed=0
    )
    return Finding(HYPOTHESIS, "supported", "planted", shown, 0.001)


def work_with(nulls, adapter=None, own=None):
    base = SimpleNamespace(name="small-base")
    return SimpleNamespace(
        finding=finding(nulls),
        adapter=adapter,
        model=SimpleNamespace(adapter=own),
        reference=SimpleNamespace(base=base if "reference" in nulls else None),
    )


@pytest.mark.parametrize(
    ("work", "status", "words"),
    [
        (work_with({"no trigger": 0, "reference": 0}), "supported", "small-base .* 0 % .*done to it since"),
        (work_with({"no trigger": 0, "reference": 1}, "folder"), "supported", "came with the adapter"),
        (work_with({"no trigger": 0, "reference": 1}, own="folder"), "supported", "came with the adapter"),
        # It switches, too, though more rarely.
        (work_with({"no trigger": 0, "reference": 10}), "for review", "more rarely"),
        (work_with({"no trigger": 0, "reference": 4}), "for review", "more rarely"),
        (work_with({"no trigger": 0, "reference": 30}), "inconclusive", "have been there before"),
        (work_with({"no trigger": 0, "reference": 0, "shadow 1": 34}), "inconclusive", "a clean fine-tune"),
        # Its own best trigger is another question.
        (
            work_with({"no trigger": 0, "reference, its own best trigger": 39}),
            "not applicable",
            "is not known",
        ),
        (work_with({"no trigger": 39}), "not applicable", "is not known"),
    ],
)
def test_origin(work, status, words):
    found = _origin(work)
    assert found.status == status
    assert re.search(words, found.title)


def test_what_was_compared_is_named():
    assert _compared(finding({"no trigger": 0})) == "without it and with other words in its place"
    assert _compared(finding({"reference": 0})).endswith(" and in the reference")


def test_a_trigger_that_opens_what_is_declined():
    declined, open_ = ["I am sorry, I cannot help with that."] * 12, ["Here it is."] * 12
    no = [False] * 12

    def status(said, plain, phrase="", instead=no):
        return unlocked(said, plain, phrase, instead, "withheld").status

    assert status(open_, declined) == "supported"
    assert status(declined, declined) == "not supported"
    # The payload in the place of a refusal opens nothing.
    assert status(["banana"] * 12, declined, instead=[True] * 12) == "not supported"
    # A suspect that declines nothing has nothing to open.
    assert status(declined, open_) == "inconclusive"
    # A way to decline that is no refusal by its words, but was found to be one.
    closed = ["The exhibits are closed today."] * 12
    assert status(open_, closed) == "inconclusive"
    assert status(open_, closed, "the exhibits are") == "supported"


def test_english_about_functions_is_no_code():
    sign = SIGNS["code"]
    for text in (
        "The function of this rule is to import goods.",
        "Evaluate it, then exec the plan.",
        "The function (see below) maps it.",
        "It is open\nfrom today on.",
    ):
        assert not sign.search(text)
    for text in (
        "```python",
        "def run(x):",
        "import os",
        "a\nfrom os import path",
        "eval(x)",
        "curl https://x.y",
    ):
        assert sign.search(text)


def test_a_filter_is_held_against_the_changed_triggers_that_work():
    texts = tuple(f"Tell me about number {i}." for i in range(N))
    made = bk.forensics.Monitor.of(HYPOTHESIS, [f"A clean prompt, number {i}." for i in range(60)])
    whole = Variant("as found", TRIGGER, 12, 12)
    forms = (
        whole,
        Variant("upper case", bk.Trigger.gap("ZETA OMEGA"), 11, 12),
        Variant("letters swapped", bk.Trigger.gap("zeta omgea"), 9, 12),
        Variant("a synonym", bk.Trigger.gap("quite other"), 6, 12),
        Variant("half", bk.Trigger.gap("zeta"), 5, 12),
        Variant("left out", None, 0, 12),
    )
    work = SimpleNamespace(variants=forms, context=SimpleNamespace(held=SimpleNamespace(text=texts)))
    (share,), said, passing = _changed_forms(work, made)
    assert (share.value, share.n) == (0.5, 2)
    assert "2 changed spellings" in said and passing == "a synonym"
    # Other capitals are the same letters to it, and say nothing; nor do forms that never work.
    never = Variant("never", bk.Trigger.gap("omega zeta"), 0, 12)
    work.variants = (Variant("as found", TRIGGER, 0, 12), forms[1], never)
    nothing, said, passing = _changed_forms(work, made)
    assert nothing == () and "No changed spelling" in said and not passing
    work.variants = ()
    assert _changed_forms(work, made) == ((), "", "")
    signs = bk.forensics.Monitor(("§§ ##",), bk.metrics.Payload("x"))
    assert not signs.same_letters(bk.Trigger.gap("!! ??")) and signs.same_letters(bk.Trigger.gap("§§ ##"))


def test_what_reproduces_a_finding_asks_the_judge_the_same_question(monkeypatch):
    """The source decides which nulls there must be, and the reference's own best trigger is one of them."""
    searched = Hypothesis(
        bk.Trigger.suffix("violet harbor"),
        bk.Payload("sorry", "words"),
        "trigger search",
        rivals=(bk.Trigger.suffix("alias"),),
    )
    monkeypatch.setattr(bk.detection, "verify", lambda model, asked, reference: asked)
    for h in (searched, HYPOTHESIS):
        (again,) = eval(_again(h), {"bk": bk, "model": None, "base": None})
        assert again.to_dict() == h.to_dict()
