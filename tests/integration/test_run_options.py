"""budget, folder, executor and progress mean the same for every method that runs a model, and reach everything it runs.

Finished work is kept in one folder, whatever asks, and taken up again.
"""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import bkdinterp as bk
from bkdinterp.engine import Local, _execute, program
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.methods import PCP, HiddenPCA, OutcomeGrader, validation_loss
from bkdinterp.methods.readout import _logit_lens
from bkdinterp.metrics import Payload
from bkdinterp.pcp import MatchScores, factor_scales
from bkdinterp.prompts import PairedPrompts, Trigger

TEXTS = [
    f"{a} the {b} {c}"
    for a in ("tell me about", "sat on")
    for b in ("cat", "dog", "mat")
    for c in ("red", "sky")
]


@pytest.fixture(scope="module")
def many():
    trigger = Trigger.gap("zeta omega", seed=3)
    return PairedPrompts.from_instructions(TEXTS, trigger, target="sorry no", reference="yes")


def vector(model, pairs, **more):
    return bk.BackdoorVector.extract(model, "L1H1 L2H0", pairs, kind="difference", **more)


def scales(model, pairs, **more):
    pcp = PCP.fit(model, pairs.clean, "L1.mlp_out", rank=2, **more)
    return torch.tensor(list(factor_scales(model, pairs.clean, pcp, **more).values()))


def match(model, pairs, **more):
    goal = MatchScores.of(model, {"c": pairs.clean}, "logprob", **more)
    return torch.tensor(goal.many([bk.ZeroAblate("L1H1"), bk.ZeroAblate("L2H1")]))


def graded(model, pairs, **more):
    grader = OutcomeGrader.fit(model, pairs.clean, ["the cat sat"] * len(pairs), **more)
    said = ["the dog ran on the red hill"] * len(pairs)
    outcomes = grader.grade(pairs.clean, said, [Payload("zeta")] * len(pairs), **more)
    return torch.tensor([grader.threshold, *(float(o == "broken") for o in outcomes)])


METHODS = {
    "heads": lambda m, p, **f: bk.Attribution(m).heads(p, **f),
    "mlps": lambda m, p, **f: bk.Attribution(m).mlps(p, **f),
    "attentions": lambda m, p, **f: bk.Attribution(m).attentions(p, **f),
    "residuals": lambda m, p, **f: bk.Attribution(m, source="difference").residuals(p, **f),
    "neurons": lambda m, p, **f: bk.Attribution(m).neurons(p, layer=1, neurons=[0, 3], **f),
    "screen": lambda m, p, **f: bk.Attribution(m).screen(p, "heads", keep=3, audit=2, **f),
    "probe": lambda m, p, **f: bk.BackdoorProbe(m, n_random=3).icla(p, **f),
    "probe on": lambda m, p, **f: bk.BackdoorProbe(m, n_random=3).fit(p, **f).on(m, **f),
    "decision": lambda m, p, **f: bk.BackdoorProbe(m, n_random=3).fit(p, **f).decision(m, p.clean, **f),
    "vector": vector,
    "sweep": lambda m, p, **f: bk.sweep_layers(m, vector(m, p, **f), p, layers=[1, 2], max_new_tokens=3, **f),
    "evaluate": lambda m, p, **f: bk.evaluate(m, p, under=bk.ZeroAblate("L1H1"), max_new_tokens=3, **f),
    "state": lambda m, p, **f: bk.methods.backdoor_state(
        m, p, ["the cat sat on", "a red dog"], max_new_tokens=3, **f
    ),
    "loss": lambda m, p, **f: validation_loss(m, ["the cat sat on", "a red dog"], **f),
    "means": lambda m, p, **f: bk.Means.collect(m, p.clean, "L1.z", **f),
    "released means": lambda m, p, **f: bk.Means.collect(m, p.clean, "L1.z", kind="released", **f),
    "activations": lambda m, p, **f: bk.methods.Activations.collect(
        m, p.clean, "L1.mlp_out", where="all", **f
    ),
    "edits": lambda m, p, **f: bk.methods.score_edits(
        m, {"a": p.clean}, {"off": bk.ZeroAblate("L1H1")}, "logprob", **f
    ),
    "circuit": lambda m, p, **f: bk.methods.find_circuit(m, p, "L1H1 L2H0 L1.mlp_out", k=2, **f),
    "edges": lambda m, p, **f: bk.methods.trace_edges(bk.Attribution(m), p, "L1H1 L2H0 L1.mlp_out", **f),
    "screened edges": lambda m, p, **f: bk.methods.screen_edges(
        bk.Attribution(m), p, "L1H1 L2H0 L1.mlp_out", keep=2, audit=1, **f
    ),
    "mask": lambda m, p, **f: bk.methods.CircuitMask.fit(m, p, steps=2, **f),
    "curve": lambda m, p, **f: bk.methods.trace_circuits(
        bk.Attribution(m), p, {"two": "L1H1 L2.mlp_out"}, **f
    ),
    "lens": lambda m, p, **f: bk.logit_lens(m, p.clean, "L1.resid_post", k=3, **f),
    "pcp": lambda m, p, **f: PCP.fit(m, p.clean, "L1.mlp_out", rank=2, **f),
    "scales": lambda m, p, **f: scales(m, p, **f),
    "match": lambda m, p, **f: match(m, p, **f),
    "grader": lambda m, p, **f: graded(m, p, **f),
    "pca": lambda m, p, **f: HiddenPCA.fit(m, {"c": p.clean, "t": p.triggered}, "L1.resid_post", **f),
}


def equal(a, b):
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a._to_json()[0] == b._to_json()[0]
        for name, x in a._to_json()[1].items():
            torch.testing.assert_close(b._to_json()[1][name], x, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def forwards(monkeypatch):
    """How many forwards ran."""
    ran = []
    original = program.prepare
    monkeypatch.setattr(program, "prepare", lambda chunk, state: ran.append(1) or original(chunk, state))
    return ran


def test_one_folder_for_all(llama, many, tmp_path, forwards):
    found = {name: method(llama, many) for name, method in METHODS.items()}
    forwards.clear()
    for name, method in METHODS.items():
        equal(found[name], method(llama, many, folder=tmp_path / "s"))
    assert forwards
    forwards.clear()
    for name, method in METHODS.items():
        equal(found[name], method(llama, many, folder=str(tmp_path / "s")))
        assert not forwards, name


def test_as_the_executor_of_a_model(llama, many, tmp_path, forwards):
    model = replace(llama, executor=Local(progress=False, folder=tmp_path / "s"))
    for name, method in METHODS.items():
        equal(method(llama, many), method(model, many))
        forwards.clear()
        method(model, many)
        assert not forwards, name


@pytest.mark.parametrize("name", METHODS)
def test_the_budget_reaches_every_plan(name, llama, many, monkeypatch):
    budgets = []
    original = _execute.plan

    def plan(model, runs, *, budget):
        budgets.append(budget)
        return original(model, runs, budget=budget)

    monkeypatch.setattr(_execute, "plan", plan)
    METHODS[name](llama, many, budget=300_000)
    assert budgets and set(budgets) == {300_000}


class Watching(Local):
    """Remembers whether bars were wanted of each plan."""

    seen: list[bool] = []

    def run(self, plan, model):
        self.seen.append(self.progress)
        return super().run(plan, model)


@pytest.mark.parametrize("name", METHODS)
def test_executor_and_progress_reach_every_run(name, llama, many):
    executor = Watching()
    elsewhere = Local()
    elsewhere.run = lambda plan, model: pytest.fail("the model's own executor ran")
    model = replace(llama, executor=elsewhere)
    for progress in (True, False):
        Watching.seen = []
        METHODS[name](model, many, executor=executor, progress=progress)
        assert Watching.seen and set(Watching.seen) == {progress}
    assert executor.progress  # the caller's stays as it is


def test_progress_off_is_the_models_own_executor_without_bars(llama, many):
    Watching.seen = []
    METHODS["loss"](replace(llama, executor=Watching()), many, progress=False)
    assert Watching.seen == [False]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_option_is_refused_before_any_forward(name, llama, many, forwards):
    forwards.clear()
    for wrong, error, word in [
        ({"bugdet": 5}, TypeError, "'bugdet'"),
        ({"budget": "1GB"}, PlanError, "budget='1GB'"),
        ({"budget": 0}, PlanError, "budget=0"),
        ({"executor": "remote"}, PlanError, "executor='remote'"),
        ({"progress": 3}, PlanError, "progress=3"),
        ({"folder": 7}, ArtefactError, "folder=7"),
    ]:
        with pytest.raises(error, match=word):
            METHODS[name](llama, many, **wrong)
    assert not forwards


def public_functions():
    """Functions and methods of bk.methods, by name."""
    for name, thing in vars(bk.methods).items():
        inside = vars(thing) if inspect.isclass(thing) else {}
        for label, x in {name: thing, **{f"{name}.{n}": x for n, x in inside.items() if n[0] != "_"}}.items():
            if inspect.isfunction(function := getattr(x, "__func__", x)):
                yield label, set(inspect.signature(function).parameters)


def test_no_method_has_ones_of_its_own():
    found = dict(public_functions())
    running = {name for name, parameters in found.items() if "options" in parameters}
    assert (
        len(running) >= 22 and {"evaluate", "Attribution.heads", "PCP.fit", "OutcomeGrader.grade"} <= running
    )
    # A tuning runs nothing itself; its folder holds the study. Attention is read by a loop of its own, without plans.
    own = {n for n, parameters in found.items() if {"budget", "folder", "executor", "progress"} & parameters}
    assert own == {"attention_patterns", "tune_grid", "tune_tpe"}


def test_the_lens_unembeds_as_many_rows_as_the_budget_has_room_for(llama, monkeypatch):
    x = torch.randn(12, llama.architecture.d_model, dtype=torch.float64)
    whole = _logit_lens.top_tokens(llama, x, 3, None, 2**30)
    sizes = []
    original = _logit_lens.unembed
    monkeypatch.setattr(_logit_lens, "unembed", lambda m, x: sizes.append(len(x)) or original(m, x))
    # 5 rows of 40 logits in float64, five times over.
    cut = _logit_lens.top_tokens(llama, x, 3, None, 5 * 5 * 40 * 8)
    assert sizes == [5, 5, 2]
    for a, b in zip(cut, whole, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
