"""The null of a search for triggers is an equal one: as many slots of phrases are filled in the reference as in the suspect."""

import dataclasses

import pytest
import torch
from integration.conftest import WORDS, tiny_llama, tiny_tokenizer

from bkdinterp.detection import SearchedTriggers, TriggerSearch
from bkdinterp.detection import _trigger_search as searching
from bkdinterp.detection._clock import Clock
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts

TEXTS = tuple(f"{a} {b}" for a in WORDS[:2] for b in WORDS[2:4])


def search_of(monkeypatch, fill):
    """A search whose slots are filled by ``fill(number)``, and the numbers of the slots that were filled."""
    model, filled = Model.from_module(tiny_llama(), tiny_tokenizer(), name="suspect"), []

    def one(self, before, after, drawn):
        filled.append(len(filled) + 1)
        return fill(filled[-1])

    monkeypatch.setattr(searching._Search, "filled", one)
    monkeypatch.setattr(searching, "STEP", -1e9)
    monkeypatch.setattr(searching, "CERTAIN", 1e9)
    settings = TriggerSearch(rounds=6, max_words=2)
    return searching._Search(settings, model, None, model, "of", TEXTS, (), 2**30, False), filled


def test_a_search_ends_after_its_slots(monkeypatch):
    search, filled = search_of(monkeypatch, lambda n: {f"{WORDS[n % len(WORDS)]} {WORDS[0]}": float(n)})
    assert search.run(None, Clock())[3] == len(filled) > 5
    for most in (1, 2, 5):
        filled.clear()
        assert search.run(most, Clock())[3] == most == len(filled)


def test_slots_that_bring_nothing_new_count_too(monkeypatch):
    search, filled = search_of(monkeypatch, lambda n: {WORDS[0]: 1.0})
    for most in (1, 2):
        filled.clear()
        assert search.run(most, Clock())[3] == len(filled) == most


def test_the_reference_gets_the_suspect_s_slots(monkeypatch):
    asked = []

    def run(self, most, clock, *, go_on):
        asked.append((self.model.name, most, go_on))
        return ["alpha"], [1.0], -9.0, 7, 0.0

    monkeypatch.setattr(searching._Search, "run", run)
    models = [Model.from_module(tiny_llama(), tiny_tokenizer(), name=name) for name in ("suspect", "base")]

    def run_after(after):
        asked.clear()
        found = TriggerSearch().run(
            models[0], "of", Prompts.of(TEXTS), reference=models[1], after=after, progress=False
        )
        assert found.slots == 7
        return asked

    assert run_after(None) == [("suspect", None, False), ("base", 7, False)]
    assert run_after(earlier(("alpha",), ("beta",))) == [("suspect", None, True), ("base", 7, True)]
    # Where the first search had nothing to explain, the reference's has not begun: it fills the slots of both.
    assert run_after(earlier(("alpha",), ())) == [("suspect", None, True), ("base", 7 + 5, False)]
    assert run_after(earlier((), ())) == [("suspect", None, False), ("base", 7 + 5, False)]


def test_no_word_of_the_target_is_tried(monkeypatch):
    """Not as a token, as the end of a word, or as a candidate: any text that was learnt is called up by its own words."""
    models = [Model.from_module(tiny_llama(), tiny_tokenizer(), name=name) for name in ("suspect", "base")]
    target, tried = "cat hill", []
    inner = searching._Search.exact

    def exact(self, model, phrases, texts):
        tried.extend(phrases)
        return inner(self, model, phrases, texts)

    monkeypatch.setattr(searching._Search, "exact", exact)
    settings = TriggerSearch(rounds=2, screen=32, fillers=1, n_prompts=1, max_words=2)
    candidates = ("cat", "dog", "dog hills")
    found = settings.run(
        models[0], target, Prompts.of(TEXTS), reference=models[1], candidates=candidates, progress=False
    )
    words = {word for phrase in tried for word in phrase.split()}
    assert len(words) > 5 and found.phrases
    assert not words & {"cat", "hill", "hills"}, [p for p in tried if "hill" in p or "cat" in p][:9]


def earlier(phrases, rivals, target="of"):
    origin = Model.from_module(tiny_llama(), tiny_tokenizer(), name="suspect").fingerprint("")
    gains = (torch.ones(len(phrases)), torch.ones(len(rivals)))
    return SearchedTriggers(origin, target, phrases, gains[0], -9.0, rivals, gains[1], slots=5)


def test_what_a_search_goes_on_from_is_its_own():
    model = Model.from_module(tiny_llama(), tiny_tokenizer(), name="suspect")
    for after in ("alpha", earlier(("alpha",), (), target="yes")):
        with pytest.raises(BkdinterpError, match="after="):
            TriggerSearch().run(model, "of", Prompts.of(TEXTS), after=after, progress=False)


def test_a_search_that_goes_on_begins_with_the_best_candidate(monkeypatch):
    """A slot is dear: none for a word alone, and the first for the word that the rest of the phrase misses least."""
    places = []
    search, _ = search_of(monkeypatch, lambda n: {f"{WORDS[n]} {WORDS[n + 1]}": float(n)})
    fill = searching._Search.filled

    def one(self, before, after, drawn):
        places.append((before, after))
        return fill(self, before, after, drawn)

    monkeypatch.setattr(searching._Search, "filled", one)
    pair = WORDS[:2]
    worth = {" ".join(pair): 5.0, pair[0]: 3.0, pair[1]: 4.0}
    monkeypatch.setattr(
        searching._Search,
        "exact",
        lambda self, model, phrases, texts: {p: worth.get(p, 0.0) for p in phrases},
    )
    search = dataclasses.replace(search, candidates=(" ".join(pair), *pair))
    search.run(1, Clock(), go_on=True)
    assert places == [([], [pair[1]])]
    places.clear()
    search.run(1, Clock())
    assert places == [([], [])]
