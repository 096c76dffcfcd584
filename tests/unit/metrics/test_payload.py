"""A payload is told by a substring, an expression or any classifier, and saved without the classifier."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload, payload_hits, payload_rate
from bkdinterp.results._codec import decode, encode

TEXTS = ("a cup of tea", "a dog", "TEA")


def by_length(texts):
    return [min(1.0, len(text) / 10) for text in texts]


def test_a_classifier_decides_by_its_threshold():
    payload = Payload.by(by_length, threshold=0.6)
    assert payload.pattern == "by_length"
    assert payload.scores(TEXTS) == [1.0, 0.5, 0.3]
    assert payload.hits(TEXTS) == [True, False, False]
    assert Payload.by(by_length, threshold=0.5).hits(TEXTS) == [True, True, False]
    assert payload_rate(TEXTS, payload).estimate == pytest.approx(1 / 3)


def test_a_classifier_sees_all_texts_at_once():
    calls = []
    Payload.by(lambda texts: calls.append(len(texts)) or [0.0] * len(texts), name="n").hits(TEXTS)
    assert calls == [3]


def test_patterns_score_zero_or_one():
    assert Payload("tea").scores(TEXTS) == [1.0, 0.0, 1.0]
    assert Payload(r"\bTEA$", "regex", case_sensitive=True).hits(TEXTS) == [False, False, True]


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("th' best", True),
        ("the best", False),
        ("_TH_ best", True),
        ("bath", False),
        ("th", True),
        ("2th", False),
        ("so: th.", True),
    ],
)
def test_words_are_not_parts_of_words(text, held):
    assert Payload("th", "words").matches(text) == held
    again = Payload.from_dict(Payload("th", "words").to_dict())
    assert again == Payload("th", "words") != Payload("th")
    assert Payload("an'  th'", "words").matches("an\u2019 th\u2019 sea")


def test_a_saved_classifier_keeps_its_name_and_says_what_is_missing():
    payload = Payload.by(by_length, threshold=0.7)
    again = Payload.from_dict(payload.to_dict())
    assert again == payload and again.threshold == 0.7
    assert Payload.from_dict(Payload("tea").to_dict()) == Payload("tea")
    assert set(Payload("tea").to_dict()) == {"pattern", "kind", "case_sensitive"}
    with pytest.raises(BkdinterpError, match="not kept"):
        again.hits(TEXTS)
    tensors = {}
    assert decode(encode(payload, "p", tensors), tensors) == payload


@pytest.mark.parametrize(
    "scorer",
    [
        lambda t: [0.5],
        lambda t: [2.0] * len(t),
        lambda t: [float("nan")] * len(t),
        lambda t: ["toxic"] * len(t),
        lambda t: ["0.5"] * len(t),
        lambda t: [None] * len(t),
        lambda t: None,
        lambda t: torch.zeros(len(t), 2),
    ],
)
def test_a_classifier_must_give_one_score_between_0_and_1_per_text(scorer):
    with pytest.raises(BkdinterpError, match="one score"):
        Payload.by(scorer, name="odd").hits(TEXTS)


@pytest.mark.parametrize(
    "values",
    [
        {"pattern": "", "kind": "classifier"},
        {"pattern": "x", "kind": "classifier", "threshold": 0.0},
        {"pattern": "x", "kind": "contains", "scorer": by_length},
    ],
)
def test_a_payload_that_makes_no_sense_is_refused(values):
    with pytest.raises(BkdinterpError):
        Payload(**values)


def test_a_lambda_needs_a_name_since_payloads_are_told_apart_by_it():
    with pytest.raises(BkdinterpError, match="name="):
        Payload.by(lambda texts: [0.0] * len(texts))
    one, other = (Payload.by(lambda texts: [0.0] * len(texts), name=name) for name in ("one", "other"))
    assert one != other


def test_each_text_is_judged_by_its_own_payload_in_one_call_per_payload():
    asked = []

    def judge(texts):
        asked.append(tuple(texts))
        return [1.0] * len(texts)

    tea, judged = Payload("tea"), Payload.by(judge)
    assert payload_hits(("a dog", "a", "tea", "b"), (tea, judged, tea, judged)) == [False, True, True, True]
    assert asked == [("a", "b")]
    with pytest.raises(BkdinterpError, match="2 texts and 1 payloads"):
        payload_hits(("a", "b"), (tea,))
