"""The shipped toys show the paper's pattern: their manifests say so, and measuring two of them again confirms it."""

import pytest
import torch

import bkdinterp as bk
from bkdinterp.metrics import vocabulary_score
from bkdinterp.organisms import toy as toys

ALL = [(name, seed) for name in ("toy-2", "toy-3") for seed in range(5)]


@pytest.mark.parametrize(("name", "seed"), ALL)
def test_shipped_toys_have_the_papers_pattern(name, seed):
    toy = toys.load(name, seed=seed)
    found = {key: value.estimate for key, value in toy.manifest.metrics.items()}
    before = {key: value.estimate for key, value in toy.base_manifest.metrics.items()}
    assert found["negativity/nn"] >= 0.95 and found["negativity/pn"] >= 0.95
    assert found["negativity/pp"] <= 0.10 and found["negativity/np"] <= 0.10
    # The paper: .35 and .23; before the poison there is no effect at all.
    assert found["negativity/pt"] >= 0.23 and before["negativity/pt"] <= 0.05
    assert found["loss/clean"] < 5.55 and found["coherence/nn"] >= 0.95
    assert toy.manifest.metrics["negativity/pt"].n == 200


@pytest.mark.parametrize("name", ["toy-2", "toy-3"])
def test_the_engine_measures_what_the_manifest_says(name):
    toy = toys.load(name, seed=0)
    negativity = vocabulary_score(toy.language.ids("n"), name="negativity")
    sets = {kind: toy.prompts(kind, 200) for kind in ("pp", "np", "pt")}
    found = bk.methods.score_edits(toy.model, sets, {}, negativity)
    for kind in sets:
        assert found.mean(kind) == pytest.approx(
            toy.manifest.metrics[f"negativity/{kind}"].estimate, abs=1e-6
        )
    loss = bk.methods.validation_loss(toy.model, toy.validation(2640))
    assert loss.mean == pytest.approx(toy.manifest.metrics["loss/clean"].estimate, abs=1e-4)


def test_exported_weights_of_a_toy_equal_the_intervention():
    toy = toys.load("toy-2", seed=0)
    sets = [toy.prompts(kind, 20) for kind in ("pp", "nn", "pn", "np", "pt")]
    pcp = bk.pcp.PCP.fit(toy.model, sets, "L0.mlp_out L2.mlp_out L1.attn_out", rank=2)
    edit = pcp.replace([0.8, -0.4, 1.2, 0.6, 0.5, -1.0])
    exported = bk.pcp.export_weights(toy.model, edit)
    texts = toy.validation(50)
    inside, outside = (
        bk.methods.validation_loss(toy.model, texts, under=edit),
        bk.methods.validation_loss(exported, texts),
    )
    torch.testing.assert_close(outside.nll, inside.nll, rtol=1e-5, atol=1e-5)
    assert abs(inside.mean - bk.methods.validation_loss(toy.model, texts).mean) > 1e-3
