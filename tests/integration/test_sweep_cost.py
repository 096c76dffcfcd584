"""Attribution.plan: the cost that it tells is that of the sweep, nothing runs, and what it refuses."""

from typing import Any

import pytest

import bkdinterp as bk
from bkdinterp.engine import Local
from bkdinterp.errors import PlanError, SiteError


class Counting(Local):
    """Keeps the costs of the plans it runs."""

    def __init__(self):
        super().__init__(progress=False)
        self.costs = []

    def run(self, plan, model):
        self.costs.append(plan.cost)
        return super().run(plan, model)


@pytest.mark.parametrize("source", ["triggered", "difference", "pair"])
@pytest.mark.parametrize(
    ("kind", "n_units", "options"),
    [
        ("heads", 16, {}),
        ("heads", 4, {"layers": [2]}),
        ("mlps", 4, {}),
        ("attentions", 2, {"layers": [0, 3]}),
        ("residuals", 4, {"budget": 2**20}),
        ("neurons", 3, {"layer": 1, "neurons": [0, 5, 7]}),
    ],
)
def test_the_cost_is_the_sweeps(llama, pairs, source, kind, n_units, options):
    attribution = bk.Attribution(llama, source=source)
    told = attribution.plan(pairs, kind, **options)
    executor = Counting()
    scores = getattr(attribution, kind)(pairs, executor=executor, **options)
    assert executor.costs == [told.plan.cost]
    assert told.n_units == n_units == scores.n_scored and told.rows == (n_units + 1) * len(pairs)
    assert told.forwards == told.plan.cost.forwards and told.peak_bytes == told.plan.cost.peak_bytes
    assert told.seconds is None and f"{n_units} {kind} x {len(pairs)} prompts" in repr(told)
    assert told.tokens == told.plan.cost.token_layers / llama.architecture.n_layers


def test_nothing_runs_and_seconds_are_for_the_asking(llama, pairs, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a forward")

    with monkeypatch.context() as patch:
        patch.setattr(type(llama.module), "forward", fail)
        bk.Attribution(llama).plan(pairs)
    timed = bk.Attribution(llama).plan(pairs, timed=True)
    assert timed.seconds is not None and timed.seconds > 0 and " s" in repr(timed)


def test_refusals(llama, pairs):
    attribution: Any = bk.Attribution(llama)
    for given, words in (
        ({"kind": "head"}, "kind"),
        ({"kind": "neurons"}, "give layer="),
        ({"kind": "mlps", "layer": 1}, "only for them"),
        ({"neurons": [1]}, "only for them"),
        ({"timed": "yes"}, "timed='yes'"),
        ({"budget": 10}, "too small"),
    ):
        with pytest.raises(PlanError, match=words):
            attribution.plan(pairs, **given)
    with pytest.raises(SiteError, match="Layer 9"):
        attribution.plan(pairs, layers=[9])
    with pytest.raises(TypeError, match=r"Attribution\.plan"):
        attribution.plan(pairs, layer_s=[9])
