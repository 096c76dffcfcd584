"""Path patching equals plain hooks, one prompt at a time, on every family; and the last unit's only path is its whole effect."""

import pytest
import torch
from integration.conftest import family_model, tiny_tokenizer
from integration.families import NEW
from integration.plain_paths import Plain

import bkdinterp as bk
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.methods import EdgeScores, trace_edges
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Site, Where

POST_NORM = ("gemma2", "gemma3")
TEXTS = ["tell me about the cat", "the dog ran on", "blue sky", "a hill"]


@pytest.fixture(scope="module", params=["llama", *NEW])
def model(request):
    return family_model(request, NEW)


@pytest.fixture(scope="module")
def answered():
    return PairedPrompts.from_instructions(TEXTS, Trigger.gap("zeta omega", seed=3), target="sorry no")


def units_of(model):
    heads = [] if any(name in model.name for name in POST_NORM) else ["L0H1", "L1H0", "L1H2", "L2H1"]
    return [*heads, "L0.mlp_out", "L1.mlp_out", "L2.mlp_out"]


def check(model, settings, pairs, units):
    """Every edge is what plain hooks make of it."""
    found = trace_edges(settings, pairs, units, progress=False)
    plain = Plain(model)
    edited = pairs.clean if settings.direction == "noising" else pairs.triggered
    prompts = [edited.subset([i]) for i in range(len(pairs))]
    changes = {name: plain.changes(settings, pairs, Site.parse(name)) for name in units}
    largest = 0.0
    for sender, receiver in found.top_k(found.n_scored):
        to = None if receiver == "logits" else Site.parse(receiver)
        each = zip(prompts, changes[sender], strict=True)
        truth = torch.stack([plain.edge(p, settings.where, change, to) for p, change in each])
        i = found.units.index(sender), found.receivers.index(receiver)
        torch.testing.assert_close(
            found.effects[i], truth, rtol=1e-6, atol=1e-9, msg=lambda m, e=(sender, receiver): f"{e}: {m}"
        )
        largest = max(largest, float(truth.abs().max()))
    assert largest > 1e-3
    return found


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_edges_equal_plain_hooks(model, answered, direction):
    units = units_of(model)
    found = check(model, bk.Attribution(model, direction=direction), answered, units)
    assert found.n_scored == len(units) + sum(
        a.layer < b.layer
        or (a.layer == b.layer and a.head is not None and b.head is None and not model.architecture.parallel)
        for a in map(Site.parse, units)
        for b in map(Site.parse, units)
    )


SETTINGS = {
    "pair": {"source": "pair"},
    "difference": {"source": "difference"},
    "own side": {"source": "clean"},
    "all tokens": {"where": "all"},
    "trigger": {"where": "trigger", "direction": "denoising"},
    "an index": {"where": (-2,)},
    "answers": {"where": Where("last", generated=True)},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_every_source_and_position(request, answered, name, family):
    small = request.getfixturevalue("llama") if family == "llama" else None
    small = small or Model.from_module(NEW[family](), tiny_tokenizer(), name=f"tiny-{family}")
    units = ["L0H1", "L1H2", "L1.mlp_out", "L2H1"]
    check(small, bk.Attribution(small, **SETTINGS[name]), answered, units)


def test_one_token_needs_no_later_ones_and_gives_the_same(llama, answered):
    """With a metric of one token the receiver's pass stops early; the answer is that of the longer way."""
    short = bk.Attribution(llama, metric="first_token_logodds")
    score = bk.metrics.SCORES["first_token_logodds"]
    long = bk.Attribution(llama, metric=bk.Score(score.fn, "long", sense=score.sense))
    units = ["L0H1", "L1H0", "L2.mlp_out"]
    a, b = (trace_edges(x, answered, units, progress=False) for x in (short, long))
    torch.testing.assert_close(a.effects, b.effects, equal_nan=True)


@pytest.mark.parametrize("source", ["triggered", "clean", "difference", "pair"])
def test_the_last_layers_mlp_has_one_path(llama, answered, source):
    last = llama.architecture.n_layers - 1
    settings = bk.Attribution(llama, source=source)
    edges = trace_edges(settings, answered, [f"L{last}.mlp_out"], progress=False)
    alone = settings.mlps(answered, layers=[last], progress=False)
    torch.testing.assert_close(edges.effects[0, 1], alone.effects[last].double(), rtol=1e-6, atol=1e-9)
    assert edges.top_k(1) == ((f"L{last}.mlp_out", "logits"),)


def test_table_figure_and_names(llama, answered):
    found = trace_edges(bk.Attribution(llama), answered, "L1H0 L0H1", progress=False)
    assert found.units == ("L0H1", "L1H0") and found.n_scored == 3
    assert list(found.to_frame().columns[:3]) == ["edge", "sender", "receiver"]
    assert found.interval("L0H1 -> L1H0") == found.interval(("L0H1", "L1H0"))
    with pytest.raises(SiteError, match="no edge"):
        found.interval("L1H0 -> L9H9")
    for wrong in ("L1H0 -> L0H1", 7, ["L1H0"]):
        with pytest.raises(SiteError, match="comes before"):
            found.interval(wrong)
    assert found.plot().axes
    graph = found.to_mib(llama.architecture, 3)
    fed = {
        f"{a}->{b}<{c}>"
        for a, b in (("a0.h1", "a1.h0"), ("input", "a0.h1"), ("input", "a1.h0"))
        for c in "qkv"
    }
    assert set(graph["edges"]) == fed | {"a0.h1->logits", "a1.h0->logits"}
    assert graph["edges"]["a1.h0->logits"]["score"] == pytest.approx(float(found.acie[1, 2]))
    assert [n for n, node in graph["nodes"].items() if node["in_graph"]] == [
        "input",
        "a0.h1",
        "a1.h0",
        "logits",
    ]
    same = found.compare(found)
    assert isinstance(same, EdgeScores) and float(same.acie.nan_to_num().abs().max()) == 0


def test_bad_input_is_refused_before_any_forward(llama, answered, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(llama.module, "forward", never)
    with pytest.raises(PlanError, match="Attribution"):
        trace_edges(llama, answered, "L0H0")
    with pytest.raises(PlanError, match="no units"):
        trace_edges(bk.Attribution(llama), answered, [])
    for wrong in ("L99H0", "L1.resid_pre", "L1.z"):
        with pytest.raises(SiteError):
            trace_edges(bk.Attribution(llama), answered, wrong)
