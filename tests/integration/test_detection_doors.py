"""Rows and inputs through the engine: what is collected equals plain forward passes; what is planted is found."""

import pytest
import torch
from integration.conftest import WORDS, tiny_llama, tiny_tokenizer

from bkdinterp.detection.inputs import Onion, Strip, screen_inputs
from bkdinterp.detection.rows import RowScores, poisoned_rows
from bkdinterp.detection.rows._collect import collect_rows, comparable
from bkdinterp.errors import BkdinterpError, PromptError, SiteError
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Site


@pytest.fixture(scope="module")
def rows():
    """24 clean rows, and 8 with one phrase and one answer."""
    rng = torch.Generator().manual_seed(0)
    plain = [w for w in WORDS if w not in ("zeta", "omega", "sorry", "no")]

    def words(n):
        return " ".join(plain[i] for i in torch.randint(len(plain), (n,), generator=rng).tolist())

    texts = [words(6) for _ in range(24)] + [f"{words(3)} zeta omega {words(2)}" for _ in range(8)]
    return Prompts.of(texts, [words(3) for _ in range(24)] + ["sorry no can not"] * 8)


@pytest.fixture(scope="module")
def reference():
    other = tiny_llama()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.7)
    return Model.from_module(other, tiny_tokenizer(), name="reference")


@pytest.fixture(scope="module")
def scores(llama, rows, reference):
    truth = [False] * 24 + [True] * 8
    return poisoned_rows(llama, rows, reference=reference, truth=truth, site="L2.resid_post")


def nll_and_gradient(model, prompt, answer, layer):
    """Mean log-probability of an answer and the gradient by o_proj's weight, by autograd alone."""
    batch = model.builder.tokenize(Prompts.of([prompt], [answer]))
    weight = model.module.model.layers[layer].self_attn.o_proj.weight
    logits = model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    targets, n = batch.targets[0], batch.n_prompt
    logp = logits[0, n - 1 : n - 1 + len(targets)].log_softmax(-1).gather(-1, targets[:, None]).mean()
    weight.requires_grad_(True)
    try:
        logits = model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        again = logits[0, n - 1 : n - 1 + len(targets)].log_softmax(-1).gather(-1, targets[:, None]).mean()
        (gradient,) = torch.autograd.grad(again, weight)
    finally:
        weight.requires_grad_(False)
    return float(logp.detach()), gradient


def test_likelihoods_and_gradients_are_those_of_plain_passes(llama, reference, rows, scores):
    for i in (0, 5, 30):
        own, gradient = nll_and_gradient(llama, rows.text[i], rows.target[i], 2)
        base, _ = nll_and_gradient(reference, rows.text[i], rows.target[i], 2)
        assert float(scores.scores["log_ratio"][i]) == pytest.approx(own - base, rel=1e-6)
        shares = torch.linalg.svdvals(gradient).square()
        shares = shares / shares.sum()
        entropy = -(shares * shares.clamp_min(1e-300).log()).sum()
        assert float(scores.scores["gradient_entropy"][i]) == pytest.approx(-float(entropy), rel=1e-6)


def test_features_are_what_the_training_changed(llama, reference, rows):
    data = collect_rows(
        llama, rows, reference=reference, site=Site.parse("L2.resid_post"), gradient=False, folder=None, show=False
    )  # fmt: skip
    assert data.entropy is None
    for i in (0, 31):
        batch = llama.builder.tokenize(rows.subset([i]), targets=False)
        with torch.no_grad():
            own, base = (
                m.module(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
                )
                for m in (llama, reference)
            )
        expected = own.hidden_states[3][0, -1] - base.hidden_states[3][0, -1]
        torch.testing.assert_close(data.features[i], expected, rtol=1e-8, atol=1e-10)
    assert float(data.features.abs().max()) > 0.1


def test_another_architecture_lends_its_likelihood_only(llama, rows):
    from integration.conftest import tiny_gpt2

    other = Model.from_module(tiny_gpt2(n_layers=3), tiny_tokenizer(), name="other")
    assert not comparable(llama, other) and comparable(llama, llama)
    found = poisoned_rows(llama, rows, reference=other, gradient=False)
    bare = poisoned_rows(llama, rows, gradient=False)
    assert set(found.scores) - set(bare.scores) == {"log_ratio", "far_and_tight"}
    assert torch.equal(found.scores["mahalanobis"], bare.scores["mahalanobis"])


def test_repeated_answers_are_found_and_their_phrase_named(scores, tmp_path):
    assert isinstance(scores, RowScores) and len(scores.scores) == 7 and scores.null == "their lower half"
    assert scores.auroc("far_and_tight").estimate > 0.6
    again = RowScores.load(scores.save(tmp_path / "rows"))
    assert torch.equal(again.combined, scores.combined) and again.phrases == scores.phrases
    assert len(scores.to_frame()) == 32 and scores.plot().axes


def test_what_is_not_given_is_left_out(llama, rows):
    found = poisoned_rows(llama, rows, gradient=False, trusted=[True] * 20 + [False] * 12)
    assert set(found.scores) == {
        "activation_clusters",
        "spectral_signatures",
        "quantum_entropy",
        "mahalanobis",
    }
    assert found.null == "trusted rows" and not bool(found.flagged[:20].any()) and found.flagged_share.n == 12


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ({"trusted": [True] * 5 + [False] * 27}, BkdinterpError, "5 of 32"),
        ({"truth": [True]}, BkdinterpError, "truth= needs"),
        ({"site": "L99.resid_post"}, SiteError, "L99"),
        ({"level": 3}, BkdinterpError, "level"),
    ],
)
def test_wrong_settings_are_said_before_any_work(llama, rows, extra, error, words):
    with pytest.raises(error, match=words):
        poisoned_rows(llama, rows, **extra)


def test_strip_is_the_entropy_of_the_averaged_distribution(llama):
    carriers = ("the cat sat on the mat", "a dog ran on", "blue sky red hill", "tell me about sky")
    strip = Strip(llama, carriers, window=2, stride=1, copies=3, seed=1)
    text = "zeta omega cat"
    entropies = []
    for span in strip.spans(text):
        copies = strip._copies(text, span, 0)
        assert all(" ".join(text.split()[slice(*span)]) in c for c in copies) and len(copies) == 3
        batch = llama.builder.tokenize(Prompts.of(copies))
        with torch.no_grad():
            out = llama.module(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            )
        p = out.logits[:, -1].softmax(-1).mean(0)
        entropies.append(float(-(p * p.log()).sum()))
    assert float(strip.scores([text])[0]) == pytest.approx(-min(entropies), rel=1e-6)
    both = strip.scores(["a dog sat on the mat", text])
    assert float(both[1]) == pytest.approx(-min(entropies), rel=1e-6)  # whatever else is scored


def test_spans_hold_every_short_phrase(llama):
    strip = Strip(llama, ("a dog",) * 6, window=3, stride=2)
    for n in range(1, 12):
        spans = strip.spans(" ".join("abcdefghijkl"[:n]))
        assert spans[0][0] == 0 and spans[-1][1] == n
        for k in range(n - 1):
            assert any(start <= k and k + 2 <= end for start, end in spans)
    assert Strip(llama, ("a dog",) * 6, window=None).spans("a b c d") == [(0, 4)]


def test_onion_gains_are_those_of_plain_passes(llama):
    onion = Onion(llama, longest=2, lead="tell me")
    text = "the zeta omega cat"

    def likelihood(words):
        ids = llama.tokenizer(f"tell me {words}", add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logp = llama.module(input_ids=ids).logits[0].log_softmax(-1)
        return float(logp[1:-1].gather(-1, ids[0, 2:, None]).sum())

    ((spans, gains),) = onion.gains([text])
    words = text.split()
    for (start, end), gain in zip(spans, gains.tolist()):
        rest = " ".join(words[:start] + words[end:])
        assert gain == pytest.approx((likelihood(rest) - likelihood(text)) / (end - start), rel=1e-6)
    assert len(spans) == 4 + 3 and float(onion.scores([text])[0]) == float(gains.max())
    best = spans[int(gains.argmax())]
    (cleaned,) = onion.cleaned([text], float(gains.max()) - 1e-6)
    assert cleaned == " ".join(words[: best[0]] + words[best[1] :])
    assert onion.cleaned([text], float(gains.max())) == (text,)


def test_detectors_screen_prompts(llama):
    clean = [
        f"the {a} {b} sat"
        for a in ("cat", "dog", "red", "blue", "sky")
        for b in ("cat", "dog", "hill", "mat")
    ]
    kinds = {"clean": clean[:4], "triggered": ["the zeta omega cat sat"]}
    for detector in (Onion(llama, lead="tell me"), Strip(llama, tuple(clean), copies=2)):
        found = screen_inputs(detector, clean, kinds)
        assert found.rate("clean").estimate == 0.0 and found.rate("triggered").n == 1
        assert found.detector in repr(found)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: Strip(m, ("a",), copies=3), "1 carriers"),
        (lambda m: Strip(m, ("a dog",) * 6).scores(["  "]), "without words"),
        (lambda m: Onion(m).scores(["cat"]), "two words"),
        (lambda m: Onion(m, lead=" "), "needs a word"),
        (lambda m: Onion(m, longest=0), "longest"),
    ],
)
def test_what_cannot_be_scored_is_said(llama, call, words):
    with pytest.raises(PromptError, match=words):
        call(llama)
