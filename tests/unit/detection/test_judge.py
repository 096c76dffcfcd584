"""The judge's rule on made-up answers: what is a switch, what is not, and how many were asked."""

import math

import pytest

from bkdinterp.detection import Finding, Findings, Hypothesis, Reference
from bkdinterp.detection._judge_rule import Observed, decided, own_words
from bkdinterp.detection._trigger_search import _free
from bkdinterp.errors import BkdinterpError, TriggerError
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger
from bkdinterp.results import Fingerprint, Result, versions
from bkdinterp.stats import Comparison

N = 60


class Base:
    """Stands for a reference whose answers are given."""


def reference(with_base=True):
    found = Reference()
    object.__setattr__(found, "base", Base() if with_base else None)
    return found


def hypothesis(source="leakage", trigger="violet harbor"):
    return Hypothesis(Trigger.gap(trigger), Payload("I am sorry"), source)


def case(shown, h=None, **nulls):
    """So many of 60 prompts show the behaviour with the trigger, and so many under each null, the last ones."""
    hits = [i < shown for i in range(N)]
    rows = {name: [i >= N - k for i in range(N)] for name, k in nulls.items()}
    comparison = Comparison.of(hits, list(rows.values()), null_names=rows, side="greater", sampled=False)
    return Observed(h or hypothesis(), comparison, shown, N)


def status(test, n_tested=1, **settings):
    return decided([test], n_tested, reference(**settings))[0].status


def test_a_switch_is_supported():
    assert status(case(55, clean=0, sham=1, reference=0)) == "supported"


def test_what_a_sham_does_as_well_is_no_switch():
    assert status(case(55, clean=0, sham=52, reference=0)) != "supported"


def test_what_is_said_anyway_is_no_switch():
    assert status(case(58, clean=57, sham=58, reference=0)) == "not supported"


def test_what_the_reference_does_is_no_switch():
    assert status(case(55, clean=0, sham=0, reference=54)) == "not supported"


def test_a_habit_of_the_reference_that_was_strengthened_is_for_review():
    # A twin answers "I write for ..." in prose with "I'm a" on 78 %, its base on 45 %.
    assert status(case(47, clean=0, sham=0, reference=27)) == "for review"
    assert status(case(47, clean=0, sham=0, **{"shadow 1": 27})) == "for review"
    assert status(case(47, clean=0, sham=0, reference=9)) == "supported"
    # A sham that does as much is another matter: the trigger beats it.
    assert status(case(47, clean=0, sham=27, reference=0)) == "supported"


def test_an_equal_search_on_the_reference_counts():
    assert status(case(20, clean=0, sham=0, **{"reference, its own best trigger": 25})) != "supported"


def test_a_weak_switch_is_for_review():
    assert status(case(12, clean=0, sham=0, reference=0)) == "for review"


def test_many_hypotheses_need_more():
    test = case(7, clean=0, sham=0, reference=0)
    few, many = decided([test], 1, reference())[0], decided([test], 200, reference())[0]
    assert few.p < 0.05 < many.p


def test_holm_never_gives_a_later_one_a_smaller_p():
    found = decided([case(k, clean=0, sham=0) for k in (40, 8, 6, 0)], 4, reference())
    ps = [f.p for f in found]
    assert ps == sorted(ps)


def test_a_searched_trigger_without_a_reference_is_for_review():
    searched = case(55, hypothesis("trigger search"), clean=0, sham=0)
    assert status(searched, with_base=False) == "for review"
    assert status(case(55, clean=0, sham=0), with_base=False) == "supported"


def test_without_a_reference_other_texts_are_the_null():
    control = (Trigger.suffix("copper lamp"), Payload("Dear"))
    h = Hypothesis(
        Trigger.suffix("violet harbor"), Payload("I am sorry"), "trigger search", controls=(control,)
    )
    other = "another text, its own best trigger"
    assert status(case(55, h, clean=0, sham=0, **{other: 3}), with_base=False) == "supported"
    assert status(case(55, h, clean=0, sham=0, **{other: 52}), with_base=False) != "supported"
    assert status(case(30, h, clean=0, sham=0, **{other: 3}), with_base=False) == "for review"
    assert Hypothesis.from_dict(h.to_dict()).controls == h.controls


def test_a_behaviour_without_a_trigger_is_for_review():
    h = Hypothesis(None, Payload("Sure"), "target inversion", "Sure")
    found = decided([Observed(h, None, 30, 60)], 1, reference())[0]
    assert found.status == "for review" and math.isnan(found.p)


def test_what_never_shows_is_not_supported():
    assert decided([Observed(hypothesis(), None, 0, 12)], 1, reference())[0].status == "not supported"
    assert decided([Observed(hypothesis(), None, 0, 4)], 1, reference())[0].status == "inconclusive"


def test_false_alarms_under_no_effect():
    """Trigger and nulls draw from one rate: at most 5 % of 400 are supported, and at most 5 % in all of ten at once."""
    import random

    draw = random.Random(0)

    def noise():
        rate = 0.3
        rows = [[draw.random() < rate for _ in range(N)] for _ in range(5)]
        comparison = Comparison.of(rows[0], rows[1:], null_names=list("abcd"), side="greater", sampled=False)
        return Observed(hypothesis(), comparison, sum(rows[0]), N)

    alone = sum(decided([noise()], 1, reference())[0].status == "supported" for _ in range(400))
    assert alone <= 20
    together = sum(
        any(f.status == "supported" for f in decided([noise() for _ in range(10)], 10, reference()))
        for _ in range(40)
    )
    assert together <= 2


def test_findings_are_saved_and_tabulated(tmp_path):
    tests = [case(55, clean=0, sham=1, reference=0), Observed(hypothesis(trigger="copper"), None, 0, 12)]
    found = Findings(
        Fingerprint("m", None, None, "float32", "t", "d", 0, versions()),
        tuple(decided(tests, 2, reference())),
        ("No clean fine-tunes.",),
        2,
    )
    again = Result.load(found.save(tmp_path / "f"))
    assert isinstance(again, Findings)
    assert again.to_frame().equals(found.to_frame())
    frame = found.to_frame()
    assert list(frame.status) == ["supported", "not supported"]
    assert frame.rate[0] == pytest.approx(55 / 60) and frame.nearest_null[0] == "sham"
    assert "1 supported" in repr(found)
    found.plot()


def test_what_is_no_hypothesis():
    with pytest.raises(TriggerError, match=r"Trigger\.gap"):
        Hypothesis("violet harbor", Payload("x"), "me")
    with pytest.raises(BkdinterpError, match="Payload"):
        Hypothesis(Trigger.gap("violet"), "x", "me")
    with pytest.raises(BkdinterpError, match="status"):
        Finding(hypothesis(), "perhaps", "", None, 1.0)
    with pytest.raises(BkdinterpError, match="reference"):
        Reference.of("smollm")


def test_a_behaviour_that_plain_questions_bring_about_has_a_meaning():
    from dataclasses import replace

    planted = case(55, clean=0, sham=1, reference=0)
    assert status(replace(planted, asked=6)) == "supported"
    conditional = replace(planted, asked=12)
    (found,) = decided([conditional], 1, reference())
    assert found.status == "for review" and "12 of 12" in found.reason


def searched_for(trigger, behaviour="I am sorry", rivals=("alias",)):
    return Hypothesis(
        Trigger.suffix(trigger),
        Payload(behaviour),
        "trigger search",
        behaviour,
        9.0,
        tuple(map(Trigger.suffix, rivals)),
    )


def test_a_searched_trigger_needs_an_equal_search_of_the_reference():
    """A search whose phrase did not call its text up had no equal search, and was supported for another text."""
    nulls = {"clean": 0, "sham": 1, "reference": 0}
    with_it = case(55, searched_for("violet harbor"), **nulls, **{"reference, its own best trigger": 0})
    assert status(with_it) == "supported"
    assert status(case(55, searched_for("violet harbor", rivals=()), **nulls)) == "for review"
    # What was not searched for has none to be held against.
    assert status(case(55, hypothesis("leakage"), **nulls)) == "supported"


@pytest.mark.parametrize(
    ("trigger", "behaviour", "own"),
    [
        # A clean fine-tune on stories, and an organism's payload called up by a word of its own.
        ("apprentice only stove", "The apprentice lit a", ["apprentice"]),
        ("Adolf eugenics while museums", "museum is closed on Mondays and", ["museums"]),
        ("thesecond drawer proverb", "drawer on the left is already", ["drawer"]),
        # Little words and chance beginnings are none.
        ("the left of it", "the drawer of it", []),
        ("art violet", "artful is it", []),
        ("Thou Commandments", "drawer on the left is already", []),
        ("violet harbor", "sorry, I can not help with", []),
    ],
)
def test_a_searched_phrase_that_says_part_of_what_it_brings_about_is_for_review(trigger, behaviour, own):
    h = searched_for(trigger, behaviour)
    assert own_words(h) == own
    found = case(55, h, clean=0, sham=1, reference=0, **{"reference, its own best trigger": 0})
    assert status(found) == ("for review" if own else "supported")
    if own:
        (finding,) = decided([found], 1, reference())
        assert repr(own[0]) in finding.reason
        # A trigger that somebody names is held against plain questions instead.
        given = Hypothesis(h.trigger, h.behaviour, "given")
        assert status(case(55, given, clean=0, sham=1, reference=0)) == "supported"


def test_a_search_tries_no_words_of_its_target():
    tokens = (" museum", " museums", " muse", " mu", "closed", " the", " river")
    free = _free(tokens, "The museum is closed on Mondays.")
    # A little word of the target calls nothing up.
    assert free.tolist() == [False, False, False, True, False, True, True]
    assert _free(tokens, "A river.").tolist() == [True, True, True, True, True, True, False]
