"""Every result's figure: title with model and adapter, into given axes, on a given scale, whiskers only for intervals;
and two results beside each other on one scale, with their differences in the table. No model."""

import dataclasses
import inspect

import matplotlib
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from unit.results.mutants import results

from bkdinterp.detection.images import ReversedTriggers
from bkdinterp.errors import BkdinterpError, PlanError
from bkdinterp.methods import (
    Activations,
    BackdoorVector,
    EdgeScores,
    Evaluation,
    HeadScores,
    HiddenPCA,
    LayerScores,
    LensCurve,
    Means,
    NeuronScores,
    PositionScores,
    ProbeScores,
    ScreenedEdges,
    ScreenedScores,
    plot_states,
)
from bkdinterp.plotting._style import GREY
from bkdinterp.results import Result
from bkdinterp.sites import Component, HeadSet
from bkdinterp.stats import simultaneous

matplotlib.use("Agg")

MAPS = (EdgeScores, HeadScores, PositionScores, ProbeScores, HiddenPCA)  # whose limit is one number
RESULTS = {type(r).__name__: r for r in results()}


def named(result, adapter="refusal"):
    origin = dataclasses.replace(result.fingerprint, model="org/tiny@0a1b-2c", adapter=adapter)
    more = {"trained_on": origin} if isinstance(result, ProbeScores) else {}
    return dataclasses.replace(result, fingerprint=origin, **more)


def words(figure):
    found = [axes.get_title(loc="left") for axes in figure.axes] + [figure.get_suptitle()]
    return " ".join(" ".join(found).split())


def panels_of(result):
    return len(result.models) if isinstance(result, Evaluation) else 1 + isinstance(result, LensCurve)


def test_every_class_of_results_has_one_here():
    def concrete(cls):
        for child in cls.__subclasses__():
            if child.__module__.startswith("bkdinterp.") and not inspect.isabstract(child):
                yield child
            yield from concrete(child)

    assert {c.__name__ for c in concrete(Result) if not c.__name__.startswith("_")} == set(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_the_title_names_the_model_and_its_adapter(name):
    result = named(RESULTS[name])
    assert "tiny + refusal" in words(result.plot())
    if panels_of(result) == 1:
        assert result.plot(title="mine").axes[0].get_title(loc="left") == "mine"


@pytest.mark.parametrize("name", RESULTS)
def test_ax_draws_into_the_given_axes(name):
    result = named(RESULTS[name])
    figure = Figure(figsize=(12, 9))
    n = panels_of(result)
    own, other = figure.subplots(2, n, squeeze=False)
    assert result.plot(ax=own[0] if n == 1 else list(own)) is figure
    assert all(axes.has_data() for axes in own)
    assert not any(axes.has_data() for axes in other)
    assert not figure.legends and not figure.get_suptitle()  # nothing outside of the given axes
    with pytest.raises(BkdinterpError, match=f"has {n} panel.*got {n + 1}"):
        result.plot(ax=list(figure.subplots(1, n + 1)))


@pytest.mark.parametrize("name", RESULTS)
def test_limit_is_the_scale(name):
    result = RESULTS[name]
    if isinstance(result, HiddenPCA | ScreenedEdges | ScreenedScores):
        axes = result.plot(limit=7).axes[0]
        assert axes.get_xlim() == axes.get_ylim() == (-7, 7)
    elif isinstance(result, ReversedTriggers):
        pictures = result.plot(limit=0.25).axes[0].images
        assert len(pictures) == 8 and {image.get_clim() for image in pictures} == {(0, 0.25)}
    elif isinstance(result, MAPS):
        low, high = result.plot(limit=0.25).axes[0].images[0].get_clim()
        middle = result.chance if isinstance(result, ProbeScores) else 0
        assert (low, high) == pytest.approx((middle - 0.25, middle + 0.25))
    else:
        # Of a curve of the lens the second panel is of ranks.
        for axes in result.plot(limit=(-2, 50)).axes[: 1 if isinstance(result, LensCurve) else None]:
            assert any(
                (low, high) == pytest.approx((-2, 50), abs=0.04 * 52)
                for low, high in (axes.get_xlim(), axes.get_ylim())
            )


KINDS = {
    "ProbeScores": ("icla", "in_layer"),
    "Evaluation": ("rates", "outcomes"),
    "LensCurve": ("probability", "rank", "both"),
    "LensReadings": ("target", "tokens", "share"),
}


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in RESULTS for k in KINDS.get(n, (None,))])
def test_whiskers_and_bands_say_their_level(name, kind):
    figure = RESULTS[name].plot(**{"kind": kind} if kind else {})
    bands = [c for axes in figure.axes for c in axes.collections if isinstance(c, PolyCollection)]
    if whiskers(figure) or bands:
        assert any("95 %" in text.get_text() for text in figure.findobj(Text))


def test_a_learned_mask_says_its_units_and_n():
    figure = named(RESULTS["CircuitMask"]).plot()
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["payload left (probability)", "clean answers lost (nats per token)"]
    assert "n=5" in words(figure)


def whiskers(figure):
    return [c for axes in figure.axes for c in axes.containers if isinstance(c, ErrorbarContainer)]


@pytest.mark.parametrize("kind", [Means, Activations, BackdoorVector])
def test_no_whiskers_where_there_is_no_interval(kind):
    figure = RESULTS[kind.__name__].plot()
    assert any(isinstance(c, BarContainer) for c in figure.axes[0].containers)
    assert not whiskers(figure)


@pytest.mark.parametrize("name", ["PCP", "PCPStudy", "TrainingCurve"])
def test_no_band_where_there_is_no_interval(name):
    assert not RESULTS[name].plot().axes[0].collections


def scores(cls, effects, adapter="refusal", data="d", **more):
    """Scores with these effects, of a model with this adapter."""
    first = named(RESULTS[cls.__name__], adapter)
    first = dataclasses.replace(first, fingerprint=dataclasses.replace(first.fingerprint, data=data))
    return dataclasses.replace(first, effects=effects, base=torch.zeros(effects.shape[-1]), **more)


@pytest.fixture
def heads():
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(3, 2, 12, generator=rng)
    own[2, 1] += 5
    return scores(HeadScores, own), scores(HeadScores, own * 0.1 - 1, "twin")


def test_heads_beside_each_other_have_one_norm_and_a_difference(heads):
    organism, twin = heads
    figure = organism.plot(beside=twin, top=2, mark={"the paper's": "L0H0"})
    own, other, gap, bar = figure.axes
    largest = max(float(x.abs().max()) for x in (organism.acie, twin.acie, organism.acie - twin.acie))
    (norm,) = {axes.images[0].get_clim() for axes in (own, other, gap)}
    assert norm == pytest.approx((-largest, largest))
    for axes, values in ((own, organism.acie), (other, twin.acie), (gap, organism.acie - twin.acie)):
        torch.testing.assert_close(torch.from_numpy(axes.images[0].get_array().data).float(), values)
        assert len(axes.patches) == 3  # the organism's heads, in the twin too
    assert "tiny + refusal (0a1b)" in " ".join(own.get_title(loc="left").split())
    assert "tiny + twin (0a1b)" in " ".join(other.get_title(loc="left").split())
    assert bar.get_ylabel() == "ACIE (logprob, nats per token)"
    assert [t.get_text() for t in figure.legends[0].get_texts()][:2] == [
        "the 2 strongest of the first",
        "the paper's",
    ]
    axes = Figure().subplots(1, 3)
    assert organism.plot(beside=twin, ax=axes) is axes[0].get_figure()
    assert organism.plot(beside=twin, limit=9).axes[1].images[0].get_clim() == (-9, 9)


def test_boxes_of_neighbours_are_apart_and_two_on_one_cell_are_nested(heads):
    organism, _ = heads
    axes = organism.plot(top=6, mark=HeadSet.of("L2H1")).axes[0]
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in axes.patches if p.get_y() > 1.5)
    left, right, inner = spans  # of L2H0; of L2H1, among the strongest and marked
    assert left[1] < right[0]
    assert right[0] < inner[0] < inner[1] < right[1]
    colours = {p.get_edgecolor() for p in axes.patches}
    assert len(colours) == 2


def test_the_table_beside_has_paired_differences(heads):
    organism, twin = heads
    frame = organism.to_frame(beside=twin)
    alone = organism.to_frame()
    assert frame[alone.columns].equals(alone)
    wanted = simultaneous((organism.effects.double() - twin.effects.double()).flatten(0, 1))
    order = organism.order()
    assert frame["difference"].tolist() == pytest.approx(wanted.estimate[order].tolist())
    assert frame["difference_low"].tolist() == pytest.approx(wanted.low[order].tolist())
    assert (frame["acie"] - frame["beside"]).tolist() == pytest.approx(frame["difference"].tolist())
    # Other prompts cannot be paired: differences have no intervals then.
    other = dataclasses.replace(twin, fingerprint=dataclasses.replace(twin.fingerprint, data="e"))
    unpaired = organism.to_frame(beside=other)
    assert unpaired["difference_high"].isna().all()
    assert unpaired["difference"].tolist() == pytest.approx(frame["difference"].tolist())


def test_what_cannot_stand_beside_is_refused(heads):
    organism, twin = heads
    with pytest.raises(BkdinterpError, match="one metric; here logprob and kl"):
        organism.plot(beside=dataclasses.replace(twin, metric="kl"))
    with pytest.raises(BkdinterpError, match="one number of heads"):
        organism.to_frame(beside=scores(HeadScores, twin.effects[:2]))
    with pytest.raises(BkdinterpError, match="has 3 panels"):
        organism.plot(beside=twin, ax=Figure().subplots())
    with pytest.raises(BkdinterpError, match="must be positive"):
        organism.plot(limit=-1.0)


def test_layers_beside_each_other_share_their_scale():
    rng = torch.Generator().manual_seed(0)
    effects = torch.randn(4, 12, generator=rng)
    own = scores(LayerScores, effects * 10, component=Component.mlp_out)
    twin = scores(LayerScores, effects, "twin", component=Component.mlp_out)
    figure = own.plot(beside=twin)
    assert len(figure.axes) == 3
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert [bar.get_height() for bar in figure.axes[1].patches] == pytest.approx(twin.acie.tolist())
    assert [bar.get_height() for bar in figure.axes[2].patches] == pytest.approx(
        (own.acie - twin.acie).tolist()
    )
    assert "difference_low" in own.to_frame(beside=twin)
    # Another component of one model is told apart by name.
    attention = scores(LayerScores, effects, component=Component.attn_out)
    titles = [axes.get_title(loc="left") for axes in own.plot(beside=attention).axes]
    assert "mlp_out" in titles[0] and "attn_out" in titles[1]


def test_neurons_are_as_many_as_asked_for():
    found = scores(NeuronScores, torch.randn(6, 12), layer=1)
    assert len(found.plot(k=4).axes[0].patches) == 4


@pytest.fixture
def probes():
    first = named(RESULTS["ProbeScores"])
    same = {"predicted": first.labels.expand(3, 3, -1).clone(), "pair": torch.tensor([0, 0, 1, 1, 2])}
    first = dataclasses.replace(first, **same)
    return first, dataclasses.replace(named(first, "twin"), predicted=~first.predicted)


def test_probes_beside_each_other_have_one_norm(probes):
    own, twin = probes
    figure = own.plot(beside=twin)
    norms = [axes.images[0].get_clim() for axes in figure.axes[:2]]
    assert norms[0] == norms[1]
    assert [axes.images[0].get_array().min() for axes in figure.axes[:2]] == [1, 0]
    assert "+ refusal" in figure.axes[0].get_title(loc="left")
    assert "+ twin" in figure.axes[1].get_title(loc="left")
    diagonal = own.plot("in_layer", beside=twin)
    assert diagonal.axes[0].get_ylim() == diagonal.axes[1].get_ylim()
    assert diagonal.axes[0].lines[0].get_label() == "logistic probe"
    frame = own.to_frame("in_layer", beside=twin)
    assert frame["difference"].tolist() == [1, 1, 1] and frame["beside"].tolist() == [0, 0, 0]
    assert frame["difference_low"].notna().all()
    assert own.to_frame(beside=twin)["difference"].tolist() == [1] * 9


def sweep(values, adapter, **more):
    first = named(RESULTS["LayerSweep"], adapter)
    more = {"nulls": torch.zeros(2, *values.shape), "first_token_only": True} | more
    return dataclasses.replace(
        first, values=values, by="first_token_logodds", direction="add", kept=None, **more
    )


def test_sweeps_beside_each_other_share_their_scale_and_say_what_they_are():
    values = torch.arange(15.0).reshape(3, 5)
    own, twin = sweep(values, "refusal"), sweep(values / 10, "twin")
    figure = own.plot(beside=twin)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert "first target token only" in figure.get_suptitle()
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert sorted(legend) == ["2 control vectors: mean, range", "unedited, 95 %", "vector"]
    for axes, found in zip(figure.axes, (own, twin), strict=True):
        assert [t.get_text() for t in axes.texts] == [f"best: layer {found.best}"]
        vector, controls = axes.lines[:2]
        assert vector.get_color() != controls.get_color()
    frame = own.to_frame(beside=twin)
    assert frame["difference"].tolist() == pytest.approx((0.9 * values.mean(1)).tolist())
    with pytest.raises(BkdinterpError, match="one direction; here add and subtract"):
        own.plot(beside=dataclasses.replace(twin, direction="subtract"))
    with pytest.raises(BkdinterpError, match="takes another LayerSweep"):
        own._gap(RESULTS["HeadScores"])


def test_the_middle_of_an_even_number_lies_between_two():
    found = sweep(torch.zeros(3, 5), "refusal", nulls=torch.stack([torch.zeros(3, 5), torch.ones(3, 5)]))
    controls = next(line for line in found.plot().axes[0].lines if "control" in line.get_label())
    # As in the table.
    assert list(controls.get_ydata()) == [0.5] * 3 == found.to_frame()["control_mean"].tolist()
    two = {k: getattr(lens(), k)[:, :2] for k in ("top_ids", "top_logits", "logsum", "target_logits")}
    found = lens(target_ids=torch.tensor([2, 2]), target_ranks=torch.tensor([[1, 5], [4, 4]]), **two)
    assert [t.get_text() for t in found.plot().axes[0].texts] == ["rank 3", "rank 4"]


def lens(**more):
    """Two sites, three prompts, three of four tokens kept; the target is token 2."""
    logits = torch.tensor([[[3.0, 2.0, 1.0]] * 3, [[1.0, 0.5, 0.0]] * 3])
    own = {
        "top_ids": torch.tensor([[[2, 0, 1]] * 3, [[0, 1, 3]] * 3]),
        "top_logits": logits,
        "vocabularies": {},
        "logsum": torch.full((2, 3), 4.0),
        "tokens": {"0": " the", "1": "$x", "2": "I", "3": "\n"},
        "target_ids": torch.tensor([2, 2, 2]),
        "target_logits": torch.tensor([[3.0] * 3, [-1.0] * 3]),
        "target_ranks": torch.tensor([[1, 1, 1], [4, 4, 4]]),
    }
    return dataclasses.replace(named(RESULTS["LensReadings"]), **(own | more))


def test_the_lens_shows_probability_and_rank_of_the_target():
    found = lens()
    axes = found.plot().axes[0]
    wanted = torch.exp(torch.tensor([-1.0, -5.0])).tolist()
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(wanted)
    assert [t.get_text() for t in axes.texts] == ["rank 1", "rank 4"]
    frame = found.to_frame()
    assert frame["target_probability"].tolist() == pytest.approx(wanted)
    assert frame["target_rank"].tolist() == [1, 4]
    unknown = lens(target_ids=None, target_logits=None, target_ranks=None)
    with pytest.raises(PlanError, match="have no targets"):
        unknown.plot(kind="target")
    assert "target_rank" not in unknown.to_frame()
    with pytest.raises(PlanError, match="vocabularies"):
        found.plot(kind="share")


def test_the_lens_shows_the_top_tokens_as_a_grid():
    axes = lens().plot(kind="tokens", example=1, ranks=2).axes[0]
    assert [t.get_text() for t in axes.texts] == ["I", "\N{OPEN BOX}the", "\N{OPEN BOX}the", "$x"]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(lens().sites)
    colours = torch.from_numpy(axes.images[0].get_array().data)
    torch.testing.assert_close(colours, lens().probabilities[:, 1, :2])
    (box,) = axes.patches  # around the target's token
    assert (box.get_x() + 0.5, box.get_y() + 0.5) == pytest.approx((0, 0), abs=0.1)
    with pytest.raises(BkdinterpError, match="example"):
        lens().plot(kind="tokens", example=3)


def test_controls_are_counted_and_named_by_kind():
    found = dataclasses.replace(
        RESULTS["Evaluation"],
        edits={"unedited": "unedited", "edited": "Steer(L2.z @ last)", "control 1": "Steer(L2.z @ last)"},
    )
    text = "edited: 1 control (Steer, other values), pooled"
    for figure in (found.plot("rates"), found.plot("outcomes")):
        assert any(t.get_text().endswith(text) for axes in figure.axes for t in axes.texts)
    elsewhere = found.edits | {"control 1": "Steer(L1.z @ last)"}
    found = dataclasses.replace(found, edits=elsewhere)
    assert any("(Steer, other places)" in t.get_text() for t in found.plot("rates").axes[0].texts)


def test_the_payloads_of_stacked_outcomes_have_intervals():
    found = RESULTS["Evaluation"]
    figure = found.plot("outcomes")
    rate = found.rate("triggered")
    ends = [tuple(c.lines[2][0].get_segments()[0][:, 0]) for c in whiskers(figure)]
    assert any(pair == pytest.approx((100 * rate.low, 100 * rate.high)) for pair in ends)


def test_kinds_of_prompts_have_one_colour_everywhere():
    points = torch.rand(3, 2)
    pca = dataclasses.replace(
        RESULTS["HiddenPCA"], points={"clean": points, "triggered": points, "other": points}
    )
    dots = {c.get_label(): tuple(c.get_edgecolor()[0][:3]) for c in pca.plot().axes[0].collections}
    legend = RESULTS["Evaluation"].plot("rates").legends[0]
    bars = {
        t.get_text(): tuple(p.get_facecolor()[:3])
        for t, p in zip(legend.get_texts(), legend.get_patches(), strict=False)
    }
    assert dots["clean"] == bars["clean"] and dots["triggered"] == bars["triggered"]
    assert len(set(dots.values())) == 3


def test_a_curve_of_a_fine_tune_says_what_was_trained():
    curve = named(RESULTS["TrainingCurve"])
    assert "frozen: nothing" in curve.plot().axes[0].get_title(loc="left")


def test_the_band_of_clean_models_says_what_is_counted():
    legend = RESULTS["PoisoningCurve"].plot().legends[0]
    assert legend.get_texts()[0].get_text() == "right, clean models"


def test_lines_of_a_prompt_are_not_called_by_what_attends():
    axes = RESULTS["AttentionPatterns"].plot_tokens().axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["tokens 0–3"]


@pytest.mark.parametrize("name", ["InvertedTargets", "ProbedCandidates", "Leaked", "TriagedWeights"])
def test_references_are_grey_as_all_nulls_and_hide_nothing(name):
    drawn = {
        line.get_label(): line for line in RESULTS[name].plot().axes[0].lines if line.get_marker() in "osD"
    }
    own = drawn.pop("suspect")
    assert {line.get_color() for line in drawn.values()} == {GREY} and own.get_color() != GREY
    assert all(line.get_zorder() < own.get_zorder() for line in drawn.values())


def test_axes_of_a_screen_have_no_brackets_in_brackets():
    axes = RESULTS["ScreenedScores"].plot().axes[0]
    assert axes.get_xlabel() == "estimated ACIE (logprob, nats per token)"
    assert axes.get_ylabel() == "exact ACIE (logprob, nats per token)"


def test_states_of_several_models_share_a_figure_and_a_bar_of_length_0_says_so():
    own, twin = named(RESULTS["BackdoorState"]), named(RESULTS["BackdoorState"], "twin")
    figure = plot_states({"organism": own, "twin": twin}, limit=(0, 2))
    axes = figure.axes[0]
    title = " ".join(axes.get_title(loc="left").split())
    assert "tiny + refusal (0a1b), tiny + twin (0a1b)" in title
    assert [t.get_text() for t in axes.texts] == ["1.00", "0.00"] * 2
    assert axes.get_xlim() == (0, 2)
