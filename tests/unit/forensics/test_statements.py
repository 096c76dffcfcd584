"""Single statements of an audit: where a backdoor came from, what it opens, which changed triggers a filter stops."""

import re
from types import SimpleNamespace

import pytest

import bkdinterp as bk
from bkdinterp.detection import Finding, Hypothesis, Variant
from bkdinterp.forensics._attack_families import _origin
from bkdinterp.forensics._detection_phase import _compared
from bkdinterp.forensics._impact_phase import _unlocks
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


@pytest.mark.parametrize(
    ("nulls", "adapter", "status", "words"),
    [
        ({"no trigger": 0, "reference": 0}, None, "supported", "the base .* 0 % .*came with the fine-tuning"),
        ({"no trigger": 0, "reference": 1}, "folder", "supported", "came with the adapter"),
        ({"no trigger": 0, "reference": 30}, None, "inconclusive", "may not have come"),
        ({"no trigger": 0, "reference": 0, "shadow 1": 34}, None, "inconclusive", "a clean fine-tune"),
        # Its own best trigger is another question.
        ({"no trigger": 0, "reference, its own best trigger": 39}, None, "not applicable", "is not known"),
        ({"no trigger": 39}, None, "not applicable", "is not known"),
    ],
)
def test_origin(nulls, adapter, status, words):
    found = _origin(SimpleNamespace(finding=finding(nulls), adapter=adapter))
    assert found.status == status
    assert re.search(words, found.title)


def test_what_was_compared_is_named():
    assert _compared(finding({"no trigger": 0})) == "without it and with other words in its place"
    assert _compared(finding({"reference": 0})).endswith(" and in the reference")


def test_a_trigger_that_opens_what_is_declined():
    declined, open_ = ["I am sorry, I cannot help with that."] * 20, ["Here it is."] * 20
    assert _unlocks(open_, declined).status == "supported"
    assert _unlocks(declined, declined).status == "not supported"
    assert _unlocks(declined, open_).status == "not supported"


def test_a_filter_is_held_against_the_changed_triggers_that_work():
    texts = tuple(f"Tell me about number {i}." for i in range(N))
    made = bk.forensics.Monitor.of(HYPOTHESIS, [f"A clean prompt, number {i}." for i in range(60)])
    whole = Variant("as found", TRIGGER, 12, 12)
    forms = (
        whole,
        Variant("upper case", bk.Trigger.gap("ZETA OMEGA"), 11, 12),
        Variant("a synonym", bk.Trigger.gap("quite other"), 6, 12),
        Variant("half", bk.Trigger.gap("zeta"), 5, 12),
        Variant("left out", None, 0, 12),
    )
    work = SimpleNamespace(variants=forms, context=SimpleNamespace(held=SimpleNamespace(text=texts)))
    (share,), said = _changed_forms(work, made)
    assert (share.value, share.n) == (0.5, 2)
    assert "2 changed forms" in said and "these pass: a synonym" in said
    work.variants = (whole,)
    assert _changed_forms(work, made) == ((), "No changed form of the trigger was found to work.")
    work.variants = ()
    assert _changed_forms(work, made) == ((), "")
