"""lens_curve against the plain lens and plain logits; intervals, differences, tables, figures and refusals."""

from dataclasses import replace
from typing import Any

import matplotlib
import pytest
import torch

from bkdinterp.errors import BkdinterpError, PlanError, SiteError
from bkdinterp.interventions import ZeroAblate
from bkdinterp.methods import LensCurve, lens_curve, logit_lens
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.results import Result

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def found(llama, pairs):
    return lens_curve(llama, pairs)


def test_each_point_is_the_plain_lens(llama, pairs, found):
    n_layers = llama.architecture.n_layers
    assert found.sets == ("clean", "triggered") and found.layers == tuple(range(n_layers))
    for i, prompts in enumerate((pairs.clean, pairs.triggered)):
        plain = logit_lens(llama, prompts)
        assert plain.sites == tuple(f"L{k}.resid_post" for k in range(n_layers))
        torch.testing.assert_close(found.probabilities[i], plain.target_probabilities, rtol=1e-8, atol=1e-12)
        assert plain.target_ranks is not None and torch.equal(found.ranks[i], plain.target_ranks)
    batch = llama.builder.tokenize(pairs.triggered, targets=False)
    with torch.no_grad():
        logits = llama.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits[:, -1]
    wanted = logits.softmax(-1)[range(len(pairs)), found.target_ids[1]].double()
    torch.testing.assert_close(found.probabilities[1, -1], wanted, rtol=1e-6, atol=1e-10)


def test_components_layers_and_edits(llama, pairs):
    some = lens_curve(llama, pairs, component="mlp_out", layers=[2, 0])
    plain = logit_lens(llama, pairs.clean, "L2.mlp_out L0.mlp_out")
    assert plain.target_ranks is not None and torch.equal(some.ranks[0], plain.target_ranks)
    assert some.layers == (2, 0)
    edit = ZeroAblate("L1.mlp_out", where="all")
    edited = lens_curve(llama, pairs, layers=[3], under=edit)
    after = logit_lens(llama, pairs.clean, "L3.resid_post", under=edit)
    torch.testing.assert_close(edited.probabilities[0], after.target_probabilities)


def test_the_table_has_probability_and_rank_with_intervals(found, tmp_path):
    frame = found.to_frame()
    assert len(frame) == len(found.sets) * len(found.layers)
    for row in frame.itertuples():
        p, r = found.probability(row.prompts, row.layer), found.rank(row.prompts, row.layer)
        assert 0 <= row.low <= row.probability <= row.high <= 1 and (row.low, row.high) == (p.low, p.high)
        assert row.rank_low <= row.rank <= row.rank_high and (row.rank_low, row.rank) == (r.low, r.estimate)
        assert row.name == f"L{row.layer}.resid_post" and row.n == found.n
    again = Result.load(found.save(tmp_path / "curve"))
    assert isinstance(again, LensCurve) and again.to_frame().equals(frame) and repr(again) == repr(found)


def test_differences_are_paired_and_simultaneous(found):
    gap = found.difference()
    wanted = (found.probabilities[1] - found.probabilities[0]).mean(-1)
    torch.testing.assert_close(torch.from_numpy(gap.estimate), wanted)
    beside = found.to_frame(beside=found)
    assert (beside.difference == 0).all() and (beside.difference_low == 0).all()


def test_the_layer_from_which_on_the_target_leads(found):
    ranks = torch.tensor([[5, 1, 5, 1, 1]]).T.expand(5, found.n)
    made = replace(
        found, sets=("a",), layers=tuple(range(5)), ranks=ranks[None].clone(), target_ids=found.target_ids[:1],
        log_probabilities=torch.full((1, 5, found.n), -1.0),
    )  # fmt: skip
    assert made.first_layer("a") == 3 and made.first_layer("a", rank=5) == 0
    assert replace(made, ranks=made.ranks.flip(1)).first_layer("a") is None


def test_figures(found):
    both = found.plot()
    assert [a.get_title(loc="left") for a in both.axes] == ["mean probability", "median rank"]
    low, high = both.axes[1].get_ylim()
    assert low > high and both.axes[1].get_yscale() == "log"  # 1 at the top
    assert [line.get_label() for line in both.axes[0].lines] == ["clean", "triggered"]
    assert len(found.plot("rank").axes) == 1
    other = replace(found, fingerprint=replace(found.fingerprint, adapter="twin"))
    two = found.plot(beside=other)
    assert "twin" in two.axes[1].get_title(loc="left") and two.axes[0].get_ylim() == two.axes[1].get_ylim()
    with pytest.raises(BkdinterpError, match="both"):
        found.plot("both", beside=other)
    with pytest.raises(BkdinterpError, match="layers"):
        found.plot(beside=replace(found, layers=(9, *found.layers[1:])))


def test_refusals(llama, pairs, found):
    bare: Any = PairedPrompts(replace(pairs.clean, target=None), replace(pairs.triggered, target=None))
    cases: list[tuple[Any, str]] = [
        (bare, "'clean' has no targets"),
        ({}, "at least 1"),
        ({"a": pairs.clean, "b": pairs.clean.subset([0])}, "one size"),
        ({"a": "text"}, "not Prompts"),
    ]
    for prompts, words in cases:
        with pytest.raises(PlanError, match=words):
            lens_curve(llama, prompts)
    with pytest.raises(SiteError, match="component"):
        lens_curve(llama, pairs, component="mlp_act")
    with pytest.raises(SiteError, match="twice"):
        lens_curve(llama, pairs, layers=[1, 1])
    with pytest.raises(PlanError, match="prompts"):
        found.rank("sham", 0)
    with pytest.raises(PlanError, match="Layer 77"):
        found.rank("clean", 77)


def test_sets_of_ones_own(llama, pairs):
    prompts = Prompts(("the cat", "a hill"), ((),) * 2, ("sorry",) * 2)
    found = lens_curve(llama, {"plain": prompts})
    assert found.sets == ("plain",) and found.n == 2
    assert "plain p=" in repr(found)
