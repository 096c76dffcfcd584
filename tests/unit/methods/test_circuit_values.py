"""What a circuit says of itself, and what its curve measures, on made-up numbers."""

import json

import pytest
import torch

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.methods import Circuit, CircuitCurve
from bkdinterp.methods.circuits._mib_json import mib_values
from bkdinterp.results import Fingerprint
from bkdinterp.sites import Site

PRINT = Fingerprint("tiny@0a", "r", None, "float32", "t", "d", 0, {"torch": "2"})


class Arch:
    n_layers, n_heads, d_model, parallel = 3, 2, 8, False


def circuit(*units, n=6):
    k = len(units)
    return Circuit(
        PRINT, units, torch.rand(k, n), torch.rand(k, n), torch.rand(n), torch.rand(n), "mean", 1.0, 9
    )


def curve(values, nothing=0.0, whole=1.0, sizes=(1, 2, 4), n_units=8):
    n = 5
    rows = torch.tensor(values)[:, None].expand(-1, n).clone()
    fill = torch.full((n,), 1.0)
    return CircuitCurve(
        PRINT,
        torch.tensor(sizes),
        {"a": rows},
        {"a": rows},
        nothing * fill,
        whole * fill,
        "m",
        "noising",
        n_units,
    )


def test_units_keep_their_order_and_the_first_are_taken():
    found = circuit("L2H1", "L0.mlp_out", "L1H0")
    assert list(map(str, found.sites)) == ["L2H1", "L0.mlp_out", "L1H0"]
    assert list(map(str, found.first(2))) == ["L2H1", "L0.mlp_out"]
    for k in (0, 4):
        with pytest.raises(BkdinterpError):
            found.first(k)


def test_jaccard_is_the_share_of_units_in_both():
    one, other = circuit("L0H0", "L1H0", "L2H0"), circuit("L1H0", "L2H0", "L2H1")
    assert one.jaccard(other) == 2 / 4
    assert one.jaccard(one) == 1 and one.jaccard(["L2.mlp_out"]) == 0
    # Of the first two each: {L0H0, L1H0} and {L1H0, L2H0}.
    assert one.jaccard(other, k=2) == 1 / 3
    assert one.jaccard("L0H0 L1H0 L2H0") == 1
    with pytest.raises(BkdinterpError, match="empty"):
        circuit().jaccard(circuit())
    for k in (0, -1):
        with pytest.raises(BkdinterpError, match="k="):
            one.jaccard(other, k=k)


@pytest.mark.parametrize("step", [-1, 3, "last"])
def test_a_step_that_is_not_there_is_refused(step):
    with pytest.raises(BkdinterpError, match="step="):
        circuit("L0H0", "L1H0").interval("payload", step)


def test_an_empty_circuit_can_be_shown():
    found = circuit()
    assert len(found.to_frame()) == 1 and "0 units of 9" in repr(found)
    found.plot()


def test_probabilities_have_intervals_within_0_and_1():
    found = Circuit(
        PRINT,
        ("L0H0",),
        torch.tensor([[0.0] * 11 + [1.0]]),
        torch.ones(1, 12),
        torch.ones(12),
        torch.ones(12),
        "mean",
        1.0,
        9,
    )
    low, high = found.interval("payload", 1).low, found.interval("payload", 1).high
    assert 0 <= low < 1 / 12 < high <= 1


@pytest.mark.parametrize("units", [("L0H0", "L0H0"), ("L0H0", "L00H0")])
def test_a_unit_is_in_a_circuit_once(units):
    with pytest.raises(ArtefactError, match="twice"):
        circuit(*units)._validate()


def test_shares_run_from_nothing_to_the_whole():
    found = curve([2.0, 3.0, 4.0], nothing=2.0, whole=4.0)
    assert [i.estimate for i in found.f("a")] == [0.0, 0.5, 1.0]


def test_effects_that_lower_the_metric_are_shares_of_a_drop():
    found = curve([-1.0, -2.0, -4.0], nothing=0.0, whole=-4.0)
    assert [i.estimate for i in found.f("a")] == [0.25, 0.5, 1.0]
    assert all(i.low <= i.estimate <= i.high for i in found.f("a"))


def test_areas_are_those_of_trapezoids():
    found = curve([0.5, 1.0, 1.0])
    # 0 to 1: mean 1/4; 1 to 2: 3/4; 2 to 4: 1, twice.
    assert found.cpr("a") == pytest.approx((0.25 + 0.75 + 2.0) / 4)
    assert found.cmd("a") == pytest.approx((0.75 + 0.25 + 0.0) / 4)


def test_more_than_the_whole_is_a_distance_too():
    assert curve([1.5, 1.5, 1.5]).cmd("a") == pytest.approx((0.75 + 0.5 + 1.0) / 4)


def test_a_share_of_no_effect_is_refused():
    with pytest.raises(BkdinterpError, match="no effect"):
        curve([0.0, 0.0, 0.0], nothing=1.0, whole=1.0).f("a")


def test_the_ratio_interval_covers():
    torch.manual_seed(0)
    hits, share = 0, 0.4
    for _ in range(200):
        whole = 1 + 0.5 * torch.randn(24)
        part = share * whole + 0.3 * torch.randn(24)
        rows = part[None]
        found = CircuitCurve(
            PRINT, torch.tensor([1]), {"a": rows}, {"a": rows}, torch.zeros(24), whole, "m", "noising", 8
        )
        (i,) = found.f("a")
        hits += i.low <= share <= i.high
    # 95 % of 200 are 190, with a standard error of 3.
    assert hits >= 180


def test_mib_edges_run_from_what_writes_to_what_reads():
    values = mib_values([Site.parse("L0H1"), Site.parse("L0.mlp_out"), Site.parse("L2H0")], Arch())
    assert json.loads(json.dumps(values)) == values
    assert values["cfg"] == {"n_layers": 3, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    inside = {name for name, node in values["nodes"].items() if node["in_graph"]}
    assert inside == {"input", "a0.h1", "m0", "a2.h0", "logits"}
    assert len(values["nodes"]) == 2 + 3 * (2 + 1)
    edges = set(values["edges"])
    assert {
        "input->a0.h1<q>",
        "input->logits",
        "a0.h1->m0",
        "a0.h1->a2.h0<k>",
        "m0->a2.h0<v>",
        "a2.h0->logits",
    } <= edges
    assert not any(edge.startswith(("logits", "a2.h0->a", "m0->a0", "a2.h0->m0")) for edge in edges)
    # input: 3 + 1 + 3 + 1, a0.h1: 1 + 3 + 1, m0: 3 + 1, a2.h0: 1.
    assert len(edges) == 18


def test_side_by_side_an_mlp_does_not_read_its_layers_heads():
    class Parallel(Arch):
        parallel = True

    edges = mib_values([Site.parse("L0H1"), Site.parse("L0.mlp_out")], Parallel())["edges"]
    assert "a0.h1->m0" not in edges and "a0.h1->logits" in edges


@pytest.mark.parametrize("site", ["L1.resid_post", "L1N3", "L1.z"])
def test_mib_has_heads_and_mlps_only(site):
    with pytest.raises(BkdinterpError, match="heads and MLPs"):
        mib_values([Site.parse(site)], Arch())
