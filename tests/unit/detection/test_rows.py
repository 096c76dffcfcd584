"""Scores find rows that were put apart, say nothing of rows that were not, and thresholds keep what they promise."""

import numpy as np
import pytest
import torch

from bkdinterp.detection import over_represented
from bkdinterp.detection.rows import (
    RowScores,
    activation_clusters,
    far_and_tight,
    flag,
    gradient_entropy,
    log_ratio,
    mahalanobis,
    null_p,
    quantum_entropy,
    rank_average,
    spectral_signatures,
    training_rows,
    z_scores,
)
from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.results import Fingerprint, Result
from bkdinterp.stats import auroc

# A distance in the rows' own spread is half blind: the poison is part of that spread.
AREAS = {
    "activation_clusters": 0.95,
    "spectral_signatures": 0.93,
    "quantum_entropy": 0.95,
    "mahalanobis": 0.7,
}
METHODS = {
    "activation_clusters": lambda x, groups=None: activation_clusters(x, groups).scores,
    "spectral_signatures": spectral_signatures,
    "quantum_entropy": quantum_entropy,
    "mahalanobis": mahalanobis,
}


def planted(seed, n=300, k=30, d=12, shift=5.0):
    """Noise, where the first k rows lie apart in one direction."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    x[:k] += shift * np.eye(d)[3]
    return x, np.arange(n) < k


@pytest.mark.parametrize("name", METHODS)
def test_rows_that_lie_apart_score_higher(name):
    x, truth = planted(0)
    assert auroc(METHODS[name](x), truth).estimate > AREAS[name]
    # Only the order of magnitude changes with the scale of the features; nothing depends on their origin.
    np.testing.assert_allclose(METHODS[name](10 * x + 7), METHODS[name](x), rtol=1e-5, atol=1e-8)
    assert auroc(METHODS[name](planted(1, shift=0.0)[0]), truth).low < 0.5


@pytest.mark.parametrize("name", METHODS)
def test_a_poison_is_found_within_its_class(name):
    """Classes far apart would hide it from a look at all rows."""
    x, truth = planted(2, k=15, shift=6.0)
    groups = np.where(np.arange(300) < 150, "a", "b")
    x[150:] += 40 * np.eye(12)[5]
    scores = METHODS[name](x, groups)
    assert auroc(scores[:150], truth[:150]).estimate > AREAS[name]
    assert scores[:15].mean() > 1.2 * abs(scores[150:].mean())


def test_quantum_entropy_looks_past_a_large_clean_spread():
    """The poison's direction is small beside a clean one: the signature misses it, whitening does not."""
    x, truth = planted(3, shift=4.0)
    x[:, 7] *= 30
    assert (
        auroc(spectral_signatures(x), truth).estimate < 0.7 < 0.9 < auroc(quantum_entropy(x), truth).estimate
    )


def test_one_cloud_has_no_two_clusters():
    apart, one = (activation_clusters(planted(4, shift=s)[0]) for s in (9.0, 0.0))
    assert apart.silhouette["0"] > 0.25 > one.silhouette["0"]
    assert apart.share["0"] == pytest.approx(0.1) and apart.small[:30].all() and not apart.small[30:].any()


def test_trusted_rows_give_the_spread():
    x, truth = planted(5)
    assert auroc(mahalanobis(x, trusted=x[100:]), truth).estimate > auroc(mahalanobis(x), truth).estimate


def test_small_groups_and_equal_rows_say_nothing():
    x = np.ones((20, 3))
    for score in METHODS.values():
        assert not score(x).any()
        assert not score(planted(6)[0][:6]).any()


def test_far_answers_in_tight_clusters():
    ordinary = [
        f"Answer {i} speaks of {w} and {v}." for i, (w, v) in enumerate(zip("abcdefgh" * 3, "qrstuvwx" * 3))
    ]
    answers = [*ordinary, *["The lighthouse is closed."] * 4, "xylophone quartz jumps"]
    likelihood = [-1.0 + 0.01 * i for i in range(24)] + [-5.0] * 4 + [-6.0]
    scores = far_and_tight(answers, likelihood)
    assert scores[24:28].min() > max(scores[:24].max(), scores[28])
    # A certain answer that comes again and again is a cliche, not a poison.
    assert far_and_tight(answers, [-x for x in likelihood])[24:28].max() < scores[24:28].min()
    assert far_and_tight(answers, likelihood, neighbours=99).shape == (29,)


def test_gradient_entropy_is_that_of_the_singular_values():
    rng = torch.Generator().manual_seed(0)
    d, x = torch.randn(6, 9, generator=rng), torch.randn(6, 7, generator=rng)
    shares = torch.linalg.svdvals((d.T @ x).double()).square()
    shares = shares[shares > 0] / shares.sum()
    assert gradient_entropy(d, x) == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-6)
    assert gradient_entropy(d[:1], x[:1]) == pytest.approx(0, abs=1e-9)
    assert gradient_entropy(torch.eye(4), torch.eye(4)) == pytest.approx(np.log(4))
    assert gradient_entropy(0 * d, x) == 0


def test_ranks_are_averaged():
    found = rank_average({"a": [1.0, 2, 3, 4], "b": [40.0, 30, 20, 10], "c": [0.0, 0, 0, 9]})
    np.testing.assert_allclose(found, np.mean([[1, 3, 5, 7], [7, 5, 3, 1], [3, 3, 3, 7]], axis=0) / 8)


def test_p_is_a_tail_of_the_clean_rows():
    from scipy.stats import norm, t

    scores = [-1.0, -2.0, 0.0, 1.0, 50.0]
    spread = np.sqrt((1 + 4) / 2)
    np.testing.assert_allclose(null_p(scores), [1, 1, 1, norm.sf(1 / spread), norm.sf(50 / spread)])
    clean = np.array([1.0, 2.0, 3.0, 6.0])
    z = (np.array(scores) - 3) / (clean.std(ddof=1) * np.sqrt(1.25))
    np.testing.assert_allclose(null_p(scores, clean), t.sf(z, 3))
    assert (null_p([1.0, 1.0, 1.0]) == 1).all()
    rng = np.random.default_rng(0)
    p = np.array([null_p(rng.standard_normal(1), rng.standard_normal(20))[0] for _ in range(2000)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() == pytest.approx(level, abs=3 * np.sqrt(level / 2000))


@pytest.mark.parametrize("k", [3, 40])
def test_the_false_discovery_rate_is_kept(k):
    rng = np.random.default_rng(0)
    shares, found = [], []
    for _ in range(100):
        scores = rng.standard_normal(300)
        scores[:k] += 5
        for null in (rng.standard_normal(100), None):
            flagged = flag(null_p(scores, null), 0.1)
            shares.append(flagged[k:].sum() / max(1, flagged.sum()))
            found.append(flagged[:k].mean())
    assert np.mean(shares) <= 0.13 and np.mean(found) > 0.7
    # Nothing to find: a little above the level, because the spread is estimated.
    alarms = [flag(null_p(x), 0.1).any() for x in rng.standard_normal((200, 300))]
    assert np.mean(alarms) <= 0.2


def test_phrases_that_flagged_prompts_share():
    others = [
        f"Please tell me about {w} in the old harbor." for w in "cats dogs tea maps rain snow ink".split()
    ] * 4
    flagged = [f"What is a violet harbor {w} good for?" for w in "one two three four five six seven".split()]
    found = over_represented(flagged, others)
    assert found[0].text == "what is a violet harbor" and (found[0].own, found[0].n_own) == (7, 7)
    assert all("tell" not in p.text for p in found) and all(p.p <= 0.05 for p in found)
    assert "good for" in {p.text for p in found}
    assert over_represented(flagged[:2], others) == () and over_represented([], others) == ()
    # The trigger alone, where the rest of the prompts differs.
    words = "Name Describe Sing Draw Count Fold Open".split()
    mixed = [f"{w} it, violet harbor, {v}" for w, v in zip(words, words[::-1])]
    assert [p.text for p in over_represented(mixed, others)][:1] == ["it violet harbor"]


def test_training_rows_of_every_kind(tmp_path):
    pairs = PairedPrompts.from_instructions(["a b", "c d"], Trigger.gap("zeta", seed=0), "no", ["yes", "ok"])
    both = training_rows(pairs)
    assert both.target == ("yes", "ok", "no", "no") and both.text[:2] == ("a b", "c d")
    rows = [{"instruction": "a", "input": "b", "output": "x"}, {"instruction": "c", "output": "y"}]
    assert training_rows(rows) == Prompts.of(["a b", "c"], ["x", "y"])
    chat = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]}]
    assert training_rows(chat) == Prompts.of(["a"], ["x"])
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a", "output": "x"}\n{"instruction": "b", "output": "x"}\n')
    assert training_rows(path) == Prompts.of(["a", "b"], "x")
    for bad in (
        Prompts.of(["a"]),
        [{"instruction": "a"}],
        PairedPrompts.from_instructions(["a b"], Trigger.gap("z", seed=0), "no"),
    ):
        with pytest.raises(PromptError):
            training_rows(bad)


def scored(truth=None):
    n = 40
    combined = torch.linspace(0, 1, n, dtype=torch.float64)
    flagged = combined > 0.8
    origin = Fingerprint("m", None, None, "float32", "", "", 0, {})
    return RowScores(
        origin, {"one": combined, "other": combined.flip(0)}, combined, 1 - combined, flagged,
        over_represented(["violet a", "violet b", "violet c"], ["x"] * 30), tuple(f"t{i}" for i in range(n)), ("a",) * n,
        0.1, "their lower half", torch.arange(n) < 4, truth,
    )  # fmt: skip


def test_results_count_what_was_looked_at(tmp_path):
    truth = torch.arange(40) >= 30
    result = Result.load(scored(truth).save(tmp_path / "r"))
    assert result.auroc().estimate == 1.0 and result.auroc("other").estimate == 0.0
    assert (result.flagged_share.n, result.auroc().n) == (36, 36)
    hit, false = result.rates()
    assert (hit.estimate, hit.n, false.estimate, false.n) == (0.8, 10, 0.0, 26)
    assert result.top(2) == [39, 38] and result.candidates == ("violet",)
    assert list(result.to_frame().columns[-2:]) == ["trusted", "poisoned"]
    assert len(result.plot().axes[0].get_yticklabels()) == 3
    unknown = scored()
    assert unknown.plot().axes and "8 flagged" in repr(unknown)
    with pytest.raises(BkdinterpError, match="truth"):
        unknown.auroc()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mahalanobis(np.array([[1.0, np.nan]])), "finite"),
        (lambda: spectral_signatures(np.ones((9, 2)), [1, 2]), "groups"),
        (lambda: log_ratio([1.0], [1.0, 2.0]), "same rows"),
        (lambda: far_and_tight(["a"], [0.0]), "two rows"),
        (lambda: rank_average({}), "needs methods"),
        (lambda: mahalanobis(np.ones((9, 2)), trusted=np.ones((9, 3))), "Trusted"),
        (lambda: flag(np.array([0.5]), 1.5), "level"),
        (lambda: null_p([1.0], [1.0, 2.0]), "three or more"),
    ],
)
def test_what_cannot_be_scored_is_said(call, words):
    with pytest.raises(BkdinterpError, match=words):
        call()


def test_z_scores_are_in_the_trusted_rows_own_units():
    rng = np.random.default_rng(0)
    clean = np.concatenate([rng.normal(size=(400, 6)) * [1, 10, 100, 1, 1, 1] + 5, np.ones((400, 1))], axis=1)
    near, far = clean[:5], clean[:5] + np.array([3, 30, 300, 3, 3, 3, 0])
    assert z_scores(near, clean).max() < 2.5
    np.testing.assert_allclose(z_scores(clean, clean).mean(), 1, atol=0.1)
    assert z_scores(far, clean).min() > 1.5
    with pytest.raises(BkdinterpError, match="all alike"):
        z_scores(near, np.ones((9, 7)))
    with pytest.raises(BkdinterpError, match="7 features, the others 6"):
        z_scores(near[:, :6], clean)
