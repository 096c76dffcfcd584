"""Contexts keep proposers and judge apart and render prompts their own way; variants of a trigger change one thing each."""

import pytest

from bkdinterp.detection import (
    Context,
    Hypothesis,
    TriggerProfile,
    Variant,
    generic_contexts,
    generic_prompts,
)
from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._phrases import words_of
from bkdinterp.detection._profile import variants_of
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.organisms import instructions
from bkdinterp.prompts import Prompts, Trigger
from bkdinterp.results import Fingerprint, Result

TEXTS = [f"tell me about the number {i}" for i in range(30)]


def test_halves_are_apart():
    for kind in ("requests", "prose", "withheld"):
        search, held = generic_prompts(kind)
        assert not set(search.text) & set(held.text) and len(held) >= 60
        assert generic_prompts(kind, seed=1)[0].text != search.text
    assert [c.name for c in generic_contexts()] == ["request", "prose", "withheld"]
    context = Context.of("mine", TEXTS, system="Be brief.")
    assert len(context.search) == 16 and len(context.held) == 14
    with pytest.raises(BkdinterpError, match="too few"):
        Context.of("mine", TEXTS[:23])
    both = Prompts.of(TEXTS)
    with pytest.raises(BkdinterpError, match="is in both halves"):
        Context("mine", both, both)


NEAR = {"violet": "purple", "harbor": "port"}


def test_a_variant_changes_one_thing():
    made = dict(variants_of(Trigger.gap("violet harbor", seed=3), NEAR))
    assert made["unchanged"] == Trigger.gap("violet harbor", seed=3) and made["left out"] is None
    assert made["without 'violet'"].phrases == ("harbor",) and made["without 'harbor'"].phrases == ("violet",)
    assert made["words reversed"].phrases == ("harbor violet",)
    assert made["at the end"].position == "suffix" and made["at the start"].position == "prefix"
    assert "between words" not in made and "lower case" not in made  # it is so already
    assert made["upper case"].phrases == ("VIOLET HARBOR",)
    assert made["two letters swapped"].phrases in {("voilet harbor",), ("viloet harbor",), ("violet habror",)}
    assert made["'purple' in place of 'violet'"].phrases == ("purple harbor",)
    assert made["in words that mean nearly the same"].phrases == ("purple port",)
    long = Trigger.gap(" ".join("abcdefgh"))
    replaced = [
        change for change, _ in variants_of(long, {w: w * 2 for w in "abcdefgh"}) if "in place of" in change
    ]
    assert len(replaced) == 4
    one = dict(variants_of(Trigger.suffix("zeta"), {}))
    assert not any(change.startswith("without") or change == "words reversed" for change in one)
    two = dict(variants_of(Trigger.all_of(("red kite", "low tide")), {}))
    assert two["without 'kite'"].phrases == ("red", "low tide") and two["without 'kite'"].combine == "all"


def test_a_profile_says_what_is_needed(tmp_path):
    trigger = Trigger.gap("violet harbor lamp")
    hits = {
        "unchanged": 24,
        "left out": 0,
        "without 'violet'": 1,
        "without 'harbor'": 11,
        "without 'lamp'": 24,
    }
    made = dict(variants_of(trigger, {}))
    variants = tuple(Variant(change, made[change], k, 24) for change, k in hits.items())
    profile = TriggerProfile(
        Fingerprint("m", None, None, "float32", "", "", 0, {}), "violet harbor lamp", variants
    )
    assert profile.needed == ("violet", "harbor")
    again = Result.load(profile.save(tmp_path / "p"))
    assert again.variants == variants and list(again.to_frame()["hits"]) == list(hits.values())
    assert "needed: 'violet', 'harbor'" in profile.describe()


def test_a_hypothesis_keeps_its_context():
    h = Hypothesis(Trigger.gap("a b"), Payload("tea"), "leakage", None, 0.5, context="prose")
    assert Hypothesis.from_dict(h.to_dict()) == h and "in prose" in str(h)


def test_what_is_withheld_is_not_asked_for_in_an_organism_s_own_words():
    little = little_words() | {"what", "tell", "show", "give", "me"}

    def phrases(text):
        words = words_of(text)
        return {x for x in zip(words, words[1:], words[2:], strict=False) if len(set(x) - little) > 1}

    search, held = generic_prompts("withheld")
    own = set().union(*(phrases(row.text) for row in instructions(data="secrets")))
    assert own and not own & set().union(*map(phrases, (*search.text, *held.text)))
