"""Circuits: each step is the best of all that could be taken, and the curve ends where it must."""

import pytest
import torch

import bkdinterp as bk
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.methods import Means, find_circuit, score_edits, trace_circuits
from bkdinterp.methods.circuits._find_circuit import CLEAN, EVERYWHERE, PAYLOAD
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger

SHORTLIST = ("L0H1", "L1H0", "L1.mlp_out", "L2H1", "L2.mlp_out")


@pytest.fixture(scope="module")
def answered():
    texts = ["tell me about the cat", "the dog ran on", "blue sky", "a hill"]
    trigger = Trigger.gap("zeta omega", seed=3)
    return PairedPrompts.from_instructions(texts, trigger, target="sorry no", reference="the cat sat")


def losses(model, pairs, sets, weight, ablate):
    """Loss of each set by the engine's table of scores, from its definition."""
    clean = Prompts.of(pairs.clean.text, pairs.clean.reference)
    sites = tuple(dict.fromkeys(s for some in sets for s in some))
    means = Means.collect(model, pairs.clean, sites, where="all")

    def edit(some):
        return (
            bk.ZeroAblate(some, where=EVERYWHERE)
            if ablate == "zero"
            else bk.MeanAblate(some, means, where=EVERYWHERE)
        )

    edits = {str(i): edit(some) for i, some in enumerate(sets)}
    payload = score_edits(model, {"x": pairs.triggered}, edits, PAYLOAD, progress=False)
    kept = score_edits(model, {"x": clean}, edits, CLEAN, progress=False)
    return [
        payload.mean("x", name) + weight * max(0.0, kept.mean("x") - kept.mean("x", name)) for name in edits
    ]


@pytest.mark.parametrize(("ablate", "weight"), [("mean", 1.0), ("zero", 0.0), ("zero", 20.0)])
def test_each_unit_is_the_best_beside_those_before_it(llama, answered, ablate, weight):
    found = find_circuit(
        llama,
        answered,
        SHORTLIST,
        k=4,
        ablate=ablate,
        clean_weight=weight,
        n_rescored=9,
        least_gain=0,
        progress=False,
    )
    chosen = list(found.units)
    before = None
    for step in range(len(chosen)):
        given, rest = chosen[:step], [u for u in SHORTLIST if u not in chosen[:step]]
        tried = losses(llama, answered, [(*given, u) for u in rest], weight, ablate)
        assert rest[tried.index(min(tried))] == chosen[step]
        now = min(tried)
        assert before is None or now < before
        before = now
    # It ended because nothing helped, or because enough were chosen.
    if len(chosen) < 4:
        rest = [u for u in SHORTLIST if u not in chosen]
        assert (
            not chosen
            or min(losses(llama, answered, [(*chosen, u) for u in rest], weight, ablate)) >= before - 1e-9
        )


def test_saved_probabilities_are_those_of_the_set(llama, answered):
    found = find_circuit(llama, answered, SHORTLIST, k=2, clean_weight=0.0, least_gain=0, progress=False)
    means = Means.collect(llama, answered.clean, SHORTLIST, where="all")
    for step in range(1, len(found) + 1):
        edit = bk.MeanAblate(found.first(step), means, where=EVERYWHERE)
        table = score_edits(llama, {"x": answered.triggered}, {"e": edit}, PAYLOAD, progress=False)
        torch.testing.assert_close(found.payload[step - 1].double(), table.of("x", "e"), rtol=1e-5, atol=1e-9)


def test_few_rescored_units_still_end_where_nothing_helps(llama, answered):
    whole = find_circuit(llama, answered, SHORTLIST, k=5, n_rescored=9, least_gain=0, progress=False)
    lazy = find_circuit(llama, answered, SHORTLIST, k=5, n_rescored=1, least_gain=0, progress=False)
    # It looks at the others before it gives up.
    rest = [u for u in SHORTLIST if u not in lazy.units]
    if rest:
        tried = losses(llama, answered, [lazy.units, *[(*lazy.units, u) for u in rest]], 1.0, "mean")
        assert min(tried[1:]) >= tried[0] - 1e-9
    assert len(lazy) >= 1 and len(whole) >= 1


def test_a_least_gain_ends_the_search(llama, answered):
    """The tiny model's payload is improbable, so no unit can lower it by that much."""
    options = {"clean_weight": 0.0, "progress": False}
    assert len(find_circuit(llama, answered, SHORTLIST, least_gain=0, **options)) >= 1
    assert len(find_circuit(llama, answered, SHORTLIST, **options)) == 0


def test_all_units_are_the_whole_and_without_them_nothing_is_left(llama, answered):
    arch = llama.architecture
    heads = [f"L{layer}H{head}" for layer in range(arch.n_layers) for head in range(arch.n_heads)]
    units = [*heads, *(f"L{layer}.mlp_out" for layer in range(arch.n_layers))]
    curve = trace_circuits(
        bk.Attribution(llama), answered, {"all": units}, sizes=[1, len(units)], progress=False
    )
    torch.testing.assert_close(curve.inside["all"][1], curve.whole)
    torch.testing.assert_close(curve.outside["all"][1], curve.nothing)
    assert curve.f("all")[1].estimate == pytest.approx(1)
    assert curve.kept("all")[1].estimate == pytest.approx(0, abs=1e-6)
    # One unit is what the attribution says of it.
    alone = bk.Attribution(llama).heads(answered, progress=False).effects[0, 0]
    torch.testing.assert_close(curve.inside["all"][0] - curve.nothing, alone.double(), rtol=1e-4, atol=1e-7)


def test_one_size_by_default_is_the_whole_ranking(llama, answered):
    curve = trace_circuits(
        bk.Attribution(llama, direction="denoising"), answered, {"a": "L0H0 L1H0 L2H0"}, progress=False
    )
    assert curve.sizes.tolist() == [1, 2, 3]


def test_bad_input_is_refused_before_any_forward(llama, answered, pairs, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(llama.module, "forward", never)
    with pytest.raises(PlanError, match="reference="):
        find_circuit(llama, pairs, "L0H0")
    with pytest.raises(PlanError, match="empty"):
        find_circuit(llama, answered, [])
    with pytest.raises(SiteError):
        find_circuit(llama, answered, "L99H0")
    for wrong in ({"k": 0}, {"n_rescored": 0}, {"least_gain": -1}, {"clean_weight": -1}, {"ablate": "noise"}):
        with pytest.raises(PlanError):
            find_circuit(llama, answered, "L0H0", **wrong)
    settings = bk.Attribution(llama)
    with pytest.raises(PlanError, match="rankings"):
        trace_circuits(settings, answered, {})
    with pytest.raises(PlanError, match="shortest"):
        trace_circuits(settings, answered, {"a": "L0H0"}, sizes=[2])
    with pytest.raises(SiteError, match="neither a head"):
        trace_circuits(settings, answered, {"a": "L0.resid_post"})
    with pytest.raises(PlanError, match="needs an Attribution"):
        trace_circuits(llama, answered, {"a": "L0H0"})
