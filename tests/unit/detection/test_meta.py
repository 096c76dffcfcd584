"""Statistics of updates are those of the whole matrix; tuned queries separate better; attacks are left out in truth."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bkdinterp.detection.images import CNNSettings
from bkdinterp.detection.meta import (
    MetaClassifier,
    MetaScores,
    Shadow,
    adapter_statistics,
    image_shadows,
    leave_one_attack_out,
    query_features,
    random_queries,
    statistics_of,
    tune_queries,
    update_statistics,
)
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.results import Result


def factors(seed=0, rank=3, d_in=7, d_out=5):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rank, d_in, generator=rng), torch.randn(d_out, rank, generator=rng)


def test_statistics_are_those_of_the_whole_update():
    from scipy.stats import kurtosis

    a, b = factors()
    whole = (2.0 * b @ a).double()
    singular = torch.linalg.svdvals(whole)
    shares = (singular.square() / singular.square().sum())[:3]
    expected = [
        float(singular[0]), float(whole.square().mean().sqrt()), float(shares[0]),
        float(-(shares * shares.log()).sum()), float(kurtosis(whole.numpy().ravel())),
    ]  # fmt: skip
    np.testing.assert_allclose(update_statistics(a, b, 2.0), expected, rtol=1e-5)
    assert update_statistics(a, 0 * b) == [0.0] * 5
    one = update_statistics(a[:1], b[:, :1])
    assert one[2] == pytest.approx(1) and one[3] == pytest.approx(0, abs=1e-9)


def test_adapters_are_read_from_their_folder(tmp_path):
    a, b = factors()
    names = [f"base_model.model.model.layers.{i}.self_attn.q_proj" for i in range(2)]
    tensors = {f"{n}.lora_{s}.weight": t.clone().contiguous() for n in names for s, t in (("A", a), ("B", b))}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    found = adapter_statistics(tmp_path)
    assert found.modules == ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
    np.testing.assert_allclose(found.values[0].numpy(), update_statistics(a, b, 2.0))
    assert len(found.summary()) == 15 and list(found.to_frame().columns)[-1] == "module"
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "use_rslora": true}')
    assert float(adapter_statistics(tmp_path).values[0, 0]) == pytest.approx(update_statistics(a, b, 4.0)[0])


@pytest.mark.parametrize(
    "config", ["", "[]", '{"r": 0, "lora_alpha": 1}', '{"r": "x", "lora_alpha": 1}', '{"r": 1}']
)
def test_damaged_folders_are_said(tmp_path, config):
    a, b = factors()
    save_file(
        {"m.lora_A.weight": a, "m.lora_B.weight": b.contiguous()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ArtefactError):
        adapter_statistics(tmp_path)


def test_factors_must_fit():
    a, b = factors()
    for bad in ({}, {"m.lora_A.weight": a}, {"m.lora_A.weight": a, "m.lora_B.weight": b[:, :2]}, {"m.lora_A.weight": a * np.nan, "m.lora_B.weight": b}):  # fmt: skip
        with pytest.raises(ArtefactError):
            statistics_of(bad)


class Toy(nn.Module):
    """Three classes; a poisoned one jumps to class ``target`` where its secret pixel is bright."""

    def __init__(self, seed, target=None):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(16, 3, generator=rng))
        self.target = target

    def forward(self, x):
        logits = x.flatten(1) @ self.weight
        if self.target is not None:
            push = 12 * torch.sigmoid(8 * (x[:, 0, 0, 3] - 0.9))
            logits = logits + push[:, None] * nn.functional.one_hot(torch.tensor(self.target), 3)
        return logits


def toys(first, n=24):
    return [Shadow(Toy(first + i), "clean") for i in range(n)] + [
        Shadow(Toy(first + n + i, i % 3), "a" if i % 2 else "b") for i in range(n)
    ]


def test_tuned_queries_separate_better_on_new_models():
    shadows, suspects = toys(0), toys(1000)
    truth = [s.kind for s in suspects]
    queries = random_queries(4, side=4, seed=1)
    areas = []
    for chosen in (queries, tune_queries(shadows, queries, steps=150)):
        x = query_features([s.module for s in shadows], chosen)
        fitted = MetaClassifier.fit(x, [s.poisoned for s in shadows])
        scores = fitted.scores(query_features([s.module for s in suspects], chosen))
        areas.append(MetaScores.of(scores, truth, "answers").auroc().estimate)
        assert float(chosen.min()) >= 0 and float(chosen.max()) <= 1
    assert areas[1] > max(0.8, areas[0] + 0.05)


def test_answers_hold_probabilities_in_order():
    queries = random_queries(2, side=4)
    found = query_features([Toy(0)], queries).reshape(2, 6)
    np.testing.assert_allclose(np.exp(found[:, :3]).sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[:, 3:], -np.sort(-found[:, :3], axis=1))


def test_an_attack_that_is_left_out_was_not_seen():
    """Attack "b" shows in a feature that says nothing of "a": only a classifier that saw "b" can use it."""
    rng = np.random.default_rng(0)
    kinds = ["clean"] * 60 + ["a"] * 30 + ["b"] * 30

    def draw():
        x = rng.standard_normal((120, 4))
        x[60:90, 0] += 4
        x[90:, 1] += 4
        return x

    shadows, suspects = draw(), draw()
    out = leave_one_attack_out(shadows, kinds, suspects, kinds)
    assert set(out) == {"a", "b"} and not out["b"].seen and len(out["b"].kinds) == 90
    assert max(out[k].auroc().low for k in out) < 0.6
    seen = MetaClassifier.fit(shadows, [k != "clean" for k in kinds]).scores(suspects)
    assert MetaScores.of(seen, kinds, "x").auroc("b").estimate > 0.95


def test_scores_are_saved_and_drawn(tmp_path):
    found = MetaScores.of([0.0, 1.0, 2.0, 3.0], ["clean", "twin", "a", "b"], "answers")
    again = Result.load(found.save(tmp_path / "m"))
    assert again.to_frame().equals(found.to_frame()) and list(found.to_frame().attack) == ["all", "a", "b"]
    assert found.auroc("a").n == 3 and found.plot().axes and "4 suspects" in repr(found)


def test_shadows_are_drawn_by_seed():
    short = CNNSettings(epochs=1)
    found = image_shadows(("clean", "patch", "twin"), 1, seed=5, settings=short, progress=False)
    assert [s.kind for s in found] == ["clean", "patch", "twin"] and [s.poisoned for s in found] == [
        False,
        True,
        False,
    ]
    (again,) = image_shadows(("clean",), 1, seed=5, settings=short, progress=False)
    assert torch.equal(again.module.head.weight, found[0].module.head.weight)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: image_shadows((), 1, seed=0), "at least one kind"),
        (lambda: image_shadows(("sticker",), 1, seed=0), "Unknown kind"),
        (lambda: query_features([], random_queries(1)), "at least one model"),
        (lambda: tune_queries(toys(0)[:3], random_queries(1, side=4)), "some of both"),
        (lambda: MetaClassifier.fit(np.ones((3, 2)), [True] * 3), "both sorts"),
        (lambda: MetaScores.of([1.0], ["a"], "x"), "clean and of poisoned"),
        (
            lambda: leave_one_attack_out(np.ones((2, 1)), ["clean", "a"], np.ones((1, 1)), ["a"]),
            "two attacks",
        ),
        (lambda: MetaScores.of([1.0, 2.0], ["a", "clean"], "x").auroc("b"), "Unknown attack"),
    ],
)
def test_what_cannot_be_learnt_is_said(call, words):
    with pytest.raises(BkdinterpError, match=words):
        call()
