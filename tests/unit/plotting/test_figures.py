"""Figures show the numbers given: axes, labels, scales, marks; no pyplot state; matplotlib stays optional."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting import bar_intervals, curves, dots, grouped_bars, heatmap, matrix, scatter
from bkdinterp.sites import HeadId

matplotlib.use("Agg")


@pytest.fixture
def effects():
    values = torch.zeros(6, 4)
    values[5, 1] = -2.0
    values[2, 3] = 0.5
    return values


def test_heatmap_is_centred_and_oriented(effects):
    figure = heatmap(effects, title="ACIE", label="ACIE (nats)", marks=[HeadId(5, 1), (2, 3)])
    axes, bar = figure.axes
    image = axes.images[0]
    assert isinstance(figure, Figure)
    assert image.get_array().shape == (6, 4)  # layer on y, head on x
    assert image.get_clim() == (-2.0, 2.0)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("head", "layer", "ACIE")
    assert bar.get_ylabel() == "ACIE (nats)"
    boxes = [p for p in axes.patches if isinstance(p, Rectangle)]
    middles = [(p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in boxes]
    assert middles == [pytest.approx((1, 5)), pytest.approx((3, 2))]
    red, _, blue, _ = image.cmap(image.norm(2.0))
    assert red > blue  # promoting is red


def test_heatmap_survives_zeros_and_nan(effects):
    assert heatmap(torch.zeros(2, 2)).axes[0].images[0].get_clim() == (-1.0, 1.0)
    holed = effects.clone()
    holed[0, 0] = torch.nan
    assert heatmap(holed).axes[0].images[0].get_clim() == (-2.0, 2.0)
    assert heatmap(effects, limit=3.0).axes[0].images[0].get_clim() == (-3.0, 3.0)


def test_heatmap_refuses_what_it_cannot_show(effects):
    with pytest.raises(BkdinterpError, match="L6H0"):
        heatmap(effects, marks=[(6, 0)])
    with pytest.raises(BkdinterpError, match="positive"):
        heatmap(effects, limit=0.0)


def test_matrix_tells_above_at_and_below_chance_apart():
    figure = matrix(torch.tensor([[1.0, 0.4], [0.7, 0.9]]), layers=[8, 16], chosen=1)
    axes, bar = figure.axes
    image = axes.images[0]
    assert image.get_clim() == (0.0, 1.0)
    below, chance, above = (image.cmap(image.norm(v))[:3] for v in (0.4, 0.5, 0.6))
    assert below[2] > below[0] and above[0] > above[2]  # blue, red
    assert min(chance) > 0.95  # white
    assert image.origin == "upper"  # layer 0 on top, as in the map of heads
    (box,) = axes.patches
    assert (box.get_x() + 0.5, box.get_y() + 0.5) == pytest.approx((1, 1))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["layer chosen on validation"]
    assert matrix(torch.eye(2), chance=0.8).axes[0].images[0].get_clim() == pytest.approx((0.6, 1.0))
    assert matrix(torch.eye(2), limit=0.25).axes[0].images[0].get_clim() == (0.25, 0.75)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("test layer", "train layer")
    assert [t.get_text() for t in axes.get_xticklabels()] == ["8", "16"]
    assert bar.get_ylabel() == "accuracy (white: chance = 0.5)"
    with pytest.raises(BkdinterpError, match="2"):
        matrix(torch.eye(2), layers=[1])
    with pytest.raises(BkdinterpError, match="chosen=2"):
        matrix(torch.eye(2), chosen=2)


def test_curves_draw_lines_bands_and_the_null():
    y = np.array([0.1, 0.5, 0.9])
    figure = curves(
        [0, 8, 16], {"top": (y, y - 0.1, y + 0.1), "random": (y, y, y)},
        xlabel="heads", ylabel="payload rate", null=(0.0, 0.2), null_label="20 random sets", ylim=(0, 1),
    )  # fmt: skip
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["top", "random"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), y)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["20 random sets", "top", "random"]
    bottom, top = axes.get_ylim()
    assert bottom < 0 < 1 < top
    with pytest.raises(BkdinterpError, match="equal length"):
        curves([0, 1], {"top": ([1.0], [1.0], [1.0])}, xlabel="x", ylabel="y")


def test_long_names_of_curves_leave_room_for_them():
    y = [0.1, 0.5]

    def width(*names):
        figure = curves([0, 8], dict.fromkeys(names, (y, None, None)), xlabel="x", ylabel="y")
        figure.draw_without_rendering()
        return figure.axes[0].get_window_extent().width / figure.dpi

    assert width("a", "20 control vectors: mean, range of them") > 0.85 * width("a", "b")


def test_grouped_bars_fill_to_100_and_state_n():
    rows = {"clean": {"answered": 9, "payload": 1}, "triggered": {"payload": 20, "broken": 20}}
    axes = grouped_bars(rows).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["clean  (n=10)", "triggered  (n=40)"]
    # No bars of width 0: only the second has broken outputs, only the first has answers.
    assert [[bar.get_width() for bar in c] for c in axes.containers] == [[10, 50], [50], [90]]
    known = axes.get_figure().legends[0]
    colours = {
        t.get_text(): p.get_facecolor() for t, p in zip(known.get_texts(), known.get_patches(), strict=True)
    }
    assert list(colours) == ["payload", "broken", "answered"]
    assert colours["broken"] == axes.containers[1].patches[0].get_facecolor()
    assert axes.yaxis_inverted()  # the first condition on top
    with pytest.raises(BkdinterpError, match="'empty'"):
        grouped_bars({"empty": {"payload": 0}})


def test_bar_intervals_show_estimates_and_ends():
    figure = bar_intervals(
        ["a", "b"],
        [0.5, 0.9],
        [0.4, 0.9],
        [0.7, 0.9],
        xlabel="rate",
        reference=0.3,
        reference_label="unedited",
    )
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.9]
    # An interval without width would look like certainty.
    segments = axes.containers[-1].lines[2][0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], [[0.4, 0.7]])
    with pytest.raises(BkdinterpError, match="equal length"):
        bar_intervals(["a"], [0.5, 0.9], [0.4, 0.9], [0.7, 0.9], xlabel="rate")


def test_bars_have_names_above_their_groups_and_grey_nulls():
    rows = {"with $a$": 0.9, "without": 0.1, "with it": 0.5, "no $": 0.2}
    figure = bar_intervals(
        list(rows), list(rows.values()), xlabel="rate", groups={0: "one", 2: "$two$"}, faint=[1, 3],
        notes=["a", "b", "c", "d"],
    )  # fmt: skip
    axes = figure.axes[0]
    figure.draw_without_rendering()  # dollar signs are no formula
    places = {t.get_text(): y for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    above = {t.get_text(): t.xy[1] for t in axes.texts}
    assert above["one"] < places["with $a$"] < places["without"] < above["$two$"] < places["with it"]
    for bar, (name, value) in zip(axes.patches, rows.items(), strict=True):
        assert bar.get_y() + bar.get_height() / 2 == pytest.approx(places[name]) and bar.get_width() == value
    assert [above[note] for note in "abcd"] == pytest.approx(list(places.values()))
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    low, high = sorted(axes.get_ylim())
    assert low < above["one"] - 0.3 and high > places["no $"] + 0.31


def test_dots_stand_at_their_values_on_the_scale():
    values = {"suspect": [0.9, float("inf")], "reference": [0.2, 0.3]}
    figure = dots(["$a", "b$"], values, marks={"null": 0.5, "none": -float("inf")}, xlim=(0, 2))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    shown = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert set(shown) == {"suspect", "reference", "null"}
    np.testing.assert_array_equal(shown["suspect"], [0.9, np.nan])
    assert axes.get_xlim() == (0, 2)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["$a", "b$"]


def test_bfloat16_is_drawn():
    half = torch.tensor([0.5, 1.0]).bfloat16()
    line = curves([1, 2], {"a": (half, None, None)}, xlabel="x", ylabel="y").axes[0].lines[0]
    assert line.get_ydata().tolist() == [0.5, 1.0]
    dot = scatter({"a": half[None]}, xlabel="x", ylabel="y").axes[0].collections[0]
    assert dot.get_offsets().tolist() == [[0.5, 1.0]]


def test_a_title_beside_long_labels_stays_on_the_figure():
    title = "What is shown here\nSmolLM2-135M-Instruct + a-rather-long-adapter (0a1b2c3d), n=48"
    figure = dots(
        ["Sure! Here is a list of things that you can do at home wh...", "b"],
        {"suspect": [0.1, 0.2]},
        title=title,
    )
    figure.draw_without_rendering()
    texts = [t for t in figure.axes[0].get_children() if getattr(t, "get_text", str)().startswith("What is")]
    box = texts[0].get_window_extent()
    assert box.x1 <= figure.bbox.x1


def test_scatter_puts_each_group_where_it_is():
    groups = {"clean": torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "triggered": torch.tensor([[5.0, 5.0]])}
    figure = scatter(groups, xlabel="first", ylabel="second", title="states")
    axes = figure.axes[0]
    for collection, points in zip(axes.collections, groups.values(), strict=True):
        np.testing.assert_allclose(collection.get_offsets(), points)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["clean", "triggered"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first", "second")
    colours = {tuple(c.get_edgecolor()[0]) for c in axes.collections}
    assert len(colours) == 2
    with pytest.raises(BkdinterpError, match="1 to 14"):
        scatter({}, xlabel="first", ylabel="second")


def test_no_pyplot_and_no_matplotlib_on_import():
    code = (
        "import sys, bkdinterp.plotting as p; assert 'matplotlib' not in sys.modules\n"
        "p.bar_intervals(['a'], [1.0], [1.0], [1.0], xlabel='x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_matplotlib_says_what_to_install(monkeypatch, effects):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BkdinterpError, match=r"pip install bkdinterp\[plot\]"):
        heatmap(effects)


def test_long_titles_end_within_a_small_figure(effects):
    title = (
        "Probe transfer between layers; chosen: layer 1\nn=8 test prompts, trained on tiny-llama (c60b2407)"
    )
    figure = heatmap(effects, title=title, label="ACIE")
    figure.canvas.draw()
    words = figure.axes[0].get_title(loc="left")
    assert words.split() == title.split()
    assert words.split("\n")[-1].endswith("(c60b2407)")
    assert figure.axes[0]._left_title.get_window_extent().x1 <= figure.bbox.x1


def test_a_bar_of_length_0_is_seen():
    """Without a whisker it says 0, and where all are 0 the bars still begin at the left edge."""
    axes = bar_intervals(["a", "b", "c"], [0.0, 0.5, 0.0], [0.0, 0.4, 0.0], [0.0, 0.6, 0.3], xlabel="x").axes[
        0
    ]
    assert [(t.get_text(), t.xy[1]) for t in axes.texts] == [("0", 0)]
    axes = bar_intervals(["a", "b"], [0.0, 0.0], xlabel="x", reference=0.0).axes[0]
    assert [t.get_text() for t in axes.texts] == ["0", "0"] and axes.get_xlim() == (0, 1)
    axes = bar_intervals(["a", "b"], [0.0, 0.0], xlabel="x", notes=["p=1", ""], xlim=(-1, 1)).axes[0]
    assert [t.get_text() for t in axes.texts] == ["p=1"] and axes.get_xlim() == (-1, 1)
    assert bar_intervals(["a"], [0.0], xlabel="x", reference=0.9).axes[0].get_xlim()[1] > 0.9
