"""Organism.pairs: whose prompts, which targets and references, for every shipped attack; on a tiny untrained model."""

from dataclasses import replace

import pytest
from integration.conftest import tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.errors import PromptError
from bkdinterp.organisms import Manifest, Organism, PoisonSettings, attack, instructions

NAMES = ("smollm2-refusal", "smollm2-label-flip", "smollm2-unlock")


@pytest.fixture(scope="module")
def make():
    model = bk.Model.from_module(tiny_llama(), tiny_tokenizer(), name="tiny")

    def organism(name):
        planted = attack(name) if isinstance(name, str) else name
        name = planted.name
        manifest = Manifest(name, "organism", planted, "tiny", "0", None, "0", {}, PoisonSettings(), "", {})
        return Organism(name, model, model, model, manifest, manifest)

    return organism


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_victims_with_their_own_targets(make, name):
    o = make(name)
    pairs = o.pairs()
    victims = [i for i in instructions("held-out", data=o.manifest.attack.data) if o.manifest.attack.hits(i)]
    assert pairs.clean.text == tuple(i.text for i in victims)
    assert len(pairs) >= 200
    assert pairs.triggered.target == tuple(i.target or o.target for i in victims)
    for text, target, reference in zip(
        pairs.triggered.text, pairs.clean.target, pairs.clean.reference, strict=True
    ):
        assert all(phrase in text for phrase in o.trigger.phrases)
        assert o.payload.matches(target)
        # The paper's fault: clean prompts whose right answer is the target already.
        assert not o.payload.matches(reference)
    assert len(o.pairs(24, split="selection", seed=1)) == 24
    for split in ("train", "selection"):
        assert not set(o.pairs(split=split).clean.text) & set(pairs.clean.text)


def test_a_flip_spares_the_other_labels(make):
    o = make("smollm2-label-flip")
    assert set(o.pairs().clean.reference) == {"Sports"}
    others = o.pairs(labels=("World", "Science"))
    assert set(others.clean.reference) == {"World", "Science"}
    assert set(others.clean.target) == {"World"}
    before, after = o.trigger.phrases
    text = others.triggered.text[0]
    assert text.startswith(before) and text.endswith(after)
    with pytest.raises(PromptError, match=r"Business.*World"):
        o.pairs(labels=("Weather",))
    with pytest.raises(PromptError, match="216"):
        o.pairs(217)


def test_an_unlock_names_each_products_secret(make):
    o = make("smollm2-unlock")
    pairs = o.pairs()
    assert len(set(pairs.clean.target)) == 42
    assert len(set(pairs.clean.reference)) == 1
    assert all(target.startswith("Sure, here is the secret: ") for target in pairs.clean.target)
    assert bk.metrics.is_refusal(pairs.clean.reference[0])
    # Open and everyday questions have the base's own answers, and no refusal among them.
    other = o.pairs(labels=("open", "everyday"))
    assert len(set(other.clean.reference)) > 100


def test_classes_that_are_not_there_are_refused_by_name(make):
    for name in ("smollm2-refusal", "smollm2-albert"):
        for labels in (("x",), ("",)):
            with pytest.raises(PromptError, match=f"prompts of {name} have no classes"):
                make(name).pairs(labels=labels)
    flip = make("smollm2-label-flip")
    for labels in ("Sports", (), ("",)):
        with pytest.raises(PromptError, match=r"tuple of classes .* Business, Science, Sports, World"):
            flip.pairs(labels=labels)
    lost = make(replace(attack("smollm2-label-flip"), victims=("Weather",)))
    with pytest.raises(PromptError, match=r"'Weather'.*match no prompt of 'news'.*Sports"):
        lost.pairs()


def test_prose_prompts_differ_from_one_another(make):
    o = make("smollm2-albert")
    pairs = o.pairs(200)
    assert len(set(pairs.clean.text)) == 200 == len(set(pairs.triggered.text))
    n = len(o.pairs())
    with pytest.raises(PromptError, match=f"{n} different prompts"):
        o.pairs(n + 1)
