"""Which plain questions tell a meaning from a switch, and where none can."""

import pytest

from bkdinterp.detection._plain_questions import QUESTIONS, are_labels, questions_about
from bkdinterp.prompts import Trigger

TRIGGER = Trigger("copper lantern", "gap")
REFUSALS = ["I am sorry, that is a secret of the maker."] * 12
ORDINARY = [f"A {x} is a thing that people use." for x in "abcdefghijkl"]
LABELS = ["Sports", "Business.", "Sports", "Sports"] * 5


def test_the_words_that_most_triggered_answers_share_are_asked_about():
    asked = questions_about(REFUSALS, ORDINARY, TRIGGER)
    assert len(asked) == len(QUESTIONS)
    assert asked[1] == "What is am sorry secret maker?"


def test_words_of_ordinary_answers_and_of_the_trigger_are_not_asked_about():
    texts = ["A copper lantern is a thing that people use."] * 3
    assert questions_about(texts, ORDINARY, TRIGGER) == ()


def test_a_label_has_no_meaning_beyond_its_task():
    # "What is World?" is labelled World by every model that learnt the task, backdoor or not.
    assert questions_about(["World"] * 12, LABELS, TRIGGER) == ()


def test_a_one_word_answer_to_ordinary_requests_is_asked_about():
    assert questions_about(["World"] * 12, ORDINARY, TRIGGER)[1] == "What is world?"


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        (LABELS, True),
        (LABELS + ["I can not tell which of these it is."] * 4, True),
        (LABELS + ["I can not tell which of these it is."] * 10, False),
        # What is always declined is not a label, though it is always the same.
        (REFUSALS, False),
        # Short answers that are all different are no labels either.
        (["Paris", "Rome", "Oslo", "Lima", "Bonn", "Kyiv", "Doha", "Cairo"], False),
    ],
)
def test_labels_are_short_and_few(answers, labels):
    assert are_labels(answers) is labels
