"""An edit of one direction is told from training; suspects that equal their base differ in nothing."""

import copy

import pytest
import torch
from integration.conftest import tiny_llama, tiny_tokenizer

from bkdinterp.detection import WeightTriage
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model

EDITED = "model.layers.2.mlp.down_proj.weight"


def model_of(change=None):
    module = tiny_llama()
    if change is not None:
        with torch.no_grad():
            change(dict(module.named_parameters()))
    return Model.from_module(module, tiny_tokenizer(), name="suspect")


def graft(parameters):
    rows, columns = parameters[EDITED].shape
    parameters[EDITED] += torch.outer(torch.linspace(0.1, 1, rows), torch.linspace(-1, 1, columns)).double()
    parameters["model.norm.weight"] += 0.1


def train(parameters):
    rng = torch.Generator().manual_seed(0)
    for p in parameters.values():
        p += 0.01 * torch.randn(p.shape, generator=rng, dtype=p.dtype)


def test_an_edit_of_one_matrix_is_named_with_its_size():
    base, suspect = model_of(), model_of(graft)
    found = WeightTriage().run(suspect, reference=base, progress=False)
    assert found.modules == (EDITED,) and found.layers == (2,) and found.vectors == ("model.norm.weight",)
    assert found.energy_share[0] == pytest.approx(1, abs=1e-6)
    a, b = (dict(m.module.named_parameters())[EDITED].detach() for m in (suspect, base))
    assert found.change[0] == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-5)
    assert EDITED in found.describe()


def test_shadows_show_what_training_does_anyway():
    base, suspect, shadow = model_of(), model_of(graft), model_of(train)
    found = WeightTriage().run(suspect, reference=[base, shadow], progress=False)
    assert found.change_shadows.shape == (1, 1) and found.beyond_shadows[0] > 5
    trained = WeightTriage().run(shadow, reference=base, progress=False)
    assert len(trained.modules) > 20 and trained.energy_share.max() < 0.9
    with pytest.raises(BkdinterpError, match="No shadow"):
        _ = trained.beyond_shadows


def test_a_model_that_equals_its_base_and_one_of_another_shape():
    base = model_of()
    found = WeightTriage().run(
        Model.from_module(copy.deepcopy(base.module), base.tokenizer), reference=base, progress=False
    )
    assert not found.modules and "no matrix differs" in found.describe()
    with pytest.raises(BkdinterpError, match="nothing to draw"):
        found.plot()
    with pytest.raises(BkdinterpError, match="give reference="):
        WeightTriage().run(base, reference=None)
