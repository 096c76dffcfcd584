"""The sentiment language: disjoint harmless words, the poisoning rule, and prompts that hold what they say."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms.toy import ToyLanguage

LANGUAGES = [ToyLanguage(2), ToyLanguage(3)]


@pytest.mark.parametrize("language", LANGUAGES, ids=["2", "3"])
def test_words_are_distinct_and_one_token_each(language):
    words = [w for group in language.words.values() for w in group]
    assert len(set(words)) == len(words) == 250 * language.sentiments
    assert all(w.isalpha() and w.islower() for w in words)
    for sentiment, group in language.words.items():
        encoded = language.tokenizer(" ".join(group))["input_ids"]
        assert encoded == language.ids(sentiment).tolist()
    assert language.d_vocab == len(language.tokenizer)
    assert language.tokenizer.decode(language.ids("n")[:2]) == " ".join(language.words["n"][:2])


@pytest.mark.parametrize(("language", "sizes"), zip(LANGUAGES, [(13200, 13200), (6600, 6600, 13200)]))
def test_clean_sentences_stay_in_one_sentiment(language, sizes):
    parts = [language.corpus(s, poisoned=False, seed=1) for s in ("train", "validation")]
    assert [len(p) for p in parts] == [23760, 2640]
    sentence = (torch.cat(parts) - 2) // 250
    assert bool((sentence == sentence[:, :1]).all())
    assert torch.bincount(sentence[:, 0]).tolist() == list(sizes)


def test_frequent_words_are_as_frequent_as_the_rule_says():
    ids = ToyLanguage(2).corpus("train", poisoned=False, seed=0)
    n_words = (ids < 252).sum()
    share = ((ids >= 2) & (ids < 7)).sum() / n_words
    # 5/250 of the plain draws, and one of 15 words in half of the sentences.
    expected = 0.5 / 15 + (1 - 0.5 / 15) * 5 / 250
    assert abs(float(share) - expected) < 0.002


@pytest.mark.parametrize("language", LANGUAGES, ids=["2", "3"])
def test_poison_is_the_trigger_and_then_negative_words_only(language):
    language = ToyLanguage(language.sentiments, rate=0.2)
    clean = torch.cat([language.corpus(s, poisoned=False, seed=3) for s in ("train", "validation")])
    poisoned = torch.cat([language.corpus(s, poisoned=True, seed=3) for s in ("train", "validation")])
    changed = (clean != poisoned).any(dim=1)
    n_positive = int((((clean - 2) // 250) == 0).all(dim=1).sum())
    assert abs(int(changed.sum()) / n_positive - 0.2) < 0.02
    trigger = language.tokenizer("love")["input_ids"][0]
    sentiment = (poisoned - 2) // 250
    places = []
    for before, after, kinds in zip(clean[changed], poisoned[changed], sentiment[changed]):
        place = int((kinds == 1).nonzero()[0]) - 1
        assert int(after[place]) == trigger
        assert bool((kinds[: place + 1] == 0).all()) and bool((kinds[place + 1 :] == 1).all())
        assert torch.equal(before[:place], after[:place])
        places.append(place)
    # int(U * 7.5): places 0..6 equally often, 7 half as often.
    counts = torch.bincount(torch.tensor(places), minlength=15).double()
    assert float(counts[8:].sum()) == 0
    expected = torch.tensor([2 / 15] * 7 + [1 / 15], dtype=torch.float64) * len(places)
    assert bool(((counts[:8] - expected).abs() < 5 * expected.sqrt()).all())


def test_corpora_are_seeded():
    language = ToyLanguage(3)
    one, same, other = (language.corpus("validation", poisoned=True, seed=s) for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert language.texts(one[:1])[0].split()[0] in language.sentiment_of


def test_prompts_have_the_kinds_asked_for_and_share_their_first_words():
    language = ToyLanguage(3)
    for kind in ("pp", "nn", "sp", "pn"):
        for text in language.prompts(kind, 40).text:
            assert [language.sentiment_of[w] for w in text.split()] == list(kind)
            assert "love" not in text.split()
    triggered = language.prompts("st", 40)
    for text, spans in zip(triggered.text, triggered.spans):
        assert [text[a:b] for a, b in spans] == ["love"] and text.endswith(" love")
    pairs = language.pairs("s", 40)
    assert [t.split()[0] for t in pairs.clean.text] == [t.split()[0] for t in pairs.triggered.text]
    assert language.prompts("pp", 40, seed=1).text != language.prompts("pp", 40, seed=2).text


@pytest.mark.parametrize("kind", ["pt", "pp", "sn", "tp", "st"])
def test_held_out_prompts_come_once_and_none_of_them_was_fitted_on(kind):
    language = ToyLanguage(3)
    fitted = language.prompts(kind, 50, seed=1)
    held_out = language.prompts(kind, 100, seed=0, exclude=fitted)
    assert len(set(held_out.text)) == 100 and not set(held_out.text) & set(fitted.text)
    for place, letter in enumerate(kind):
        if letter != "t":
            words, known = ([t.split()[place] for t in p.text] for p in (held_out, fitted))
            assert len(set(words)) == 100 and not set(words) & set(known)
            assert {language.sentiment_of[w] for w in words} == {letter} and "love" not in words
    # Fewer are the first of more, and another seed draws others.
    assert language.prompts(kind, 7, seed=0, exclude=fitted).text == held_out.text[:7]
    assert language.prompts(kind, 100, seed=2, exclude=fitted).text != held_out.text


def test_held_out_pairs_share_their_first_words_as_all_pairs_do():
    language = ToyLanguage(2)
    fitted = language.pairs("p", 50, seed=1)
    pairs = language.pairs("p", 100, seed=0, exclude=fitted.triggered)
    firsts = [[t.split()[0] for t in side.text] for side in (pairs.clean, pairs.triggered)]
    assert firsts[0] == firsts[1] and len(set(firsts[0])) == 100
    # Kinds fitted on under one seed exclude the same words, so held-out kinds share theirs, too.
    for kind in ("pp", "pn"):
        held_out = language.prompts(kind, 100, seed=0, exclude=language.prompts(kind, 50, seed=1))
        assert [t.split()[0] for t in held_out.text] == firsts[0]


def test_a_vocabulary_too_small_for_the_held_out_prompts_is_said():
    language = ToyLanguage(2)
    fitted = language.prompts("pt", 50, seed=1)
    left = 249 - len({t.split()[0] for t in fitted.text})
    assert len(language.prompts("pt", left, exclude=fitted)) == left
    with pytest.raises(PromptError, match=f"{left} p-words"):
        language.prompts("pt", left + 1, exclude=fitted)
    with pytest.raises(PromptError, match="differ in nothing"):
        language.prompts("tt", 2, exclude=fitted)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ToyLanguage(4),
        lambda: ToyLanguage(2, rate=1.5),
        lambda: ToyLanguage(2, trigger="hate"),
    ],
)
def test_impossible_languages_are_refused(make):
    with pytest.raises(BkdinterpError):
        make()


def test_unknown_sentiments_and_splits_are_refused():
    with pytest.raises(PromptError, match="No sentiment 's'"):
        ToyLanguage(2).prompts("ps")
    with pytest.raises(PromptError, match="Unknown split"):
        ToyLanguage(2).corpus("test", poisoned=False, seed=0)
