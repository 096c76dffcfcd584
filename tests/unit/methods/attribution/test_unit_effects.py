"""Scores of heads, layers and neurons as values: order, intervals, tables, figures, files. No model."""

import math

import pytest
import torch

from bkdinterp.errors import BkdinterpError, SiteError
from bkdinterp.methods import HeadScores, LayerScores, NeuronScores
from bkdinterp.results import Fingerprint, Result
from bkdinterp.sites import Component, HeadId, HeadSet, Site, Where
from bkdinterp.stats import adjusted_p, simultaneous

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
    bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in axes.patches}
    assert bars == pytest.approx({0: 2, 2: -3, 3: 0.5})
    # From a line at zero, and joined by nothing.
    assert [list(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == "-"] == [[0, 0]]
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


def many(direction="noising", n=24):
    """4 x 5 heads of noise, layer 1 not scored; L0H1 and L3H2 promote, L2H0 hinders."""
    rng = torch.Generator().manual_seed(0)
    effects = torch.randn(4, 5, n, generator=rng)
    effects[0, 1] += 2.5
    effects[3, 2] += 1.5
    effects[2, 0] -= 2
    effects[1] = NAN
    return HeadScores(effects=effects, **common(n, direction))


def test_significant_heads_are_those_that_differ_from_0_among_all_scored():
    scores = many()
    assert [str(h) for h in scores.significant()] == ["L0H1", "L3H2", "L2H0"]
    assert scores.significant() == HeadSet.of("L0H1 L3H2 L2H0") and scores.significant().grid == (4, 5)
    assert [str(h) for h in many("denoising").significant()] == ["L2H0", "L3H2", "L0H1"]
    assert len(scores.significant(1.0)) == scores.n_scored == 15
    assert len(scores.significant(0.0)) == 0
    flat = scores.effects.flatten(0, 1)
    assert scores.p_adjusted.shape == (4, 5)
    assert torch.equal(
        scores.p_adjusted.flatten().nan_to_num(), torch.from_numpy(adjusted_p(flat)).nan_to_num()
    )
    with pytest.raises(BkdinterpError, match="level=5"):
        scores.significant(5)


def test_none_is_an_answer():
    noise = HeadScores(
        effects=torch.randn(4, 5, 24, generator=torch.Generator().manual_seed(1)), **common(24)
    )
    assert noise.significant() == HeadSet((), (4, 5))
    # Two prompts can show nothing.
    assert layers().significant() == () and neurons().significant() == ()


def test_layers_and_neurons_have_significant_sites():
    rng = torch.Generator().manual_seed(0)
    effects = torch.randn(6, 30, generator=rng)
    effects[4] += 2
    found = LayerScores(effects=effects, component=Component.mlp_out, **common(30))
    assert found.significant() == (Site(4, Component.mlp_out),)
    units = NeuronScores(effects=effects, layer=5, **common(30))
    assert units.significant() == (Site(5, Component.mlp_act, neuron=4),)


def test_table_repr_and_figures_show_simultaneous_intervals():
    scores = many()
    wanted = simultaneous(scores.effects.flatten(0, 1))
    frame = scores.to_frame()
    assert list(frame.columns) == ["head", "layer", "index", "acie", "low", "high", "p_adjusted", "std", "n"]
    assert frame["head"][0] == "L0H1" and len(frame) == 15
    assert (frame["low"][0], frame["high"][0]) == (wanted.low[1], wanted.high[1])
    assert (frame["p_adjusted"] <= 0.05).sum() == 3
    pointwise = scores.interval("L0H1")
    assert frame["low"][0] < pointwise.low < pointwise.high < frame["high"][0]
    assert f"L0H1 {wanted.estimate[1]:+.3f} [{wanted.low[1]:+.2f}, {wanted.high[1]:+.2f}]" in repr(scores)
    assert "(simultaneous 95 %)" in repr(scores)
    assert scores.intervals(level=0.5).high[1] < wanted.high[1]
    units = NeuronScores(effects=scores.effects[0], layer=5, **common(24))
    (axes,) = units.plot(k=2).get_axes()
    inner = simultaneous(scores.effects[0])
    ends = sorted(
        x for c in axes.containers if hasattr(c, "lines") for x in c.lines[2][0].get_segments()[0][:, 0]
    )
    assert ends == pytest.approx([inner.low[1], inner.high[1]])


def test_the_map_outlines_what_may_be_noise_with_dots():
    figure = many().plot(top=4)
    axes = figure.get_axes()[0]
    styles = {
        (round(p.get_x() + p.get_width() / 2), round(p.get_y() + p.get_height() / 2)): p.get_linestyle()
        for p in axes.patches
    }
    assert len(styles) == 4
    assert styles[(1, 0)] == styles[(2, 3)] == "-"
    assert sum(style == ":" for style in styles.values()) == 2
    words = " ".join(axes.get_title(loc="left").split())
    assert "3 of 15 heads differ from 0" in words
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "the 4 strongest",
        "may be 0",
        "not scored",
    ]


def test_one_prompt_claims_nothing_and_is_drawn_without_whiskers():
    scores = HeadScores(effects=torch.ones(2, 2, 1), **common(1))
    assert scores.interval("L0H0").high == math.inf
    assert "[-inf, +inf]" in repr(scores)
    units = NeuronScores(effects=torch.ones(3, 1), layer=0, **common(1))
    for figure in (
        units.plot(),
        LayerScores(effects=torch.ones(3, 1), component=Component.mlp_out, **common(1)).plot(),
    ):
        figure.canvas.draw()
        assert all(math.isfinite(x) for x in (*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()))
