"""Maps with written columns, shares by kind of prompt, and a text in lines. No model."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting import heatmap, labelled_map, share_bars, token_grid, visible
from bkdinterp.stats import Interval

matplotlib.use("Agg")


def share(x, spread=0.1):
    return Interval(x, max(0.0, x - spread), min(1.0, x + spread), 5, "t")


def test_a_change_is_centred_and_a_share_begins_at_0():
    values = torch.tensor([[0.5, -2.0, float("nan")], [0.0, 1.0, 0.25]])
    figure = labelled_map(
        values, columns=["a", "$b", "a long name"], label="effect", dotted=[(1, 0)], dotted_label="may be 0"
    )
    axes = figure.axes[0]
    assert axes.images[0].get_clim() == (-2, 2)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "$b", "a long name"]
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {90}
    assert axes.lines[0].get_xydata().tolist() == [[0, 1]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["may be 0"]
    figure.draw_without_rendering()
    upper = labelled_map(values.abs(), columns=list("abc"), rows=["x", "y"], scale="share", limit=0.5)
    assert upper.axes[0].images[0].get_clim() == (0, 0.5)
    assert [t.get_text() for t in upper.axes[0].get_yticklabels()] == ["x", "y"]
    assert {t.get_rotation() for t in upper.axes[0].get_xticklabels()} == {0}
    assert labelled_map(np.zeros((2, 2)), columns=["a", "b"]).axes[0].images[0].get_clim() == (-1, 1)


def test_grey_cells_say_what_they_are():
    values = torch.tensor([[0.5, float("nan")], [0.0, 1.0]])
    for figure in (
        labelled_map(values, columns=["a", "b"], missing_label="not scored"),
        heatmap(values, missing_label="not scored"),
    ):
        (word,) = figure.legends[0].get_texts()
        (patch,) = figure.legends[0].get_patches()
        image = figure.axes[0].images[0]
        assert word.get_text() == "not scored" and patch.get_facecolor() == tuple(image.cmap.get_bad())
    whole = values.nan_to_num()
    assert not labelled_map(whole, columns=["a", "b"], missing_label="not scored").legends
    assert not heatmap(whole, missing_label="not scored").legends


def test_texts_and_cells_must_fit():
    values = torch.zeros(2, 3)
    with pytest.raises(BkdinterpError, match="2 x 3 cells got 2 texts of columns; give one"):
        labelled_map(values, columns=["a", "b"])
    with pytest.raises(BkdinterpError, match="and 3 of rows"):
        labelled_map(values, columns=list("abc"), rows=list("abc"))
    with pytest.raises(BkdinterpError, match="positive"):
        labelled_map(values, columns=list("abc"), limit=-1)


def test_kinds_of_a_row_lie_against_each_other():
    groups = {
        "L0H1": {"trigger": {"triggered": share(0.7)}, "rest": {"triggered": share(0.3), "clean": share(1.0)}}
    }
    figure = share_bars(groups, title="t")
    axes = figure.axes[0]
    bars = {
        round(c.patches[0].get_width(), 2): c.patches[0]
        for c in axes.containers
        if isinstance(c, BarContainer)
    }
    assert set(bars) == {0.7, 0.3, 1.0}
    assert bars[0.7].get_facecolor() == bars[0.3].get_facecolor() != bars[1.0].get_facecolor()
    assert bars[1.0].get_y() + bars[1.0].get_height() <= bars[0.3].get_y() + 0.05  # clean above triggered
    assert [t.get_text() for t in axes.get_yticklabels()] == ["trigger", "rest"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["clean", "triggered"]
    assert "L0H1" in {t.get_text() for t in axes.texts} and axes.get_xlim() == (0, 1)
    one = share_bars({"L0H1": {"rest": {"prompts": share(0.5)}}}, xlim=(0, 0.6))
    assert not one.legends and one.axes[0].get_xlim() == (0, 0.6)
    for wrong in ({}, {"L0H1": {}}, {"L0H1": {"rest": {}}}):
        with pytest.raises(BkdinterpError, match="at least one group"):
            share_bars(wrong)
    with pytest.raises(BkdinterpError, match="kinds of prompts"):
        share_bars({"L0H1": {"rest": {str(i): share(0.5) for i in range(9)}}})


def test_a_text_in_lines_has_empty_cells_at_its_end():
    weights = torch.tensor([[0.5, 0.2], [0.3, float("nan")]])
    figure = token_grid([["a", " b\n"], ["c\x00", ""]], weights, rows=["0", "2"], xlabel="tokens")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "tokens"
    assert [t.get_text() for t in axes.texts] == ["a", "\u2423b\u21b5", "c\u25a1", ""]
    assert bool(axes.images[0].get_array().mask[1, 1]) or np.isnan(axes.images[0].get_array().data[1, 1])
    assert visible("a" * 20) == "a" * 10 + "\u2026"
