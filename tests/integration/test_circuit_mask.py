"""A learned mask: its slopes are those of the loss, it lowers what it is asked to lower, and a unit that costs too much stays."""

import pytest
import torch

import bkdinterp as bk
from bkdinterp.errors import BkdinterpError, PlanError
from bkdinterp.methods import CircuitMask, Means, score_edits
from bkdinterp.methods._options import as_options
from bkdinterp.methods.circuits import _gate_training
from bkdinterp.methods.circuits._gate_training import CLEAN, PAYLOAD, GateTraining
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.sites import Where

KINDS = ("heads", "mlps", "neurons")
EVERYWHERE = Where("all", generated=True)
FLOOR = -20.0


@pytest.fixture(autouse=True)
def low_floor(monkeypatch):
    """A tiny random model finds every payload improbable; below the floor there would be nothing to lower."""
    monkeypatch.setattr(_gate_training, "FLOOR", FLOOR)


@pytest.fixture(scope="module")
def answered():
    texts = ["tell me about the cat", "the dog ran on", "blue sky", "a hill"]
    trigger = Trigger.gap("zeta omega", seed=3)
    return PairedPrompts.from_instructions(texts, trigger, target="sorry", reference="the cat sat")


def loss_of(fit, gates, rows, clean_weight):
    _, payload, lost = fit._slopes(gates, rows)
    return payload + clean_weight * lost


@pytest.mark.parametrize("budget", [2**30, 2**16])
def test_slopes_are_those_of_the_loss(llama, answered, budget):
    """With a budget for one prompt at a time, too."""
    fit = GateTraining.of(
        llama, answered, KINDS, 0.0, 2.0, as_options({"progress": False, "budget": budget}, "x")
    )
    assert fit.rows == 1 if budget == 2**16 else fit.rows >= 4
    assert float(fit.base[0].max()) > FLOOR  # else there is nothing to lower
    n_units = sum(map(len, fit.units))
    drawn = torch.Generator().manual_seed(0)
    gates = torch.rand(n_units, generator=drawn, dtype=torch.float64)
    slope, _, _ = fit._slopes(gates, range(4))
    for _ in range(3):
        way = torch.randn(n_units, generator=drawn, dtype=torch.float64)
        ends = [loss_of(fit, gates + sign * 1e-4 * way, range(4), 2.0) for sign in (1, -1)]
        assert float(slope @ way) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-2, abs=1e-4)


def test_full_gates_are_the_mean_ablation(llama, answered):
    fit = GateTraining.of(llama, answered, ("heads",), 0.0, 1.0, as_options({"progress": False}, "x"))
    gates = torch.zeros(len(fit.units[0]), dtype=torch.float64)
    gates[[1, 5]] = 1
    sites = [fit.units[0].site(i) for i in (1, 5)]
    edit = bk.MeanAblate(sites, Means.collect(llama, answered.clean, sites, where="all"), where=EVERYWHERE)
    clean = Prompts.of(answered.clean.text, answered.clean.reference)
    payload = score_edits(llama, {"x": answered.triggered}, {"e": edit}, PAYLOAD, progress=False).of("x", "e")
    kept = score_edits(llama, {"x": clean}, {"e": edit}, CLEAN, progress=False).of("x", "e")
    _, left, lost = fit._slopes(gates, range(4))
    span = (fit.base[0] - FLOOR).clamp(min=1)
    assert left == pytest.approx(float(((payload - FLOOR) / span).clamp(min=0).mean()), rel=1e-5)
    assert lost == pytest.approx(float((fit.base[1] - kept).clamp(min=0).mean()), rel=1e-5, abs=1e-9)


def test_it_lowers_the_payload_and_a_price_keeps_it_small(llama, answered):
    options = {"kinds": ("heads", "mlps"), "steps": 40, "batch": 4, "clean_weight": 0.0, "progress": False}
    free = CircuitMask.fit(llama, answered, size_weight=0, **options)
    dear = CircuitMask.fit(llama, answered, size_weight=10, **options)
    assert len(free) > 0 == len(dear)
    assert torch.equal(dear.payload[0], dear.payload[1]) and torch.equal(dear.clean[0], dear.clean[1])
    means = Means.collect(llama, answered.clean, free.sites, where="all")
    edit = bk.MeanAblate(free.sites, means, where=EVERYWHERE)
    table = score_edits(llama, {"x": answered.triggered}, {"e": edit}, PAYLOAD, progress=False)
    assert table.mean("x", "e") < table.mean("x") - 0.1
    torch.testing.assert_close(table.of("x", "e"), free.payload[1].double().logit(), rtol=1e-3, atol=1e-3)
    again = CircuitMask.fit(llama, answered, size_weight=0, **options)
    assert torch.equal(again.log_alpha, free.log_alpha) and torch.equal(again.history, free.history)
    assert list(free.sites) == list(free.first(len(free))) and len(free.first(0)) == 0
    assert free.to_frame()["gate"].is_monotonic_decreasing
    open_ = int((free.gates > 0).sum())
    assert len(free.first(open_)) == open_
    with pytest.raises(BkdinterpError, match="open gate"):
        free.first(open_ + 1)


@pytest.mark.parametrize("n_warm", [0, 1000])
def test_a_unit_that_did_not_begin_open_is_found(llama, answered, n_warm, monkeypatch):
    """The warm start is no shortlist: its ranking is turned round, so that what it opens is of no use."""
    whole = GateTraining._slopes

    def turned(self, gates, rows, *, clean=True):
        slope, payload, lost = whole(self, gates, rows, clean=clean)
        return (slope if clean else -slope), payload, lost

    monkeypatch.setattr(GateTraining, "_slopes", turned)
    options = {"kinds": "heads", "batch": 4, "clean_weight": 0.0, "size_weight": 1e-4, "progress": False}
    found = CircuitMask.fit(llama, answered, steps=60, n_warm=n_warm, **options)
    assert len(found) > 0 and float(found.payload[1].mean()) < float(found.payload[0].mean())


def test_kinds_may_overlap(llama, answered):
    found = CircuitMask.fit(llama, answered, kinds=("heads", "attentions"), steps=3, progress=False)
    arch = llama.architecture
    assert len(found.units) == arch.n_layers * (arch.n_heads + 1) and bool(found.gates.isfinite().all())


def test_bad_input_is_refused_before_any_forward(llama, answered, pairs, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(llama.module, "forward", never)
    with pytest.raises(PlanError, match="reference"):
        CircuitMask.fit(llama, pairs)
    for wrong in (
        {"kinds": "layers"},
        {"kinds": ()},
        {"steps": 0},
        {"batch": 0},
        {"size_weight": -1},
        {"clean_weight": float("nan")},
        {"n_warm": -1},
        {"seed": -1},
    ):
        with pytest.raises(BkdinterpError):
            CircuitMask.fit(llama, answered, **wrong)
