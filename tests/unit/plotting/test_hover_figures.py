"""Hover figures say the rows of the result's own table, on one scale, and nothing that a stranger wrote is read as HTML. No model."""

import dataclasses
import html
import math
import re
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from unit.results.mutants import results

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods import (
    EdgeScores,
    HeadScores,
    LayerScores,
    LayerSweep,
    LensCurve,
    NeuronScores,
    PositionScores,
    ProbeScores,
    ScreenedScores,
)
from bkdinterp.plotting import hover_curves, hover_map, hover_points
from bkdinterp.sites import Component

go = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")

RESULTS = {type(r).__name__: r for r in results()}
# Result, more arguments of hover(), the same of to_frame(), and the columns that name a row.
HOVERS = [
    ("HeadScores", (), ("head",)),
    ("LayerScores", (), ("site",)),
    ("NeuronScores", (), ("neuron",)),
    ("PositionScores", (), ("site", "position", "token")),
    ("ScreenedScores", (), ("site",)),
    ("EdgeScores", (), ("edge",)),
    ("ScreenedEdges", (), ("edge",)),
    ("ProbeScores", ("icla",), ("train_layer", "test_layer")),
    ("ProbeScores", ("in_layer",), ("layer",)),
    ("LayerSweep", (), ("layer",)),
    ("LensCurve", (), ("name", "prompts")),
]
BESIDE = ("HeadScores", "LayerScores", "EdgeScores", "ProbeScores", "LayerSweep", "LensCurve")
MAPS = ("HeadScores", "PositionScores", "EdgeScores", "ProbeScores")
every_result = pytest.mark.parametrize(("name", "kind", "named_by"), HOVERS)
EVIL = "<a href='javascript:x()'>go<b> &lt; $x$ and $y$"


def named(result, adapter="refusal", **more):
    origin = dataclasses.replace(result.fingerprint, model="org/tiny@0a1b-2c", adapter=adapter)
    more |= {"trained_on": origin} if isinstance(result, ProbeScores) else {}
    return dataclasses.replace(result, fingerprint=origin, **more)


def changed(result, adapter="twin"):
    """The same with other numbers, as of the twin."""
    if isinstance(result, ProbeScores):
        return named(result, adapter, predicted=~result.predicted)
    if isinstance(result, LensCurve):
        return named(result, adapter, log_probabilities=result.log_probabilities - 1)
    if isinstance(result, LayerSweep):
        return named(result, adapter, values=1 - result.values)
    return named(result, adapter, effects=0.3 * result.effects - 0.1)


def said(figure, panel=None):
    """All texts at the pointer, of one panel or of all."""
    axis = None if panel is None else "x" if panel == 0 else f"x{panel + 1}"
    found = []
    for trace in figure.data:
        if trace.hoverinfo == "text" and axis in (None, trace.xaxis):
            found += [text for text in np.ravel(np.asarray(trace.hovertext, dtype=object)) if text]
    return found


def read(text):
    """A text's name, and what it says: column -> numbers, the ends of an interval among them, or yes and no."""
    name, *lines = text.split("<br>")
    pairs = [re.fullmatch(r"([^:]+): (\S+)(?: \[(\S+), (\S+)\])?", line).groups() for line in lines]
    numbers = {c: [x for x in values if x is not None] for c, *values in pairs}
    return html.unescape(name.removeprefix("<b>").removesuffix("</b>")), numbers


def names_of(frame, columns):
    words = [[x if isinstance(x, str) else f"{c.replace('_', ' ')} {x}" for x in frame[c]] for c in columns]
    return [", ".join(p.replace(" x", "\N{OPEN BOX}x") for p in parts if p) for parts in zip(*words)]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        for item in value:
            yield from strings(item)


@every_result
def test_the_pointer_says_the_rows_of_the_table(name, kind, named_by):
    result = named(RESULTS[name])
    frame = result.to_frame(*kind)
    texts = dict(map(read, said(result.hover(*kind))))
    assert list(texts) and set(texts) == set(names_of(frame, named_by))
    main = next(c for c in ("acie", "accuracy", "mean", "probability") if c in frame)
    also = [c for c in ("p_adjusted", "std", "estimate", "random_best", "control_mean", "rank") if c in frame]
    for row, key in zip(frame.to_dict("records"), names_of(frame, named_by), strict=True):
        own = texts[key]
        shown = [float(x) for x in own[main]]
        assert shown == pytest.approx([row[main], row["low"], row["high"]], rel=1e-3, abs=1e-4)
        assert int(own["n"][0]) == row["n"]
        for column in also:
            assert float(own[column.replace("_", " ")][0]) == pytest.approx(row[column], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", BESIDE)
def test_beside_it_stand_the_other_and_the_difference(name):
    own = named(RESULTS[name])
    other = changed(own)
    figure = own.hover(beside=other)
    titles = [a.text for a in figure.layout.annotations]
    assert titles[:2] == ["tiny + refusal (0a1b)", "tiny + twin (0a1b)"]
    assert titles[2:] == ["difference (first minus second)"] * isinstance(
        own, HeadScores | LayerScores | EdgeScores
    )
    main = next(c for c in ("acie", "accuracy", "mean", "probability") if c in own.to_frame())
    for panel, (mine, theirs) in enumerate(((own, other), (other, own))):
        frame = mine.to_frame(beside=theirs)
        texts = [numbers for _, numbers in map(read, said(figure, panel))]
        for column in (main, "beside", "difference"):
            shown = sorted({round(float(t[column][0]), 3) for t in texts})
            assert shown == pytest.approx(sorted(set(frame[column].round(3))), abs=2e-3)
        assert len(frame[main]) and frame["difference"].abs().max() > 0


@pytest.fixture
def heads():
    own = torch.randn(4, 3, 12, generator=torch.Generator().manual_seed(0))
    own[2, 1] += 5
    own[1] = torch.nan
    twin = own * 0.1 - 1
    base = torch.zeros(12)
    first = RESULTS["HeadScores"]
    return named(first, effects=own, base=base), named(first, "twin", effects=twin, base=base)


def test_maps_beside_each_other_have_one_scale(heads):
    own, twin = heads
    figure = own.hover(beside=twin)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    gap = own.acie - twin.acie
    for trace, wanted in zip(maps, (own.acie, twin.acie, gap), strict=True):
        np.testing.assert_allclose(trace.z, wanted.numpy(), rtol=1e-5)
        assert trace.coloraxis == "coloraxis"
    axis = figure.layout.coloraxis
    assert (
        axis.cmax
        == -axis.cmin
        == pytest.approx(max(float(x[~x.isnan()].abs().max()) for x in (own.acie, gap)))
    )
    assert figure.layout.yaxis2.matches == figure.layout.yaxis3.matches == "y"
    assert figure.layout.yaxis.range == (3.5, -0.5)  # layer 0 on top, as in the other maps
    assert own.hover(limit=7).layout.coloraxis.cmax == 7
    red, blue = axis.colorscale[-1][1], axis.colorscale[0][1]
    assert [int(x) > int(y) for x, y in zip(*(re.findall(r"\d+", c) for c in (red, blue)))] == [1, 0, 0]


def test_units_that_were_not_scored_are_empty_and_the_others_are_in_their_cells(heads):
    own, _ = heads
    trace = own.hover().data[0]
    assert np.isnan(trace.z[1]).all() and set(trace.hovertext[1]) == {""} and trace.hoverongaps is False
    for layer in (0, 2, 3):
        for head in range(3):
            name, numbers = read(trace.hovertext[layer][head])
            assert name == f"L{layer}H{head}"
            assert float(numbers["acie"][0]) == pytest.approx(float(trace.z[layer][head]), rel=1e-3)


def test_a_unit_that_only_one_of_two_scored_is_empty_in_the_difference(heads):
    own, twin = heads
    effects = twin.effects.clone()
    effects[3, 0] = torch.nan
    maps = [
        t for t in own.hover(beside=dataclasses.replace(twin, effects=effects)).data if t.type == "heatmap"
    ]
    assert np.isfinite(maps[0].z[3][0]) and np.isnan(maps[1].z[3][0]) and np.isnan(maps[2].z[3][0])
    assert maps[1].hovertext[3][0] == "" and "difference" not in maps[0].hovertext[3][0]


def test_dots_are_the_cells_whose_interval_includes_the_centre(heads):
    own, twin = heads
    figure = own.hover(beside=twin)
    frame = own.to_frame(beside=twin)
    for axis, low, high in (("x", "low", "high"), ("x3", "difference_low", "difference_high")):
        (dots,) = [t for t in figure.data if t.type == "scatter" and t.xaxis == axis]
        unsure = frame[(frame[low] <= 0) & (frame[high] >= 0)]
        assert set(zip(dots.y, dots.x)) == set(zip(unsure["layer"], unsure["index"]))
        assert 0 < len(dots.x) < len(frame) and dots.hoverinfo == "skip"
    assert [t.showlegend for t in figure.data if t.type == "scatter"].count(True) == 1


def test_positions_and_edges_are_in_their_cells():
    own = named(RESULTS["PositionScores"])
    figure = own.hover()
    trace = figure.data[0]
    np.testing.assert_allclose(trace.z, own.acie.numpy(), rtol=1e-5)
    assert read(trace.hovertext[2][0])[0] == "L2.resid_post, trigger[-1], \N{OPEN BOX}x"
    assert set(trace.hovertext[1]) == {""}
    assert figure.layout.xaxis.ticktext == ("trigger[-1] \N{OPEN BOX}x (n=4)", "last")
    edges = named(RESULTS["EdgeScores"])
    trace = edges.hover().data[0]
    np.testing.assert_allclose(trace.z, edges.acie.numpy(), rtol=1e-5)
    assert read(trace.hovertext[0][1])[0] == "L1H0 -> L2.mlp_out"


def test_the_colours_of_a_probe_are_centred_on_chance():
    own = named(RESULTS["ProbeScores"])
    axis = own.hover().layout.coloraxis
    assert own.chance == 0.6 and (axis.cmin, axis.cmax) == pytest.approx((0.2, 1.0))
    assert own.hover(limit=0.1).layout.coloraxis.cmax == pytest.approx(0.7)


@pytest.mark.parametrize("name", ["LayerScores", "LayerSweep", "LensCurve"])
def test_curves_beside_each_other_have_one_scale_and_limit_is_it(name):
    own = named(RESULTS[name])
    figure = own.hover(beside=changed(own), limit=(-2, 50))
    assert figure.layout.yaxis2.matches == "y"
    low, high = figure.layout.yaxis.range
    assert (low, high) == pytest.approx((-2, 50), abs=0.04 * 52)
    with pytest.raises(BkdinterpError, match="lower end first"):
        own.hover(limit=(1, 0))


def test_bars_have_the_tables_whiskers_and_leave_gaps():
    effects = (
        torch.arange(12.0) / 12 + torch.arange(4)[:, None]
    )  # the last is the strongest, the first in the table
    effects[1] = torch.nan
    own = named(RESULTS["LayerScores"], effects=effects, base=torch.zeros(12))
    (bars,) = own.hover().data
    frame = own.to_frame().sort_values("layer")
    assert list(bars.x) == [0, 2, 3]
    np.testing.assert_allclose(bars.y, frame["acie"])
    np.testing.assert_allclose(bars.y + bars.error_y.array, frame["high"])
    np.testing.assert_allclose(bars.y - bars.error_y.arrayminus, frame["low"])


def test_curves_have_the_tables_bands_and_the_colours_of_kinds_of_prompts():
    own = named(RESULTS["LensCurve"])
    figure = own.hover()
    frame = own.to_frame()
    for name in own.sets:
        rows = frame[frame["prompts"] == name].sort_values("layer")
        band, curve = [t for t in figure.data if t.legendgroup == name]
        np.testing.assert_allclose(curve.y, rows["probability"])
        assert set(np.round(band.y, 6)) == set(np.round([*rows["low"], *rows["high"]], 6))
        assert band.hoverinfo == "skip" and band.fillcolor == curve.line.color
    colours = {t.name: t.line.color for t in figure.data if t.showlegend}
    assert colours == {"clean": "#56B4E9", "triggered": "#D55E00"}


def test_an_interval_without_width_or_end_is_not_drawn_and_said_as_it_is():
    table = pandas.DataFrame(
        {"layer": [0, 1], "mean": [1.0, 2.0], "low": [1.0, -math.inf], "high": [1.0, math.inf]}
    )
    (curve,) = hover_curves(
        {"": {"x": (table, "mean")}}, x="layer", name=("layer",), xlabel="", ylabel=""
    ).data
    assert [read(t)[1]["mean"] for t in curve.hovertext] == [["1", "1", "1"], ["2", "-inf", "inf"]]


def test_the_chosen_layer_chance_and_nulls_of_a_probe_are_there():
    own = named(RESULTS["ProbeScores"])
    figure = own.hover("in_layer", beside=changed(own))
    lines = {
        shape.name: (shape.x0, shape.y0) for shape in figure.layout.shapes if shape.xref.split()[0] == "x"
    }
    assert lines["chosen on validation"][0] == own.chosen_layer and lines["chance"][1] == own.chance
    grey = [t.name for t in figure.data if t.line.color == "#6b6b6b" and t.showlegend]
    assert grey == ["random directions: median", "random directions: best"]
    best = next(t for t in figure.data if t.name == "random directions: best")
    np.testing.assert_allclose(best.y, own.random_best)


def test_neurons_that_may_have_no_effect_are_grey():
    effects = torch.tensor([1.0, -1.0]).repeat(6, 6) + torch.tensor([0, 0, 0, 0, 5.0, 0])[:, None]
    found = named(RESULTS["NeuronScores"], effects=effects, base=torch.zeros(12))
    groups = {t.name: t for t in found.hover().data}
    assert list(groups["differs from 0"].x) == [4] and set(groups["may be 0"].x) == {0, 1, 2, 3, 5}
    assert groups["may be 0"].marker.color == "#6b6b6b" != groups["differs from 0"].marker.color
    assert read(groups["differs from 0"].hovertext[0])[0] == "L1N4"


def test_a_screen_is_estimate_against_exact_on_one_scale():
    found = named(RESULTS["ScreenedScores"])
    figure = found.hover(limit=7)
    drawn = next(t for t in figure.data if t.name == "drawn from the others")
    frame = found.to_frame()
    sampled = frame[frame["sampled"]]
    np.testing.assert_allclose(drawn.x, sampled["estimate"])
    np.testing.assert_allclose(drawn.y, sampled["acie"])
    assert figure.layout.xaxis.range == figure.layout.yaxis.range == (-7, 7)
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1) == (line.y0, line.y1) == (-7, 7)


@every_result
def test_nothing_of_a_stranger_is_read_as_html_or_as_a_formula(name, kind, named_by):
    result = named(RESULTS[name], EVIL)
    if hasattr(result, "metric"):
        result = dataclasses.replace(result, metric=EVIL)
    if isinstance(result, PositionScores):
        result = dataclasses.replace(result, texts=(EVIL, "\u202e\n<b>"), positions=(EVIL, "last"))
    if isinstance(result, LensCurve):
        result = dataclasses.replace(result, sets=("clean", EVIL))
    if isinstance(result, LayerSweep):
        result = dataclasses.replace(result, by=EVIL)
    figures = [result.hover(*kind), result.hover(*kind, title=EVIL)]
    if name in BESIDE:
        figures.append(result.hover(*kind, beside=changed(result, f"{EVIL}2")))
    for figure in figures:
        words = list(strings(figure.to_plotly_json()))
        ours = re.compile(r"<br>|^<b>|</b>(?=<br>)")
        bad = [text for text in words if re.search(r"[<>$]|&(?!(amp|lt|gt|#36);)", ours.sub("", text))]
        assert len(words) > 10 and not bad
        assert any("javascript" in text for text in words)  # it is shown, as text


def test_a_hostile_token_is_shown_as_it_is():
    own = named(RESULTS["PositionScores"])
    own = dataclasses.replace(own, texts=(" <b>&amp;\n\u202ex</b> ", ""))
    name, _ = read(own.hover().data[0].hovertext[0][0])
    assert name == "L0.resid_post, trigger[-1], \N{OPEN BOX}<b>&amp;\\n\\u202ex</b>\N{OPEN BOX}"


def test_the_title_is_that_of_the_other_figures_without_its_backslash():
    own = named(RESULTS["HeadScores"], "a$b")
    title = html.unescape(own.hover().layout.title.text).replace("<br>", " ")
    assert "tiny + a$b (0a1b)" in title and "\\" not in title and "n=5" in title
    assert own.hover(title="mine").layout.title.text == "mine"


def test_a_long_title_is_broken_and_has_room():
    own = named(RESULTS["HeadScores"])
    short, long = own.hover(title="a"), own.hover(title="effect of heads " * 20)
    lines = long.layout.title.text.split("<br>")
    assert len(lines) > 3 and max(map(len, lines)) * 8 < long.layout.width
    assert long.layout.margin.t - short.layout.margin.t >= 16 * (len(lines) - 1)


def test_plotly_has_no_button_that_sends_the_data_away():
    assert "sendChartToCloud" in RESULTS["HeadScores"].hover().layout.modebar.remove


def test_a_saved_page_asks_for_nothing(tmp_path):
    path = tmp_path / "page.html"
    own = dataclasses.replace(RESULTS["PositionScores"], texts=(f"</script><img src=x>{EVIL}", ""))
    own.hover().write_html(path, include_plotlyjs=True)
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition("/**\n* plotly.js v")
    data = rest.rpartition("<script")[2]
    assert len(rest) > 1_000_000 and '"heatmap"' in data and "javascript:" in data
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)=", before + data)
    assert data.count("</script>") == 1 and data.count("<") < 10  # what ends the page


@every_result
def test_missing_plotly_says_what_to_install(monkeypatch, name, kind, named_by):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(BkdinterpError, match=r"pip install bkdinterp\[hover\]"):
        RESULTS[name].hover(*kind)


def test_neither_library_is_imported_before_it_is_needed():
    code = (
        "import sys, pandas, bkdinterp.plotting as p; assert 'plotly' not in sys.modules\n"
        "t = pandas.DataFrame({'layer': [0], 'head': [0], 'acie': [1.0]})\n"
        "p.hover_map({'': (t, 'acie')}, row='layer', column='head', rows=[0], columns=[0], name=('head',))\n"
        "assert 'plotly' in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_be_drawn_is_refused():
    table = pandas.DataFrame({"layer": [0, 1], "head": ["a", "b"], "acie": [1.0, 2.0]})
    cells = {"row": "layer", "column": "head", "name": ("head",)}
    with pytest.raises(BkdinterpError, match="head 'b', which is not on the map"):
        hover_map({"": (table, "acie")}, rows=range(2), columns=["a"], **cells)
    with pytest.raises(BkdinterpError, match="no column 'effect'; it has layer, head, acie"):
        hover_map({"": (table, "effect")}, rows=range(2), columns=["a", "b"], **cells)
    with pytest.raises(BkdinterpError, match="at least one cell"):
        hover_map({"": (table[:0], "acie")}, rows=[], columns=["a"], **cells)
    with pytest.raises(BkdinterpError, match="at least one panel"):
        hover_map({}, rows=range(2), columns=["a"], **cells)
    words = {"name": ("head",), "xlabel": "", "ylabel": ""}
    with pytest.raises(BkdinterpError, match="has 0 curves"):
        hover_curves({"": {}}, x="layer", **words)
    with pytest.raises(BkdinterpError, match="1 to 7 groups"):
        hover_points({"a": table[:0]}, x="layer", y="acie", **words)
    own = RESULTS["LayerScores"]
    with pytest.raises(BkdinterpError, match="takes another HeadScores"):
        RESULTS["HeadScores"].hover(beside=own)
    other = dataclasses.replace(own, component=Component.attn_out)
    assert "attn_out" in own.hover(beside=other).layout.annotations[1].text
    assert {NeuronScores, ScreenedScores} <= {type(RESULTS[name]) for name, *_ in HOVERS}
