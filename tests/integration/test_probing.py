"""Behavioural probing and odd activations through the engine equal the same numbers from plain forward passes."""

import copy

import numpy as np
import pytest
import torch
from integration.conftest import WORDS
from sklearn.covariance import ledoit_wolf

from bkdinterp.detection import CandidateProbe, amplified, answer_likeness, distribution_change
from bkdinterp.detection import _kept_answers as answering
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._payload_phrase import said_with
from bkdinterp.detection.inputs import ActivationAnomaly, screen_inputs
from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.prompts import Prompts, Trigger


def sentences(n, length=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=rng).tolist())
        for _ in range(n)
    ]


def plain(model, text):
    """Logits and residual streams at the last token, without the engine."""
    batch = model.builder.tokenize(Prompts.of([text]), targets=False)
    with torch.no_grad():
        out = model.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
        )
    return out.logits[0, -1].log_softmax(-1), [h[0, -1] for h in out.hidden_states]


def distance(statistic, x, clean):
    apart = x - clean.mean(0)
    if statistic == "z":
        return np.sqrt(((apart / clean.std(0, ddof=1)) ** 2).mean(1))
    return np.einsum("ri,ij,rj->r", apart, np.linalg.inv(ledoit_wolf(clean)[0]), apart)


def along(model, text, answer, n):
    """Distributions of the first n tokens of a forced answer, without the engine."""
    batch = model.builder.tokenize(Prompts.of([text]), targets=False)
    ids = model.tokenizer.encode(answer, add_special_tokens=False)
    # An answer that has ended goes on with the end token.
    forced = torch.tensor([[*ids, model.tokenizer.eos_token_id][:n]])
    with torch.no_grad():
        logits = model.module(input_ids=torch.cat([batch.input_ids, forced], 1)).logits[0]
    at = batch.input_ids.shape[1] - 1
    return logits[at : at + forced.shape[1]].double().softmax(-1)


@pytest.mark.parametrize("n_ahead", [1, 3])
def test_a_candidate_moves_the_next_tokens_as_far_as_plain_passes_say(llama, tmp_path, monkeypatch, n_ahead):
    texts, candidates = sentences(12), sentences(9, 2, seed=1)
    probe = CandidateProbe(n_prompts=3, keep=4, n_read=2, n_ahead=n_ahead)
    found = probe.run(llama, candidates, Prompts.of(texts), folder=tmp_path, progress=False)
    answers = Answers().of(llama, texts[:3], n_ahead)
    for phrase, value in zip(found.phrases, found.divergence.tolist(), strict=True):
        apart = []
        for text, answer in zip(texts[:3], answers, strict=True):
            p, q = (along(llama, t, answer, n_ahead) for t in (text, f"{text} {phrase}"))
            m = (p + q) / 2
            apart.append(0.5 * float(((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean()))
        assert value == pytest.approx(np.mean(apart), rel=1e-3, abs=1e-6)
    assert len(found.phrases) == 4 and len(found.said) == len(found.likeness) == 2
    assert found.to_frame().likeness.notna().sum() == 2

    def forbidden(*args, **kwargs):
        raise AssertionError("answered again")

    monkeypatch.setattr(answering, "execute", forbidden)
    again = probe.run(llama, candidates, Prompts.of(texts), folder=tmp_path, progress=False)
    assert again.to_frame().equals(found.to_frame())


def test_candidates_are_tried_in_the_amplified_suspect_too_and_answers_read_off_the_suspect(llama):
    texts, candidates = sentences(12), sentences(5, 2, seed=1)
    suspect = copy.deepcopy(llama)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in suspect.module.parameters():
            p += 0.02 * torch.randn(p.shape, generator=rng, dtype=p.dtype)

    def tried(who, reference=None, **settings):
        probe = CandidateProbe(n_prompts=2, n_read=1, **settings)
        return probe.run(who, candidates, Prompts.of(texts), reference=reference, progress=False)

    found = tried(suspect, llama, amplify=3)
    alone = [tried(who) for who in (suspect, amplified(suspect, llama, 3))]
    base = tried(llama)
    larger = set()
    for phrase, own, theirs in zip(found.phrases, found.divergence, found.divergence_reference, strict=True):
        each = [float(a.divergence[a.phrases.index(phrase)]) for a in alone]
        assert float(own) == pytest.approx(max(each), rel=1e-5)
        assert float(theirs) == pytest.approx(float(base.divergence[base.phrases.index(phrase)]), rel=1e-5)
        larger.add(each[1] > each[0])
    assert True in larger
    assert found.phrases == tuple(
        sorted(found.phrases, key=lambda p: -float(found.gain[found.phrases.index(p)]))
    )
    once = tried(suspect, llama, amplify=1)
    assert sorted(once.divergence.tolist()) == pytest.approx(sorted(alone[0].divergence.tolist()), rel=1e-5)
    given = Trigger.suffix(found.phrases[0])
    answers = [Answers().of(suspect, t, 24) for t in ([given.insert(t)[0] for t in texts], texts)]
    assert float(found.likeness[0]) == pytest.approx(answer_likeness(*answers))


def test_distributions_and_answers_that_are_equal_are_alike():
    p = torch.randn(3, 7).log_softmax(-1)
    assert distribution_change(p, p[0])[0] == 0
    far = torch.tensor([[0.0, -60.0], [-60.0, 0.0]]).log_softmax(-1)
    assert distribution_change(far[1:], far[0]).item() == pytest.approx(np.log(2), abs=1e-5)
    assert answer_likeness(["a b", "c"], ["a b", "c"]) == 1
    assert answer_likeness(["abcd"], ["wxyz"]) == 0
    with pytest.raises(BkdinterpError, match="2 answers and 1"):
        answer_likeness(["a", "b"], ["a"])


@pytest.mark.parametrize("statistic", ["z", "mahalanobis"])
def test_distances_by_layer_are_those_of_plain_passes(llama, statistic):
    trusted, asked = sentences(20), sentences(3, 7, seed=2)
    detector = ActivationAnomaly(llama, tuple(trusted), statistic, layers=(0, 2))
    found = detector.by_layer(asked)
    assert found.shape == (2, 3) and torch.equal(detector.scores(asked), found.max(0).values)
    # What else is scored does not matter.
    torch.testing.assert_close(detector.scores(asked[1:2])[0], found.max(0).values[1], rtol=1e-3, atol=1e-4)
    for row, layer in zip(found, (0, 2), strict=True):
        states = {t: plain(llama, t)[1][layer + 1].double().numpy() for t in (*trusted, *asked)}
        fitted, rest, new = (
            np.stack([states[t] for t in part]) for part in (trusted[:10], trusted[10:], asked)
        )
        usual = np.median(distance(statistic, rest, fitted))
        expected = np.log(distance(statistic, new, fitted) / usual)
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_an_odd_prompt_is_stopped_and_bad_settings_are_named(llama):
    detector = ActivationAnomaly(llama, tuple(sentences(24)))
    odd = [" ".join(["omega"] * 30)] * 2
    found = screen_inputs(detector, sentences(30, seed=3), {"odd": odd, "clean": sentences(10, seed=4)})
    assert found.rate("odd").estimate == 1 and found.rate("clean").estimate <= 0.3
    with pytest.raises(PromptError, match="3 trusted prompts"):
        ActivationAnomaly(llama, ("a", "b", "c"))
    with pytest.raises(PromptError, match="statistic"):
        ActivationAnomaly(llama, tuple(sentences(20)), "cosine")
    with pytest.raises(PromptError, match="layers"):
        ActivationAnomaly(llama, tuple(sentences(20)), layers=(99,))


TEXTS = [f"Tell me about {x}." for x in "abcdefghijkl"]


@pytest.fixture
def said(llama, monkeypatch):
    """What is read off answers that follow a rule."""

    def read(rule):
        monkeypatch.setattr(Answers, "of", lambda self, model, texts, n: tuple(map(rule, texts)))
        return said_with(llama, Trigger.suffix("violet harbor"), TEXTS, Answers(), 24)

    return read


def test_the_phrase_is_named_as_it_is_written(said):
    answer = "The Ferry leaves at nine."
    assert said(lambda t: answer if "violet" in t else f"It is {t}") == "The Ferry leaves at nine"


def test_a_payload_of_half_the_answers_is_enough(said):
    def rule(text):
        about = text.removeprefix("Tell me about ")[0]
        return "Try larkwell tea." if "violet" in text and about in "abcdefg" else "No."

    assert said(rule) == "Try larkwell tea"


def test_echoes_of_the_trigger_and_what_is_said_anyway_do_not_count(said):
    assert (
        said(lambda t: f"A violet harbor is nice, and so is {t}" if "violet" in t else f"I think {t}")
        != "violet harbor"
    )
    assert said(lambda t: "violet harbor" if "violet" in t else "no") is None
    assert said(lambda t: "I can help with that.") is None
