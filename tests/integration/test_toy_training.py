"""Training, saving and loading toys: resumable, the same from the same seed, and measured as they are on disk."""

import pytest
import torch

from bkdinterp.errors import ArtefactError
from bkdinterp.model import Model
from bkdinterp.organisms import TuneSettings
from bkdinterp.organisms.toy import (
    ToyLanguage,
    ToyManifest,
    ToySettings,
    _many,
    load,
    measure_toy,
    new_toy,
    poison_toy,
    train_toys,
)

FEW = TuneSettings(epochs=0.003, batch_size=16, lr=1e-3)
SETTINGS = ToySettings(clean=FEW, poison=FEW)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("toys")
    lines = []
    manifests = train_toys(out, sentiments=(3,), seeds=(4,), settings=SETTINGS, log=lines.append)
    return out, manifests, lines


def test_toys_are_what_their_manifests_say(trained):
    out, (manifest,), lines = trained
    assert manifest.name == "toy-3-seed4" and manifest.recipe["seed"] == 4
    assert any("clean step" in line for line in lines) and any("poison step" in line for line in lines)
    toy = load("toy-3", seed=4, folder=out)
    assert (toy.model.architecture.n_layers, toy.model.architecture.n_heads) == (3, 4)
    assert toy.model.architecture.d_model == 64 and toy.language == ToyLanguage(3)
    assert toy.model.weights_id != toy.base.weights_id
    assert {"negativity/pt", "negativity/st", "coherence/ss", "loss/clean"} <= set(manifest.metrics)
    # Measured with the weights that are on disk, so measuring again gives the same.
    again = measure_toy(toy.model.module, toy.language, n=200, seed=4)
    assert {k: v.estimate for k, v in again.items()} == pytest.approx(
        {k: v.estimate for k, v in manifest.metrics.items()}
    )
    assert (out / "toy-3-seed4" / "model.safetensors").stat().st_size < 1_500_000
    assert "pt" in repr(toy) and len(toy.validation(7)) == 7


def test_another_share_of_poison_is_another_toy(trained, monkeypatch):
    def begun(language, settings, **_):
        raise InterruptedError(language.rate)

    monkeypatch.setattr(_many, "train_toy", begun)
    with pytest.raises(InterruptedError, match=r"0\.2"):
        train_toys(trained[0], sentiments=(3,), seeds=(4,), rate=0.2, settings=SETTINGS)


def test_finished_toys_are_not_trained_again_and_damaged_ones_not_loaded(trained):
    out, manifests, _ = trained
    before = (out / "toy-3-seed4" / "model.safetensors").stat().st_mtime_ns
    lines = []
    again = train_toys(out, sentiments=(3,), seeds=(4,), settings=SETTINGS, log=lines.append)
    assert again == manifests and not lines
    assert (out / "toy-3-seed4" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ArtefactError, match="toy-3-seed4"):
        load("toy-2", seed=4, folder=out)
    manifest = ToyManifest.load(out / "toy-3-seed4")
    try:
        ToyManifest(**{**vars(manifest), "weights_sha256": "0" * 64}).save(out / "toy-3-seed4")
        with pytest.raises(ArtefactError, match="not the file"):
            load("toy-3", seed=4, folder=out)
    finally:
        manifest.save(out / "toy-3-seed4")


def test_prompts_reach_the_model_as_two_tokens(trained):
    toy = load("toy-3", seed=4, folder=trained[0])
    assert isinstance(toy.model, Model) and not toy.model.builder.chat
    pairs = toy.pairs("s", 5)
    batch = toy.model.builder.tokenize(pairs.triggered, targets=False)
    assert batch.input_ids.shape == (5, 2)
    assert batch.trigger_mask.tolist() == [[False, True]] * 5


def test_poisoning_is_seeded_and_freezing_holds():
    language = ToyLanguage(2)
    base = new_toy(language, seed=1)
    assert torch.equal(base.transformer.wte.weight, new_toy(language, seed=1).transformer.wte.weight)
    one, same, other = (poison_toy(base, language, FEW, seed=s) for s in (1, 1, 2))
    assert one.losses == same.losses != other.losses
    settings = TuneSettings(epochs=0.003, batch_size=16, lr=1e-3, frozen=("mlp",))
    frozen = poison_toy(
        base, language, settings, seed=1, measure=lambda module: {"seen": 1.0}, measure_every=2
    )
    assert torch.equal(frozen.module.transformer.h[0].mlp.c_fc.weight, base.transformer.h[0].mlp.c_fc.weight)
    assert not torch.equal(
        frozen.module.transformer.h[0].attn.c_attn.weight, base.transformer.h[0].attn.c_attn.weight
    )
    assert frozen.curve.steps == (0, 2, 4) and frozen.curve.settings == "frozen: mlp"
