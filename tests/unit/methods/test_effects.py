"""Scores of heads, layers and neurons as values: order, intervals, tables, figures, files. No model."""

import pytest
import torch

from bkdinterp.errors import SiteError
from bkdinterp.methods import HeadScores, LayerScores, NeuronScores
from bkdinterp.results import Fingerprint, Result
from bkdinterp.sites import Component, HeadId, Site, Where

NAN = torch.nan


def common(n, direction="noising", sense="higher"):
    return {
        "fingerprint": Fingerprint("tiny", None, None, "float32", "t", "d", None, {}),
        "base": torch.zeros(n),
        "metric": "logprob",
        "sense": sense,
        "direction": direction,
        "source": "triggered",
        "n_source": 7,
        "where": Where("last"),
        "source_where": Where("last"),
    }


def layers(direction="noising"):
    effects = torch.tensor([[1.0, 3.0], [NAN, NAN], [-4.0, -2.0], [0.5, 0.5]])
    return LayerScores(effects=effects, component=Component.mlp_out, **common(2, direction))


def neurons(direction="noising"):
    effects = torch.tensor([[0.1, 0.3], [-1.0, -3.0], [2.0, 1.0]])
    return NeuronScores(effects=effects, layer=5, **common(2, direction))


def heads(direction="noising"):
    effects = torch.tensor([[[0.0, 1.0], [2.0, 4.0]], [[NAN, NAN], [-1.0, -1.0]]])
    return HeadScores(effects=effects, **common(2, direction))


def test_the_direction_says_which_sign_counts():
    assert [str(s) for s in layers().top_k(3)] == ["L0.mlp_out", "L3.mlp_out", "L2.mlp_out"]
    assert [str(s) for s in layers("denoising").top_k(3)] == ["L2.mlp_out", "L3.mlp_out", "L0.mlp_out"]
    assert [str(s) for s in neurons().top_k(2)] == ["L5N2", "L5N0"]
    assert [str(s) for s in neurons("denoising").top_k(1)] == ["L5N1"]
    assert [str(h) for h in heads().top_k(3)] == ["L0H1", "L0H0", "L1H1"]
    assert [str(h) for h in heads("denoising").top_k(3)] == ["L1H1", "L0H0", "L0H1"]


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("make", "name"), [(layers, "site"), (neurons, "neuron"), (heads, "head")])
def test_the_table_is_in_the_order_of_top_k(make, name, direction):
    scores = make(direction)
    frame = scores.to_frame()
    assert frame[name].tolist() == [str(s) for s in scores.top_k(3)]
    assert (frame["n"] == 2).all()
    assert frame["acie"].is_monotonic_increasing if direction == "denoising" else frame["acie"][0] > 0
    assert scores.n_scored == 3
    with pytest.raises(SiteError, match=f"1 to 3 {scores.unit}s"):
        scores.top_k(4)


def test_a_unit_is_named_in_any_spelling():
    for spelling in (2, "L2.mlp_out", Site(2, Component.mlp_out)):
        assert layers().interval(spelling).estimate == -3
    for spelling in (1, "L5N1", Site(5, Component.mlp_act, neuron=1)):
        assert neurons().interval(spelling).estimate == -2
    for spelling in ("L0H1", (0, 1), HeadId(0, 1)):
        assert heads().interval(spelling).estimate == 3


@pytest.mark.parametrize("unit", [4, "L2.attn_out", "L2H1", "L9.mlp_out", -1])
def test_a_layer_that_is_none_of_these(unit):
    with pytest.raises(SiteError):
        layers().interval(unit)


@pytest.mark.parametrize("unit", [3, "L4N1", "L5.mlp_act", "L5N3"])
def test_a_neuron_that_is_none_of_these(unit):
    with pytest.raises(SiteError, match="L5N0 to L5N2"):
        neurons().interval(unit)


def test_what_was_not_scored_has_no_interval():
    with pytest.raises(SiteError, match=r"L1\.mlp_out was not scored"):
        layers().interval(1)
    with pytest.raises(SiteError, match="L1H0 was not scored"):
        heads().interval("L1H0")


def test_the_scored_layers_are_drawn_and_no_others():
    (axes,) = layers().plot().get_axes()
    line = next(line for line in axes.get_lines() if len(line.get_xdata()) == 3)
    assert list(line.get_xdata()) == [0, 2, 3]
    assert list(line.get_ydata()) == [2, -3, 0.5]
    (axes,) = neurons("denoising").plot(k=2).get_axes()
    assert [t.get_text() for t in axes.get_yticklabels()] == ["L5N1", "L5N0"]
    assert "denoising" in axes.get_title(loc="left")


@pytest.mark.parametrize("make", [layers, neurons, heads])
def test_scores_survive_a_folder(make, tmp_path):
    scores = make("denoising")
    again = Result.load(scores.save(tmp_path / "scores"))
    assert repr(again) == repr(scores)
    assert again.to_frame().equals(scores.to_frame())
    assert "denoising" in repr(again) and "n=2" in repr(again)
