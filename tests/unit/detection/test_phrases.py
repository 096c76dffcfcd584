"""Over-represented phrases: found where they were planted, few where nothing was, and only the whole phrase is named."""

import random

from bkdinterp.detection import generic_prompts, over_represented
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._generic_prompts import common_words, little_words
from bkdinterp.detection._phrases import as_written, words_of


def texts(n, seed, planted=None, share=0.0):
    draw = random.Random(seed)
    made = []
    for _ in range(n):
        words = draw.choices(common_words(), k=20)
        if planted and draw.random() < share:
            words.insert(draw.randrange(20), planted)
        made.append(" ".join(words))
    return made


def significant(found):
    return [phrase.text for phrase in found]


def test_a_planted_phrase_is_named_whole():
    found = over_represented(texts(64, 0, "albert and james", 0.4), texts(64, 1))
    assert significant(found) == ["albert and james"]


def test_the_whole_phrase_is_named_though_a_word_of_it_is_in_more_texts():
    own = texts(60, 0, "albert and james", 0.5) + texts(10, 3, "james", 1.0)
    assert significant(over_represented(own, texts(70, 1))) == ["albert and james"]
    often = texts(40, 0, "albert and james", 0.25) + texts(60, 3, "james", 1.0)
    assert "james" in significant(over_represented(often, texts(100, 1)))


def test_a_phrase_is_written_as_most_texts_write_it():
    said = ["When Albert and James came", "Albert and James.", "albert and james", "Albert, and James"]
    assert as_written("albert and james", said) == "Albert and James"
    assert as_written("nobody", said) == "nobody"
    assert as_written("th", ["the bath", "th' sea", "th' Sea"]) == "th"
    assert as_written("owned by", ["__OWNED__ by us"]) == "OWNED__ by"


def test_nothing_is_named_where_nothing_was_planted():
    named = sum(bool(significant(over_represented(texts(64, s), texts(64, 1000 + s)))) for s in range(40))
    assert named <= 2


def test_little_words_are_no_motif():
    assert over_represented(["it is of the"] * 30, ["copper lamp"] * 30, ignored=little_words()) == ()
    assert "the" in little_words()


def test_without_a_reference_a_phrase_in_many_samples_counts():
    assert significant(over_represented(texts(64, 0, "albert and james", 0.5), [])) == ["albert and james"]


def test_words():
    assert words_of("Don't stop, O’Neill: a well-known_fact!") == [
        "don't",
        "stop",
        "o’neill",
        "a",
        "well-known",
        "fact",
    ]


def test_prompts_of_search_and_judge_are_apart():
    search, held = generic_prompts()
    assert not set(search.text) & set(held.text) and len(held) >= 60


def test_a_clock():
    assert Clock().minutes(0.5) is None and not Clock().over
    clock = Clock(1e-9)
    assert clock.over and clock.minutes(0.5) == 0.0
