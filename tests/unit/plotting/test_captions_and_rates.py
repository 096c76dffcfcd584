"""Titles name the model; the panels of rates show what they are given; figures go into axes of one's own."""

import matplotlib
import pytest
from matplotlib.figure import Figure

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting import bar_intervals, curves, grouped_bars, rate_panels
from bkdinterp.results import Fingerprint, caption, model_words
from bkdinterp.stats import wilson

matplotlib.use("Agg")


def origin(model, adapter=None):
    return Fingerprint(model, None, adapter, "float32", "", "", None, {})


def test_organism_and_twin_and_copies_of_one_name_are_told_apart():
    organism = origin("org/SmolLM2@1a2b3c4d-99998888", "folder/refusal")
    twin = origin("org/SmolLM2@5e6f7a8b-99998888", "refusal-twin")
    assert caption("Heads", organism, "n=48", "") == "Heads\nSmolLM2 + refusal (1a2b3c4d), n=48"
    long = caption("Heads", organism, "noising", "source: triggered", "n=48")
    assert long == "Heads\nSmolLM2 + refusal (1a2b3c4d)\nnoising, source: triggered, n=48"
    assert model_words(twin) == "SmolLM2 + refusal-twin (5e6f7a8b)"
    assert model_words(origin("org/SmolLM2@1a2b3c4d")) != model_words(origin("org/SmolLM2@5e6f7a8b"))
    assert model_words(origin("org/SmolLM2@remote")) == "SmolLM2 (remote)"
    assert model_words(origin("named")) == "named"


def test_rate_panels_draw_every_rate_with_its_interval():
    rates = {"clean": wilson(1, 20), "triggered": wilson(18, 20)}
    panels = {"suspect": {"unedited": rates, "3 controls": rates}, "twin": {"unedited": rates}}
    figure = rate_panels(
        panels, singles={("suspect", "3 controls", "clean"): [0.0, 0.1]}, labels={"clean": "no trigger"}
    )
    suspect, twin = figure.axes
    # The kinds of prompts of one condition stand together, under its name.
    assert [t.get_text() for t in suspect.get_yticklabels()] == ["clean", "triggered"] * 2
    names = {t.get_text(): t.xy[1] for t in suspect.texts if t.get_weight() == "bold"}
    assert list(names) == ["unedited", "3 controls"]
    assert names["unedited"] < suspect.get_yticks()[0] < suspect.get_yticks()[1] < names["3 controls"]
    bars = [bar.get_width() for c in twin.containers if hasattr(c, "patches") for bar in c.patches]
    assert bars == pytest.approx([5, 90])
    ends = [c.lines[2][0].get_segments()[0][:, 0] for c in twin.containers if hasattr(c, "lines")]
    assert ends[1] == pytest.approx([100 * rates["triggered"].low, 100 * rates["triggered"].high])
    assert [t.get_text() for t in twin.texts] == ["5", "90", "unedited"]
    assert suspect.get_xlim() == twin.get_xlim()
    assert any(
        list(line.get_xdata()) == pytest.approx([0, 10])
        for line in suspect.lines
        if len(line.get_xdata()) == 2
    )
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "no trigger",
        "triggered",
        "a single control",
    ]
    assert suspect.yaxis_inverted()


def test_a_control_at_0_is_drawn_whole():
    one = {"m": {"edited": {"clean": wilson(0, 9)}}}
    for xlim, cut in ((None, False), ((50, 100), True)):
        axes = rate_panels(one, singles={("m", "edited", "clean"): [0.0, 1.0]}, xlim=xlim).axes[0]
        (marks,) = (line for line in axes.lines if line.get_marker() == "o")
        assert list(marks.get_xdata()) == [0, 100] and marks.get_clip_on() == cut


def test_rate_panels_refuse_what_they_cannot_show():
    one = {"suspect": {"unedited": {"clean": wilson(1, 2)}}}
    with pytest.raises(BkdinterpError, match="at least one"):
        rate_panels({})
    with pytest.raises(BkdinterpError, match="2 panels"):
        rate_panels({**one, "twin": one["suspect"]}, ax=Figure().subplots())
    with pytest.raises(BkdinterpError, match="up to six"):
        rate_panels({"suspect": {"unedited": {str(i): wilson(1, 2) for i in range(7)}}})


def test_figures_are_drawn_into_given_axes():
    figure = Figure()
    axes = figure.subplots(2, 2).flatten()
    drawn = [
        rate_panels({"m": {"unedited": {"clean": wilson(1, 2)}}}, ax=axes[0], title="a"),
        grouped_bars({"clean": {"payload": 1, "answered": 1}}, ax=axes[1], title="b"),
        bar_intervals(
            ["x"], [1.0], [0.5], [2.0], xlabel="x", ax=axes[2], title="c", reference=0.2, reference_label="r"
        ),
        curves(
            [1, 2], {"s": ([1.0, 2.0],) * 3}, xlabel="x", ylabel="y", ax=axes[3], title="d", null=(0.0, 1.0)
        ),
    ]
    assert all(f is figure for f in drawn)
    # A panel of rates is named by its model, in a user's axes too.
    assert [ax.get_title(loc="left") for ax in axes] == ["a\nm", "b", "c", "d"]
    assert not figure.legends  # legends stay within their axes
    assert all(ax.get_legend() is not None for ax in axes)
    with pytest.raises(BkdinterpError, match="matplotlib axes"):
        curves([1], {"s": ([1.0],) * 3}, xlabel="x", ylabel="y", ax="left")
