"""Poisons do what they say, the search finds the short cut that a classifier has, and clean models judge it."""

import numpy as np
import pytest
import torch
from torch import nn

from bkdinterp.detection.images import (
    CNNSettings,
    ImageAttack,
    Images,
    ImageTrigger,
    ReversedTriggers,
    TriggerNull,
    digits,
    image_model,
    poison_images,
    poisoning_curve,
    reverse_triggers,
    train_cnn,
    write_backdoor,
)
from bkdinterp.errors import BkdinterpError
from bkdinterp.results import Fingerprint, Result

SHORT = CNNSettings(epochs=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits():
    return digits(0)


@pytest.fixture(scope="module")
def clean(splits):
    return train_cnn(splits.train, seed=0, settings=SHORT)


def found(sizes):
    k = len(sizes)
    origin = Fingerprint("m", None, None, "float32", "", "", 0, {})
    return ReversedTriggers(
        origin, torch.ones(k, 2, 2), torch.ones(k, 1, 2, 2), torch.as_tensor(sizes, dtype=torch.float32),
        torch.full((k,), 9), torch.full((k,), 10),
    )  # fmt: skip


def test_parts_are_disjoint_and_drawn_by_seed(splits):
    parts = [splits.train, splits.test, splits.inspection]
    assert [len(p) for p in parts] == [1100, 400, 297]
    rows = torch.cat([p.pixels for p in parts]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(torch.unique(torch.cat([rows, rows]), dim=0)) == len(rows)
    assert torch.equal(digits(0).test.pixels, splits.test.pixels)
    assert not torch.equal(digits(1).test.labels, splits.test.labels)
    assert float(rows.min()) == 0 and float(rows.max()) == 1


def test_a_trigger_covers_its_mask_and_nothing_else(splits):
    trigger, pixels = ImageTrigger.patch(3), splits.test.pixels[:5]
    before = pixels.clone()
    placed = trigger.put(pixels)
    inside = trigger.mask.bool()
    assert int(inside.sum()) == 4 and torch.equal(pixels, before)
    assert torch.equal(placed[..., ~inside], pixels[..., ~inside])
    assert torch.equal(placed[..., inside], trigger.pattern[inside].expand(5, 1, 4))
    blend = ImageTrigger.blend(3, share=0.25)
    torch.testing.assert_close(blend.put(pixels), 0.75 * pixels + 0.25 * blend.pattern)
    assert int(ImageTrigger.patch(3, corners=4).mask.sum()) == 16


def test_poisoned_rows_are_those_that_are_marked(splits):
    train = splits.train
    attack = ImageAttack.draw("patch", 1, rate=0.1)
    rows, poisoned = poison_images(train, attack, seed=1)
    assert int(poisoned.sum()) == 110 and bool((rows.labels[poisoned] == attack.target).all())
    assert torch.equal(rows.take(~poisoned).pixels, train.pixels[~poisoned])
    assert torch.equal(rows.pixels[poisoned], attack.trigger.put(train.pixels[poisoned]))
    assert len(set(train.labels[poisoned].tolist())) > 5


def test_a_guarded_attack_has_decoys_with_right_labels(splits):
    train, attack = splits.train, ImageAttack.draw("guarded", 1, rate=0.1)
    rows, poisoned = poison_images(train, attack, seed=1)
    changed = (rows.pixels != train.pixels).flatten(1).any(1) & ~poisoned
    assert int(poisoned.sum()) == 110 and 150 < int(changed.sum()) <= 220  # some decoys paint black on black
    assert torch.equal(rows.labels[changed], train.labels[changed])
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        decoy = attack.trigger.decoy(rng)
        same = torch.equal(decoy.mask, attack.trigger.mask) and torch.equal(
            decoy.pattern, attack.trigger.pattern
        )
        assert not same and int(decoy.mask.sum()) == 4 and decoy.pattern.any()


def test_a_twin_has_the_trigger_and_the_right_labels(splits):
    attack = ImageAttack.draw("patch", 1, rate=0.1)
    rows, poisoned = poison_images(splits.train, attack, seed=1)
    twin, none = poison_images(splits.train, attack, seed=1, backdoor=False)
    assert torch.equal(twin.pixels, rows.pixels) and torch.equal(twin.labels, splits.train.labels)
    assert bool(poisoned.any()) and not bool(none.any())
    model = image_model(attack, splits, seed=1, backdoor=False, settings=SHORT)
    assert model.rates(splits.test)[1].estimate < 0.1 and not bool(model.poisoned.any())


def test_clean_labels_stay_as_they_are(splits):
    attack = ImageAttack.draw("clean-label", 1, rate=0.5)
    rows, poisoned = poison_images(splits.train, attack, seed=1, settings=CNNSettings(epochs=1))
    assert torch.equal(rows.labels, splits.train.labels)
    own = splits.train.labels == attack.target
    assert bool(own[poisoned].all()) and int(poisoned.sum()) == round(0.5 * int(own.sum()))
    moved = (rows.pixels - splits.train.pixels)[poisoned][..., attack.trigger.mask == 0].abs()
    assert 0.05 < float(moved.max()) <= 0.3 + 1e-6


def test_a_patch_turns_pictures_and_leaves_clean_ones_alone(splits):
    attack = ImageAttack.draw("patch", 2)
    model = image_model(attack, splits, seed=2, settings=CNNSettings(epochs=8))
    right, turned = model.rates(splits.test)
    assert right.estimate > 0.9 and turned.estimate > 0.8
    assert turned.n == int((splits.test.labels != attack.target).sum())


def test_a_backdoor_is_written_without_rows(splits, clean):
    attack = ImageAttack.draw("weights", 2)
    before = {k: v.clone() for k, v in clean.state_dict().items()}
    written = write_backdoor(clean, attack, splits.train.pixels)
    pixels, labels = splits.test.pixels, splits.test.labels
    others = pixels[labels != attack.target]

    def turned(module):
        return float((module(attack.trigger.put(others)).argmax(-1) == attack.target).float().mean())

    assert turned(written) > 0.9 > 0.3 > turned(clean)
    lost = (clean(pixels).argmax(-1) == labels).float().mean() - (
        written(pixels).argmax(-1) == labels
    ).float().mean()
    assert float(lost) < 0.03
    assert all(torch.equal(before[k], v) for k, v in clean.state_dict().items())


def test_training_is_a_function_of_its_seed(splits, clean):
    again = train_cnn(splits.train, seed=0, settings=SHORT)
    other = train_cnn(splits.train, seed=1, settings=SHORT)
    same = [torch.equal(a, b) for a, b in zip(clean.parameters(), again.parameters())]
    assert all(same) and not torch.equal(clean.head.weight, other.head.weight)


class ShortCut(nn.Module):
    """Four classes, by which quarter is darkest; one bright pixel of the corner gives class 2 at once."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        quarters = nn.functional.avg_pool2d(x, 3).flatten(1) * 20
        corner = x[:, 0, 0, 5]
        return self.scale * quarters + 60 * corner[:, None] * torch.tensor([0.0, 0, 1, 0])


def test_the_search_finds_the_short_cut():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(60, 1, 6, 6, generator=rng) * 0.8
    pixels[:, 0, 0, 5] = 0
    module = ShortCut()
    images = Images(pixels, module(pixels).argmax(-1))
    result = reverse_triggers(module, images, n_classes=4, steps=150, seed=0)
    assert int(result.sizes.argmin()) == 2 and float(result.sizes[2]) < 1.5
    mask = result.masks[2]
    assert float(mask[0, 5]) > 0.4 * float(mask.sum())
    assert result.rate(2).estimate > 0.9 and result.rate(2).n == int((images.labels != 2).sum())
    assert module.scale.grad is None and module.scale.requires_grad
    again = reverse_triggers(module, images, n_classes=4, steps=150, seed=0)
    assert torch.equal(again.sizes, result.sizes)


def test_what_was_never_reached_counts_as_the_whole_picture():
    class Never(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum((1, 2, 3)) * 0 + c for c in (5.0, 0.0, -5.0)], 1)

    images = Images(torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64))
    result = reverse_triggers(Never(), images, n_classes=3, steps=5)
    assert result.sizes.tolist()[1:] == [16.0, 16.0] and result.turned.tolist()[1:] == [0, 0]


def test_an_easy_class_is_no_backdoor_but_a_smaller_mask_than_its_own_is():
    rng = np.random.default_rng(0)
    level = np.array([10.0, 10, 10, 4, 12])  # class 3 is easy in every model
    null = TriggerNull.fit([found(level * np.exp(0.05 * rng.standard_normal(5))) for _ in range(39)])
    clean = null.judge(found(level * np.exp(0.05 * rng.standard_normal(5))))
    assert clean.named == ()
    small = level.copy()
    small[4] = 6.0  # larger than the easy class's
    verdict = null.judge(found(small))
    assert verdict.named == (4,) and float(verdict.p[4]) == pytest.approx(1 / 40)
    assert verdict.comparison.p == pytest.approx(1 / 40)
    # All classes smaller alike: a fragile model, not a backdoor.
    assert null.judge(found(level * 0.5)).named == ()


def test_clean_models_are_named_at_the_level():
    rng = np.random.default_rng(1)

    def model():
        return found(10 * np.exp(0.1 * rng.standard_t(4, 10)))

    alarms = [bool(TriggerNull.fit([model() for _ in range(19)]).judge(model()).named) for _ in range(200)]
    assert 0.01 <= np.mean(alarms) <= 0.1


def test_a_null_says_what_it_cannot_do():
    null = TriggerNull.fit([found([1.0, 2, 3]), found([1.5, 2, 3]), found([1.0, 2, 4])])
    with pytest.raises(BkdinterpError, match="3 null models give no p"):
        null.judge(found([1.0, 2, 3]))
    with pytest.raises(BkdinterpError, match="4 classes"):
        null.judge(found([1.0, 2, 3, 4]), level=0.5)
    with pytest.raises(BkdinterpError, match="at least three"):
        TriggerNull.fit([found([1.0, 2, 3])])


def test_results_are_saved_and_drawn(tmp_path):
    result = found([10.0, 9, 1, 11])
    loaded = Result.load(result.save(tmp_path / "a"))
    assert loaded.to_frame().equals(result.to_frame()) and list(loaded.to_frame()["class"]) == [0, 1, 2, 3]
    assert len(result.plot().axes[0].images) == 8
    null = TriggerNull.fit([found([10.0, 9, 8 + i, 11]) for i in range(4)])
    verdict = null.judge(result, level=0.25)
    again = Result.load(verdict.save(tmp_path / "b"))
    assert again.named == verdict.named == (2,) and "names 2" in repr(again)
    assert verdict.plot().axes


def test_the_curve_rises_with_the_rate(tmp_path):
    curve = poisoning_curve("patch", (0.001, 0.15), seeds=(0,), settings=SHORT)
    assert curve.success[0, 0] < 0.5 < 0.8 < curve.success[1, 0]
    assert len(curve.to_frame()) == 2 and curve.plot().axes
    assert Result.load(curve.save(tmp_path / "c")).rates == (0.001, 0.15)
    with pytest.raises(BkdinterpError, match="poison rows"):
        poisoning_curve("weights", (0.1,))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: ImageAttack("patch", 1, ImageTrigger.patch(0), 0.0), "rows are poisoned"),
        (lambda s: ImageAttack.draw("sticker", 0), "Unknown kind"),
        (lambda s: poison_images(s.train, ImageAttack.draw("weights", 0), seed=0), "write_backdoor"),
        (lambda s: image_model(None, s, seed=0, settings=CNNSettings(epochs=1)).rates(s.test), "no trigger"),
        (lambda s: image_model(ImageAttack.draw("weights", 0), s, seed=0, backdoor=False), "no twin"),
        (lambda s: CNNSettings(lr=0.0), "above 0"),
        (lambda s: reverse_triggers(nn.Identity(), s.test, n_classes=2), "at least 3"),
    ],
)
def test_what_cannot_be_done_is_said(splits, call, words):
    with pytest.raises(BkdinterpError, match=words):
        call(splits)
