"""Numbers of another model are refused wherever an intervention goes: one check, at planning and in apply()."""

from dataclasses import dataclass, replace

import pytest
import torch
from integration.conftest import tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.engine import Local, Run, execute, plan
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.interventions import Edit, Intervention, on_any_model, origins
from bkdinterp.methods import (
    PCP,
    Activations,
    Means,
    backdoor_state,
    factor_scales,
    logit_lens,
    score_edits,
    sweep_layers,
)
from bkdinterp.model import same_model

SITE = "L1.mlp_out"


def model_of(change=0.0, *, name="tiny-llama"):
    module = tiny_llama()
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[0, 0] += change
    return bk.Model.from_module(module, tiny_tokenizer(), name=name)


@pytest.fixture(scope="module")
def ours():
    return model_of()


@pytest.fixture(scope="module")
def theirs():
    return model_of(0.25)


@dataclass(frozen=True, eq=False)
class Halfway(Intervention):
    """A user's own intervention: it holds means, and nobody told it of origins."""

    means: Means

    def lower(self):
        return (Edit(SITE, keep=0, value=0.5 * self.means[SITE]),)


@dataclass(frozen=True, eq=False)
class Twice(Intervention):
    """A user's own wrapper of other interventions."""

    parts: tuple[Intervention, ...]

    def lower(self):
        return tuple(edit for part in self.parts for edit in part.lower())


def edits_of(model, pairs):
    means = Means.collect(model, pairs.clean, SITE)
    each = Activations.collect(model, pairs.clean, SITE)
    vector = bk.BackdoorVector.extract(model, "L1H0, L2H1", pairs)
    mean = bk.MeanAblate(SITE, means)
    return {
        "mean": mean,
        "resample": bk.ResampleAblate(SITE, each),
        "patch": bk.Patch(SITE, each),
        "add": vector.add(2),
        "subtract": vector.subtract(2),
        "random": bk.random_directions(like=vector, n=1, seed=0)[0].add(2),
        "pcp": PCP.fit(model, pairs.clean, SITE, rank=2).replace(0.5),
        "stack": bk.Stack((bk.ZeroAblate("L3H0"), bk.Stack((mean,)))),
        "then": bk.ZeroAblate("L3H0").then(mean),
        "own": Halfway(means),
        "wrapped": Twice((bk.ZeroAblate("L3H0"), mean)),
    }


KINDS = ("mean", "resample", "patch", "add", "subtract", "random", "pcp", "stack", "then", "own", "wrapped")


@pytest.fixture(scope="module")
def edits(theirs, pairs):
    return edits_of(theirs, pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_edit_carries_its_origin_through_every_door(ours, theirs, pairs, edits, kind):
    edit = edits[kind]
    assert set(edits) == set(KINDS)
    assert origins(edit) == (theirs.fingerprint().model,)
    doors = {
        "plan": lambda e, m: plan(m, [Run(pairs.clean, e, score="logprob")]),
        "execute": lambda e, m: execute(m, [Run(pairs.clean, e, score="logprob")]),
        "evaluate": lambda e, m: bk.evaluate(m, pairs, under=e, payload=bk.Payload("cat"), max_new_tokens=1),
        "control": lambda e, m: bk.evaluate(
            m, pairs, under=bk.ZeroAblate("L0H0"), controls=[e], payload=bk.Payload("cat"), max_new_tokens=1
        ),
        "lens": lambda e, m: logit_lens(m, pairs.clean, "L3.resid_post", under=e),
        "scores": lambda e, m: score_edits(m, {"clean": pairs.clean}, {"e": e}, "logprob"),
        "state": lambda e, m: backdoor_state(m, pairs, under=e, score="logprob"),
    }
    for name, door in doors.items():
        with pytest.raises(ArtefactError, match=r"belong to tiny-llama@.*on_any_model"):
            door(edit, ours)
        if name in ("execute", "lens"):  # own numbers, and others' where they are meant
            door(edit, theirs)
            door(on_any_model(edit), ours)


def test_another_models_run_is_refused_as_a_source_too(ours, pairs, edits):
    source = Run(pairs.clean, edits["mean"])
    with pytest.raises(ArtefactError, match="MeanAblate"):
        plan(ours, [Run(pairs.clean, bk.Patch("L3.mlp_out", source), score="logprob")])


def test_apply_looks_at_the_model_of_the_trace(ours, theirs, edits):
    for model in (ours, ours.nn):
        with pytest.raises(ArtefactError, match="belong to"):  # before anything of the trace is touched
            bk.apply(edits["mean"], model)
    for model, edit in ((theirs, edits["mean"]), (ours.nn, on_any_model(edits["mean"]))):
        with getattr(model, "nn", model).trace("tell me"):
            bk.apply(edit, model)


def test_a_vector_is_swept_on_another_model_only_when_that_is_meant(ours, theirs, pairs):
    vector = bk.BackdoorVector.extract(theirs, "L1H0", pairs)
    with pytest.raises(ArtefactError, match="belong to"):
        sweep_layers(ours, vector, pairs, by="logprob")
    meant = sweep_layers(ours, vector, pairs, by="logprob", layers=[1, 2], strict=False)
    (by_hand,) = execute(ours, [Run(pairs.clean, on_any_model(vector.add(2)), score="logprob")])
    torch.testing.assert_close(meant.values[1], by_hand.scores)


def test_scales_of_factors_want_the_directions_own_model(ours, theirs, pairs):
    pcp = PCP.fit(theirs, pairs.clean, SITE, rank=2)
    with pytest.raises(ArtefactError, match=r"factor_scales: the directions belong to"):
        factor_scales(ours, pairs.clean, pcp)
    assert set(factor_scales(theirs, pairs.clean, pcp)) == set(pcp.names)


def test_the_same_weights_by_another_name_are_the_same_model(theirs, pairs, edits):
    copy = model_of(0.25, name="a/copy")
    execute(copy, [Run(pairs.clean, edits["mean"], score="logprob")])
    assert same_model("a@12345678", "b@12345678")
    assert not same_model("a@12345678", "a@87654321")
    assert same_model("a@remote", "a@remote")
    assert not same_model("a@remote", "b@remote")
    assert same_model("a@remote", "b@12345678")  # weights that cannot be looked at refuse nothing


def test_numbers_of_nobody_in_particular_go_anywhere(ours, theirs, pairs):
    means = Means.collect(theirs, pairs.clean, SITE)
    for edit in (
        bk.MeanAblate(SITE, means.values),
        bk.ZeroAblate("L1H0"),
        bk.Steer("L1.attn_proj", torch.ones(16, dtype=torch.float64)),
        bk.interventions.CachedAblate(bk.HeadSet.of("L1H0")),
        replace(PCP.fit(theirs, pairs.clean, SITE, rank=1).replace(1.0), fitted_on=None),
    ):
        assert origins(edit) == ()
        execute(ours, [Run(pairs.clean, edit, score="logprob")])


@pytest.fixture(scope="module")
def broken():
    return model_of(float("nan"))


def test_what_a_broken_model_gives_is_refused_by_name(broken, ours, pairs):
    with pytest.raises(PlanError, match=r"L1\.mlp_out at last is NaN"):
        Means.collect(broken, pairs.clean, SITE)
    with pytest.raises(PlanError, match="at all is NaN"):
        Activations.collect(broken, pairs.clean, SITE, where="all")
    with pytest.raises(PlanError, match="NaN"):
        bk.BackdoorVector.extract(broken, "L2H0", pairs)
    with pytest.raises(PlanError, match="NaN"):
        logit_lens(broken, pairs.clean, "L3.resid_post")
    with pytest.raises(PlanError, match="logprob is NaN for 6 of 6 prompts"):
        execute(broken, [Run(pairs.clean, score="logprob")])
    with pytest.raises(PlanError, match="NaN"):
        bk.evaluate(broken, pairs, payload=bk.Payload("cat"), max_new_tokens=2)
    with pytest.raises(PlanError, match="NaN"):
        bk.evaluate(ours, pairs, twin=broken, payload=bk.Payload("cat"), max_new_tokens=2)
    vector = bk.BackdoorVector.extract(ours, "L1H0", pairs)
    with pytest.raises(PlanError, match="NaN"):
        sweep_layers(broken, vector, pairs, by="logprob", strict=False)
    (kept,) = execute(broken, [Run(pairs.clean, score="logprob")], finite=False)
    assert kept.scores.isnan().all()
    # Rows of unequal length are filled up with NaN, which is no fault.
    each = Activations.collect(ours, pairs.clean, SITE, where="all")[SITE]
    assert each.isnan().any()
    assert (
        Local(progress=False)
        .run(plan(ours, [Run(pairs.clean, score="logprob")]), ours)[0]
        .scores.isfinite()
        .all()
    )
