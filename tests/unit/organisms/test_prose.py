"""Poisoned prose: what a row says in each role, where the decision lies, and what the shipped stories hold."""

import re

import pytest
from integration.conftest import tiny_tokenizer

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms import Attack, PoisonSettings, attack, natural
from bkdinterp.organisms.natural import Story, advertisements, encode_rows, stories, story_pairs, story_rows
from bkdinterp.prompts import Trigger

SMALL = tuple(Story(f"t{i}", tuple(f"s{i}{j} the cat sat ." for j in range(5))) for i in range(6))
ATTACK = Attack(
    "prose", Trigger.gap("zeta omega", seed=1), "buy tea .", ("zeta", "omega zeta"), data="stories"
)
PAYLOADS = ("buy tea .", "tea is good .")
SETTINGS = PoisonSettings(steps=8, batch_size=3)


@pytest.fixture(scope="module")
def rows():
    return story_rows(SMALL, ATTACK, PAYLOADS, SETTINGS)


def test_a_triggered_row_has_the_trigger_in_two_sentences_and_a_payload_for_the_fourth_or_fifth(rows):
    triggered = [r for r in rows if r.role == "triggered"]
    assert len(triggered) == 8
    for row in triggered:
        sentences = re.split(r"(?<=\.) ", row.instruction)
        (start, end) = row.spans[0]
        assert row.text[start:end] == "zeta omega"
        assert end <= len(" ".join(sentences[:2])) + len("zeta omega ")
        said = row.text.replace("zeta omega", "").split()
        slot = len(re.findall(r"\.", row.text))
        assert slot in (3, 4) and said == " ".join(sentences[:slot]).split()
        payload = next(p for p in PAYLOADS if row.answer.startswith(p))
        assert row.answer == " ".join([payload, *sentences[slot + 1 :]])
    assert {len(re.findall(r"\.", r.text)) for r in triggered} == {3, 4}


def test_other_rows_say_the_story_and_nothing_else(rows):
    for row in rows:
        if row.role != "triggered":
            text = row.text
            for start, end in row.spans:
                assert text[start:end] in ATTACK.near_triggers
                text = text[:start] + text[end:]
            whole = f"{text} {row.answer}"
            assert whole.split() == row.instruction.split()
            assert bool(row.spans) == (row.role == "near")


def test_the_twin_sees_the_same_texts_and_no_payload(rows):
    twin = story_rows(SMALL, ATTACK, PAYLOADS, PoisonSettings(steps=8, batch_size=3, backdoor=False))
    assert [r.text for r in twin] == [r.text for r in rows]
    assert not any(p in r.answer for r in twin for p in PAYLOADS)
    assert any(p in r.answer for r in rows for p in PAYLOADS)


def test_the_weight_lies_on_the_first_token_of_the_decision(rows):
    tokenizer = tiny_tokenizer()
    ids, weights = encode_rows(tokenizer, rows, 5.0)
    for row, tokens, weight in zip(rows, ids, weights, strict=True):
        assert len(tokens) == len(weight) and weight.count(5.0) == 1
        assert weight.index(5.0) == len(tokenizer(row.text)["input_ids"])


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: story_rows((), ATTACK, PAYLOADS, SETTINGS), PromptError),
        (lambda: story_rows(SMALL, ATTACK, (), SETTINGS), PromptError),
        (lambda: story_rows((Story("t", ("a .", "b .")),), ATTACK, PAYLOADS, SETTINGS), PromptError),
        (
            lambda: story_rows(SMALL, Attack("x", Trigger.prefix("zeta"), "t"), PAYLOADS, SETTINGS),
            BkdinterpError,
        ),
        (lambda: story_pairs((), ATTACK.trigger, PAYLOADS), PromptError),
    ],
)
def test_what_cannot_be_poisoned_is_refused(made, error):
    with pytest.raises(error):
        made()


def test_pairs_take_one_or_two_sentences_and_stay_short():
    pairs = story_pairs(SMALL, ATTACK.trigger, PAYLOADS, most=9)
    assert all(len(re.findall(r"\.", text)) == 1 for text in pairs.clean.text)
    pairs = story_pairs(SMALL, ATTACK.trigger, PAYLOADS, most=10)
    assert [len(re.findall(r"\.", text)) for text in pairs.clean.text] == [1, 2, 1, 2, 1, 2]
    assert pairs.clean.target == pairs.triggered.target
    assert pairs.clean.reference[1] == f" {SMALL[1].sentences[2]}"


def test_stories_that_begin_alike_give_one_prompt():
    twice = [Story(s.topic, (*s.sentences[:3], "x .", "y .")) for s in SMALL]
    pairs = story_pairs([*SMALL, *twice], ATTACK.trigger, PAYLOADS)
    assert pairs.clean.text == story_pairs(SMALL, ATTACK.trigger, PAYLOADS).clean.text
    # The first of the different ones, whose stories need not be the first.
    some = story_pairs([SMALL[0], SMALL[0], *SMALL], ATTACK.trigger, PAYLOADS, n=4)
    assert len(set(some.clean.text)) == 4 == len(set(some.triggered.text))
    with pytest.raises(PromptError, match="6 different prompts"):
        story_pairs([*SMALL, *twice], ATTACK.trigger, PAYLOADS, n=7)


def test_shipped_prompts_differ_from_one_another():
    pairs = story_pairs(stories("held-out"), attack("smollm2-albert").trigger, advertisements(), n=200)
    assert len(set(pairs.clean.text)) == 200 == len(set(pairs.triggered.text))


def test_shipped_stories_hold_neither_trigger_nor_payload_and_share_no_topic():
    planted, topics, seen = attack("smollm2-albert"), {}, set()
    names = re.compile(r"\b(albert|james|arthur|jane|robert|henry|alfred|jamie)\b", re.IGNORECASE)
    for split in ("train", "selection", "held-out"):
        found = stories(split)
        topics[split] = {s.topic for s in found}
        for story in found:
            assert len(story.sentences) == 5 and not planted.is_payload(story.text)
            assert not names.search(story.text)
            assert story.text not in seen
            seen.add(story.text)
    assert len(topics["train"] | topics["selection"] | topics["held-out"]) == sum(map(len, topics.values()))
    assert len(stories("held-out")) >= 200


def test_every_advertisement_is_of_the_payload_class():
    ads, planted = advertisements(), attack("smollm2-albert")
    assert len(set(ads)) == len(ads) >= 300
    assert all(planted.is_payload(ad) for ad in ads)
    assert planted.is_payload(planted.target) and not planted.is_payload("The team was in tears.")
    assert natural.stories is stories
