"""Classifiers, random directions and splits on arrays: equal to scikit-learn, chance without information."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bkdinterp.errors import PromptError
from bkdinterp.methods.probe._layer_classifiers import fit_classifiers
from bkdinterp.methods.probe._probe_split import grouped_split, paper_split, unseen
from bkdinterp.methods.probe._random_thresholds import RandomDirections, best_thresholds
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.stats import p_value

KINDS = ["logistic", "svm", "mlp"]


def data(n=60, d=8, layers=3, shift=1.5, seed=0):
    """Layer 0 separable by ``shift`` in one direction, each later layer by twice as much."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) >= n // 2
    features = torch.randn(layers, n, d, generator=rng) + 3.0
    for layer in range(layers):
        features[layer, labels, layer] += shift * 2**layer
    order = torch.randperm(n, generator=rng)
    return features, labels, order[: int(0.6 * n)], order[int(0.6 * n) : int(0.8 * n)], order[int(0.8 * n) :]


def fit(kind, features, labels, train, validation, **extra):
    return fit_classifiers(kind, features, labels, train=train, validation=validation, seed=0, **extra)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("logistic", LogisticRegression(max_iter=2000)), ("svm", SVC(kernel="rbf", C=1.0, gamma="scale"))],
)
def test_decisions_equal_a_scikit_learn_pipeline_of_the_train_layer(kind, reference):
    features, labels, train, validation, test = data()
    fitted = fit(kind, features, labels, train, validation)
    pipeline = make_pipeline(StandardScaler(), reference)
    for i in range(3):
        pipeline.fit(features[i, train].double().numpy(), labels[train].numpy())
        for k in range(3):  # layer k's features are scaled with layer i's scaler
            wanted = pipeline.decision_function(features[k, test].double().numpy())
            np.testing.assert_allclose(
                fitted.decision(i, features[k, test]).numpy(), wanted, rtol=1e-5, atol=1e-6
            )
            assert np.array_equal(fitted.predict(i, features[k, test]).numpy(), wanted > 0)


def test_layers_trained_side_by_side_equal_layers_trained_alone():
    features, labels, train, validation, test = data()
    together = fit("mlp", torch.stack([features[1], features[1]]), labels, train, validation)
    # The copies share no parameter, so the first is the same beside anything.
    beside = fit("mlp", torch.stack([features[1], features[1] * 50]), labels, train, validation)
    x = features[1, test]
    assert torch.allclose(together.decision(0, x), beside.decision(0, x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.decision(0, x), together.decision(1, x), rtol=1e-2)


def test_the_best_epoch_differs_from_the_last_and_has_the_lower_validation_loss():
    features, labels, train, validation, _ = data(shift=0.4)
    losses = {}
    for best in (True, False):
        fitted = fit("mlp", features, labels, train, validation, best_epoch=best)
        held = torch.stack([fitted.decision(i, features[i, validation]) for i in range(3)])
        wanted = labels[validation].float().expand_as(held)
        losses[best] = torch.nn.functional.binary_cross_entropy_with_logits(
            held, wanted, reduction="none"
        ).mean(1)
    assert (losses[True] <= losses[False]).all()
    assert (losses[True] < losses[False] - 1e-4).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_classifier_learns_what_is_there_and_is_deterministic(kind):
    features, labels, train, validation, test = data(n=120)
    fitted, again = (fit(kind, features, labels, train, validation) for _ in range(2))
    accuracy = [
        float((fitted.predict(i, features[i, test]) == labels[test]).double().mean()) for i in range(3)
    ]
    assert accuracy[2] >= 0.95
    assert torch.equal(fitted.decision(1, features[2]), again.decision(1, features[2]))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_features_get_equal_answers(kind):
    features = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0)).expand(2, 40, 5).contiguous()
    labels = torch.arange(40) >= 20
    train = torch.tensor([*range(12), *range(20, 32)])
    fitted = fit(kind, features, labels, train, train)
    null = RandomDirections.fit(features, labels, train=train, n_random=50, seed=0)
    assert (fitted.predict(0, features[0]) == labels).double().mean() == 0.5
    assert (null.accuracy(features, labels) == 0.5).all()


def test_best_thresholds_equal_an_exhaustive_search():
    rng = torch.Generator().manual_seed(3)
    projected = torch.randn(15, 40, generator=rng, dtype=torch.float64).mul(2).round()  # many ties
    labels = torch.rand(15, generator=rng) > 0.4
    threshold, sign = best_thresholds(projected, labels)
    called = sign * (projected - threshold) > 0
    found = (called == labels[:, None]).sum(0)
    for column in range(40):
        cuts = torch.arange(-20, 20) + 0.5
        above = projected[:, column][:, None] > cuts
        right = (above == labels[:, None]).sum(0)
        assert int(found[column]) == max(int(right.max()), 15 - int(right.min()))


def test_random_directions_are_seeded_and_differ_between_layers():
    features, labels, train, _, test = data()
    same = torch.stack([features[2], features[2]])
    one, two, other = (
        RandomDirections.fit(same, labels, train=train, n_random=200, seed=s).accuracy(
            same[:, test], labels[test]
        )
        for s in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, other)


def test_p_value_is_small_where_the_probe_finds_one_direction_and_large_without_information():
    features, labels, train, validation, test = data(n=200, d=40, layers=3, shift=2.0)
    p = {}
    for shuffled in (False, True):
        values = []
        for seed in range(8 if shuffled else 1):
            y = (
                labels[torch.randperm(200, generator=torch.Generator().manual_seed(seed))]
                if shuffled
                else labels
            )
            fitted = fit("logistic", features, y, train, validation)
            null = RandomDirections.fit(features, y, train=train, n_random=199, seed=0)
            random = null.accuracy(features[:, test], y[test])
            for i in range(3):
                own = float((fitted.predict(i, features[i, test]) == y[test]).double().mean())
                values.append(p_value(own, random[i]))
        p[shuffled] = np.array(values)
    assert p[False][2] <= 0.01
    assert 0.3 <= p[True].mean() <= 0.8
    assert (p[True] <= 0.05).mean() <= 0.2


def _pairs(n, repeat=1):
    texts = [f"question number {i % (n // repeat)} please" for i in range(n)]
    return PairedPrompts.from_instructions(texts, Trigger.prefix("SUDO"), target="no")


def test_grouped_split_keeps_pairs_and_repeated_instructions_together():
    pairs = _pairs(40, repeat=2)
    split = grouped_split(pairs, seed=0)
    parts = [split.train, split.validation, split.test]
    texts = [{pairs.clean.text[int(e) % 40] for e in part} for part in parts]
    assert [len(part) for part in parts] == [48, 16, 16]
    assert len(set.union(*texts)) == sum(map(len, texts))
    assert sorted(torch.cat(parts).tolist()) == list(range(80))
    for part in parts:
        assert sorted(part[part < 40].tolist()) == sorted((part[part >= 40] - 40).tolist())
    assert not torch.equal(split.test, grouped_split(pairs, seed=1).test)


def test_paper_split_reproduces_the_released_indices():
    split = paper_split(_pairs(50))
    train, rest = train_test_split(np.arange(100), test_size=0.4, random_state=42)
    validation, _ = train_test_split(rest, test_size=0.5, random_state=42)
    _, icla = train_test_split(np.arange(100), test_size=0.2, random_state=42)
    assert [p.tolist() for p in (split.train, split.validation, split.test)] == [
        train.tolist(),
        validation.tolist(),
        icla.tolist(),
    ]
    assert not set(icla) & set(train)  # no example twice,
    assert {e % 50 for e in icla} & {e % 50 for e in train}  # but the pairs' other members


@pytest.mark.parametrize("split", [lambda p: grouped_split(p, seed=0), paper_split])
def test_few_pairs_are_refused_by_number(split):
    with pytest.raises(PromptError, match="got 9"):
        split(_pairs(9))


def test_repeated_instructions_are_refused():
    with pytest.raises(PromptError, match="5 different"):
        grouped_split(_pairs(20, repeat=4), seed=0)


def test_other_pairs_are_tested_where_their_instruction_is_unseen():
    pairs = _pairs(40)
    split = grouped_split(pairs, seed=0)
    # A sham trigger may be a word of the texts.
    sham = PairedPrompts.from_instructions(
        pairs.clean.text, Trigger.prefix("please"), target="no", allow_triggered=True
    )
    assert torch.equal(unseen(pairs, split, sham), split.test)
    fresh = PairedPrompts.from_instructions(
        ["new one", pairs.clean.text[int(split.train[0])]], Trigger.prefix("SUDO"), "no"
    )
    assert unseen(pairs, split, fresh).tolist() == [0, 2]
    with pytest.raises(PromptError, match="every one of these 1"):
        unseen(pairs, split, fresh.subset([1]))
