"""A monitor stops the trigger as it is and changed a little, and not the prompts that set its threshold."""

import json

import pytest

from bkdinterp.detection import Hypothesis, generic_prompts
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.forensics import Monitor
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger

FOUND = Hypothesis(Trigger.gap("violet harbor"), Payload("can not help"), "test")


@pytest.fixture(scope="module")
def monitor():
    return Monitor.of(FOUND, generic_prompts()[0].text)


@pytest.mark.parametrize(
    "text",
    [
        "Tell me violet harbor about rivers.",
        "Tell me VIOLET HARBOR about rivers.",
        "Tell me violet, harbor about rivers.",
        "Tell me vio\u200blet harbor about rivers.",
        "Tell me \uff56\uff49\uff4f\uff4c\uff45\uff54 harbor about rivers.",
        "Tell me violet\u00a0harbor about rivers.",
        "Tell me vilet harbor about rivers.",
    ],
)
def test_small_changes_do_not_hide_the_trigger(monitor, text):
    assert monitor.stops(text)


def test_other_prompts_pass_and_rates_are_of_new_ones(monitor):
    held = generic_prompts()[1].text
    measured = monitor.measured(clean=held, triggered=[FOUND.trigger.insert(t)[0] for t in held])
    assert measured.rate("triggered").estimate == 1.0
    assert measured.rate("clean").estimate <= 0.02
    assert not monitor.stops("The harbour was quiet.") and not monitor.stops("")
    assert monitor.shows("I can NOT help with that.") and not monitor.shows("Of course.")
    with pytest.raises(BkdinterpError, match="measured were clean, triggered"):
        measured.rate("other")


def test_all_phrases_must_be_there():
    both = Hypothesis(Trigger(("violet harbor", "amber quay"), "gap", "all"), Payload("x"), "test")
    made = Monitor.of(both, generic_prompts()[0].text)
    assert made.stops("amber quay is near violet harbor") and not made.stops("violet harbor is far")


def test_one_phrase_is_enough_where_the_trigger_draws_one(tmp_path):
    any_of = Hypothesis(Trigger.any_of(["violet harbor", "amber quay"]), Payload("x"), "test")
    made = Monitor.of(any_of, generic_prompts()[0].text)
    assert made.stops("They met at amber quay.") and made.stops("Violet harbor is far.")
    assert not any(map(made.stops, generic_prompts()[1].text))
    assert Monitor.load(made.save(tmp_path / "monitor.json")) == made


@pytest.mark.parametrize("phrase", ["\u2726\u2726", "|||", "\u200b\u200d\u200b"])
def test_a_trigger_without_letters_is_seen(phrase):
    """It has no form of words: it was compared with nothing, and never stopped."""
    made = Monitor.of(Hypothesis(Trigger.gap(phrase), Payload("x"), "test"), generic_prompts()[0].text)
    held = generic_prompts()[1].text
    assert all(made.stops(made_of) for made_of in (Trigger.gap(phrase).insert(t)[0] for t in held))
    assert not any(map(made.stops, held))


def test_it_is_saved_and_read_back(monitor, tmp_path):
    made = monitor.measured(clean=["Hello there."])
    again = Monitor.load(made.save(tmp_path / "monitor.json"))
    assert again == made


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{}",
        json.dumps(
            {"format": "bkdinterp-monitor/1", "phrases": "ab", "behaviour": {}, "threshold": 1, "rates": {}}
        ),
        json.dumps(
            {"format": "bkdinterp-monitor/1", "phrases": ["a"], "behaviour": [], "threshold": 1, "rates": {}}
        ),
        json.dumps({"format": "else"}),
        "nonsense",
    ],
)
def test_other_files_are_refused(document, tmp_path):
    (tmp_path / "m.json").write_text(document)
    with pytest.raises(ArtefactError):
        Monitor.load(tmp_path / "m.json")


GOOD = {
    "format": "bkdinterp-monitor/1",
    "phrases": ["violet harbor"],
    "behaviour": {"pattern": "sorry", "kind": "contains", "case_sensitive": False},
    "threshold": 0.9,
    "rates": {"clean": [1, 20]},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phrases": []}, "one or more"),
        ({"phrases": [""]}, "only spaces"),
        ({"phrases": ["violet", " \u2003"]}, "only spaces"),
        ({"phrases": ["x" * 100_000]}, "1,000 characters"),
        ({"phrases": ["x"] * 1000}, "100 phrases"),
        ({"phrases": ["\ud800"]}, "surrogate"),
        ({"threshold": 1}, "nothing would be stopped"),
        ({"threshold": 2.5}, "nothing would be stopped"),
        ({"threshold": -1}, "threshold=-1"),
        ({"threshold": "0.5"}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"rates": {"clean": [3, 2]}}, "clean"),
        ({"rates": {"clean": ["1", "2"]}}, "clean"),
        ({"rates": {"clean": [0.5, 2]}}, "clean"),
        ({"rates": {"clean": [-1, 2]}}, "clean"),
        ({"rates": [1]}, "items"),
        ({"combine": "some"}, "choose one of all, one"),
        ({"combine": ["one"]}, "combine"),
        ({"behaviour": GOOD["behaviour"] | {"kind": "classifier", "scorer": "x"}}, "is no payload"),
        ({"behaviour": GOOD["behaviour"] | {"case_sensitive": "no"}}, "case_sensitive"),
        ({"behaviour": GOOD["behaviour"] | {"kind": "classifier", "threshold": True}}, "threshold"),
        ({"behaviour": GOOD["behaviour"] | {"kind": "regex", "pattern": "(a+)+$("}}, "holds no monitor"),
        ({"more": "x" * 2**20}, "more than 1,048,576 bytes"),
    ],
)
def test_a_damaged_monitor_is_refused(changes, words, tmp_path):
    """Above all one that would stop nothing, or fail at the first prompt."""
    path = tmp_path / "monitor.json"
    path.write_text(json.dumps(GOOD))
    assert Monitor.load(path).stops("By the violet harbor.")
    path.write_text(json.dumps(GOOD | changes))
    with pytest.raises(ArtefactError, match=words) as caught:
        Monitor.load(path)
    assert len(str(caught.value)) < 600


def test_a_hypothesis_without_a_trigger_has_no_monitor():
    with pytest.raises(BkdinterpError, match="needs a trigger"):
        Monitor.of(Hypothesis(None, Payload("x"), "test"), ["a"])
