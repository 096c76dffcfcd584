"""Layer sweeps: ties go to the layer that breaks least, intervals remember the choice, controls are chosen alike."""

import dataclasses

import pytest
import torch

import bkdinterp as bk
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.methods import LayerSweep, choose_layer
from bkdinterp.metrics import word_overlap
from bkdinterp.results import Result
from bkdinterp.stats import simultaneous, wilson

PAYLOAD = bk.Payload("(cat|zeta|no|tell)", kind="regex")


@pytest.fixture(scope="module")
def vector(llama, pairs):
    return bk.BackdoorVector.extract(llama, "L0H1, L2H2", pairs, kind="difference")


def length(logits, targets, mask, base=None):
    """A score of one's own."""
    return logits.logsumexp(-1).sum(-1)


def test_of_layers_that_work_equally_well_the_one_that_breaks_least_is_taken():
    gone = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    kept = [[0.1, 0.0, 0.1], [0.7, 0.6, 0.5], [1.0, 1.0, 1.0], [0.7, 0.6, 0.5]]
    assert choose_layer(gone, "subtract", kept) == 1
    assert choose_layer(gone, "subtract") == 0
    assert choose_layer([[1, 0], [1, 1], [1, 1]], "add", [[0.0] * 2, [0.0] * 2, [1.0] * 2]) == 1
    assert choose_layer([[-2.5, -1.5], [0.5, -1.0]], "add") == 1


def test_what_is_kept_are_the_references_or_the_models_own_clean_outputs(llama, pairs, vector):
    settings = {"direction": "subtract", "layers": [0, 1, 3], "payload": PAYLOAD, "max_new_tokens": 5}
    swept = bk.sweep_layers(llama, vector, pairs, **settings)
    (own,) = bk.execute(llama, [bk.Run(pairs.clean, generate=5)])
    given = bk.PairedPrompts(
        *(dataclasses.replace(p, reference=("the cat ran",) * 6) for p in (pairs.clean, pairs.triggered))
    )
    with_references = bk.sweep_layers(llama, vector, given, **settings)
    for i, layer in enumerate(settings["layers"]):
        (said,) = bk.execute(llama, [bk.Run(pairs.triggered, vector.subtract(layer), generate=5)])
        assert swept.values[i].tolist() == [float(PAYLOAD.matches(t)) for t in said.text]
        assert swept.kept[i].tolist() == pytest.approx(
            [word_overlap(a, b) for a, b in zip(said.text, own.text, strict=True)]
        )
        assert with_references.kept[i].tolist() == pytest.approx(
            [word_overlap(t, "the cat ran") for t in said.text]
        )
    assert (
        swept.best == settings["layers"][choose_layer(swept.values.tolist(), "subtract", swept.kept.tolist())]
    )
    assert bk.sweep_layers(llama, vector, pairs, layers=[1], payload=PAYLOAD, max_new_tokens=2).kept is None


def test_intervals_hold_for_all_layers_together(llama, pairs, vector):
    scored = bk.sweep_layers(llama, vector, pairs, by="first_token_logodds")
    joint = simultaneous(scored.values)
    best = scored.layers.tolist().index(scored.best)
    assert scored.best_interval.low == pytest.approx(float(joint.low[best]))
    assert scored.best_interval.method.startswith("simultaneous")
    rates = bk.sweep_layers(llama, vector, pairs, payload=PAYLOAD, max_new_tokens=4)
    best = rates.layers.tolist().index(rates.best)
    hits = int(rates.values[best].sum())
    wanted, alone = wilson(hits, 6, level=1 - 0.05 / 4), wilson(hits, 6)
    assert (rates.best_interval.low, rates.best_interval.high) == (wanted.low, wanted.high)
    assert wanted.high - wanted.low > alone.high - alone.low
    assert rates.best_interval.level == 0.95
    frame = rates.to_frame()
    assert frame["best"].sum() == 1
    assert int(frame.loc[frame["best"], "layer"].iloc[0]) == rates.best


def test_controls_are_swept_and_chosen_alike(llama, pairs, vector):
    nulls = bk.random_directions(like=vector, n=4, seed=0)
    swept = bk.sweep_layers(llama, vector, pairs, by="logprob", layers=[0, 2, 3], controls=nulls)
    for c, null in enumerate(nulls):
        for i, layer in enumerate([0, 2, 3]):
            (by_hand,) = bk.execute(llama, [bk.Run(pairs.clean, null.add(layer), score="logprob")])
            torch.testing.assert_close(swept.nulls[c, i], by_hand.scores)
    claim = swept.comparison
    assert claim.null_estimates == pytest.approx(swept.nulls.mean(-1).amax(1).tolist())
    assert claim.estimate == pytest.approx(float(swept.values.mean(-1).max()))
    assert claim.side == "greater"
    assert f"p={claim.p:.2g} against 4 controls at their best layers" in repr(swept)
    assert {"control_mean", "control_low", "control_high"} <= set(swept.to_frame())
    with pytest.raises(PlanError, match="Control 2 is control 1 again"):
        bk.sweep_layers(llama, vector, pairs, by="logprob", controls=[nulls[0], nulls[0]])
    with pytest.raises(PlanError, match="Control 1 is the vector itself"):
        bk.sweep_layers(llama, vector, pairs, by="logprob", controls=[vector])
    with pytest.raises(bk.BkdinterpError, match="no controls"):
        _ = bk.sweep_layers(llama, vector, pairs, by="logprob", layers=[0]).comparison


def test_a_score_of_ones_own_is_named_saved_and_drawn(llama, pairs, vector, tmp_path):
    swept = bk.sweep_layers(llama, vector, pairs, by=length, layers=[1, 3])
    assert "by length: best layer" in repr(swept)
    assert "(of 2 tried)" in repr(swept)
    again = Result.load(swept.save(tmp_path / "sweep"))
    assert isinstance(again, LayerSweep)
    assert repr(again) == repr(swept)
    assert again.to_frame().equals(swept.to_frame())
    with pytest.raises(SiteError, match="each layer once"):
        bk.sweep_layers(llama, vector, pairs, by=length, layers=[1, 1])


def test_the_figure_marks_the_choice_and_says_no_more_than_it_knows(llama, pairs, vector):
    nulls = bk.random_directions(like=vector, n=3, seed=0)
    first = bk.sweep_layers(llama, vector, pairs, by="first_token_logodds", controls=nulls)
    axes = first.plot().axes[0]
    assert axes.get_title(loc="left").startswith(
        "The vector at one layer: added to clean prompts\ntiny-llama ("
    )
    assert "selection" not in axes.get_title(loc="left")
    assert "(first token only)" in axes.get_ylabel()
    assert [t.get_text() for t in axes.texts] == [f"best: layer {first.best}"]
    labels = [line.get_label() for line in axes.lines]
    assert labels[:2] == ["vector", "3 control vectors: mean, range"]
    assert axes.lines[1].get_ydata() == pytest.approx(first.nulls.mean(-1).mean(0).tolist())
    whole = bk.sweep_layers(llama, vector, pairs, by="logprob", direction="subtract", layers=[0, 1])
    axes = whole.plot(title="mine").axes[0]
    assert axes.get_title(loc="left") == "mine"
    assert "first token" not in axes.get_ylabel()
    assert "first token" not in repr(whole)
