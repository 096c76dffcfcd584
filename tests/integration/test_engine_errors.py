"""Bad input raises a BkdinterpError that names the value, before any forward pass."""

import pytest
import torch

from bkdinterp.engine import Run, execute
from bkdinterp.errors import PlanError, PromptError, SiteConflictError, SiteError, TriggerError
from bkdinterp.interventions import (
    BASE,
    CachedAblate,
    Edit,
    From,
    Intervention,
    MeanAblate,
    Patch,
    PCPReplace,
    Read,
    ResampleAblate,
    Stack,
    Steer,
    ZeroAblate,
)
from bkdinterp.prompts import PromptBuilder, Prompts, Trigger
from bkdinterp.sites import Component, Site, Where

CLEAN = Prompts.of(["the dog ran on", "a hill"], target="yes red")
MLP, Z = Site.parse("L1.mlp_out"), Site.parse("L1.z")
GENERATED = Where("all", generated=True)


class Raw(Intervention):
    def __init__(self, *edits):
        self.edits = edits

    def lower(self):
        return self.edits


@pytest.fixture(autouse=True)
def no_forward(model, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass ran before the input was checked")

    monkeypatch.setattr(model.module, "forward", refuse)


def triggered():
    text, spans = Trigger.prefix("zeta omega").insert("the dog ran on")
    return Prompts((text, "a hill"), (spans, ()), ("yes red", "yes red"))


def circle():
    """Two runs that need each other: edits that are only looked up when planned."""
    a, b = Raw(), Raw()
    first, second = Run(CLEAN, a, score="logprob"), Run(CLEAN, b, score="logprob")
    a.edits = (Edit(MLP, value=From(second, Read(MLP))),)
    b.edits = (Edit(MLP, value=From(first, Read(MLP))),)
    return [first, second]


def own_tail():
    a = Raw()
    run = Run(CLEAN, a, score="logprob")
    a.edits = (Edit(MLP, value=From(run, Read(MLP))),)
    return [run]


def scored(edits, prompts=CLEAN, **more):
    return lambda: [Run(prompts, edits() if callable(edits) else edits, score="logprob", **more)]


def v(d):
    return torch.ones(d).double()


CASES = {
    "head out of range": (scored(ZeroAblate("L1H4")), SiteError, r"L1H4.*4 heads"),
    "head out of range, cached": (scored(CachedAblate("L1H9")), SiteError, r"H9.*4 heads"),
    "layer out of range": (scored(ZeroAblate("L4.mlp_out")), SiteError, r"L4\.mlp_out.*4 layers"),
    "last stream out of range": (scored(Steer("L4.resid_post", v(16))), SiteError, r"L4.*4 layers"),
    "read out of range": (
        lambda: [Run(CLEAN, reads=(Read(Site.parse("L7.z")),))],
        SiteError,
        r"L7.*4 layers",
    ),
    "read of heads out of range": (
        lambda: [Run(CLEAN, reads=(Read(Site.parse("L1.attn_proj"), heads=(0, 5)),))],
        SiteError,
        r"H5.*4 heads",
    ),
    "position out of range": (
        scored(ZeroAblate(MLP, where=Where((40,)))),
        SiteError,
        r"Position 40 is out of range",
    ),
    "negative position out of range": (
        scored(ZeroAblate(MLP, where=Where((-40,)))),
        SiteError,
        r"Position -40",
    ),
    "steer too wide": (scored(Steer(MLP, v(17))), PlanError, r"17 channels.*16"),
    "mean too narrow": (scored(MeanAblate("L1H0", {Site.parse("L1H0"): v(3)})), PlanError, r"3 channels"),
    "pcp too wide": (
        scored(PCPReplace(MLP, torch.eye(20)[:2].double(), v(2))),
        PlanError,
        r"20 channels.*16",
    ),
    "wrong number of examples": (scored(Steer(MLP, torch.ones(3, 16).double())), PlanError, r"3 examples.*2"),
    "resample with wrong number of examples": (
        scored(ResampleAblate(MLP, {MLP: torch.ones(5, 16).double()})),
        PlanError,
        r"5 examples.*2",
    ),
    "too few tokens": (
        scored(Patch(MLP, {MLP: torch.ones(2, 2, 16).double()}, where=Where("all"))),
        PlanError,
        r"covers 2 tokens",
    ),
    "NaN in a value": (
        scored(Patch(MLP, {MLP: torch.full((2, 30, 16), float("nan")).double()}, where=Where("all"))),
        PlanError,
        "NaN",
    ),
    "source with other examples": (
        scored(lambda: Patch(MLP, Run(Prompts.of(["a hill"])))),
        PlanError,
        r"source run has 1 examples and the edited one 2",
    ),
    "source of another width": (
        scored(lambda: Raw(Edit(Site.parse("L1H0"), keep=0, value=From(Run(CLEAN), Read(MLP))))),
        PlanError,
        r"16 channels",
    ),
    "source reads a missing layer": (
        scored(lambda: Raw(Edit(MLP, value=From(Run(CLEAN), Read(Site.parse("L8.mlp_out")))))),
        SiteError,
        "L8",
    ),
    "unscored source read at targets": (
        scored(lambda: Patch(MLP, Run(CLEAN), where=GENERATED)),
        PlanError,
        "no target tokens",
    ),
    "unscored base read at targets": (
        scored(lambda: Raw(Edit(MLP, GENERATED, value=From(BASE, Read(MLP, GENERATED))))),
        PlanError,
        "no target tokens",
    ),
    "source that is no run": (
        scored(lambda: Raw(Edit(MLP, value=From(type("Odd", (), {"prompts": CLEAN})(), Read(MLP))))),
        PlanError,
        "Odd",
    ),
    "circle": (circle, PlanError, "circle"),
    "own tail": (own_tail, PlanError, "circle"),
    "score without targets": (lambda: [Run(Prompts.of(["a hill"]), score="logprob")], PlanError, "targets"),
    "unknown score": (lambda: [Run(CLEAN, score="accuracy")], PlanError, r"accuracy.*logprob"),
    "score and generate": (lambda: [Run(CLEAN, score="logprob", generate=3)], PlanError, "two runs"),
    "no new token": (lambda: [Run(CLEAN, generate=0)], PlanError, "at least 1"),
    "target longer than the context": (
        lambda: [Run(Prompts.of(["a hill"], target="no " * 70), score="logprob")],
        PromptError,
        r"max_length=64",
    ),
    "prompt longer than the context": (
        lambda: [Run(Prompts.of(["no " * 70]), generate=2)],
        PromptError,
        "max_length=64",
    ),
    "no run": (list, PlanError, "at least one run"),
    "nothing to compute": (lambda: [Run(CLEAN), Run(CLEAN, ZeroAblate(MLP))], PlanError, "asks for anything"),
    "mean over no token": (
        lambda: [Run(CLEAN, reads=(Read(MLP, Where("trigger"), reduce="mean"),))],
        PlanError,
        r"L1\.mlp_out at trigger.*no token",
    ),
    "mean source over no token": (
        scored(lambda: Raw(Edit(MLP, value=From(Run(CLEAN), Read(MLP, Where("trigger"), reduce="mean"))))),
        PlanError,
        "no token",
    ),
    "per-token value while generating": (
        lambda: [Run(CLEAN, Steer(MLP, torch.ones(2, 30, 16).double(), where=GENERATED), generate=3)],
        PlanError,
        "one value per token",
    ),
    "per-token source while generating": (
        lambda: [Run(CLEAN, Patch(MLP, Run(CLEAN), where=GENERATED), generate=3)],
        PlanError,
        "one value per token",
    ),
    "generated read while generating": (
        lambda: [Run(CLEAN, reads=(Read(MLP, GENERATED),), generate=3)],
        PlanError,
        "only prompt tokens",
    ),
    "sources with another number of tokens": (
        scored(lambda: Patch(MLP, Run(triggered(), score="logprob"), where=Where("all"))),
        PlanError,
        "different numbers of tokens",
    ),
    "a longer source, not its first tokens": (
        scored(lambda: Patch(MLP, Run(Prompts.of(["the red dog ran on", "a hill"])), where=Where("all"))),
        PlanError,
        r"example 0 has 12 in the source run and 11",
    ),
    "two edits at once": (
        lambda: [Run(CLEAN, ZeroAblate(Z) + Steer(Z, v(24)), score="logprob")],
        SiteConflictError,
        "State an order",
    ),
    "trigger that the tokenizer drops": (
        lambda: [
            Run(Prompts(("hi zeta",), (((3, 7),),)), generate=1, builder=PromptBuilder(VANISHING, chat=False))
        ],
        TriggerError,
        "the tokenizer drops it",
    ),
}


class _Vanishing:
    """A tokenizer for which nothing is left of the trigger."""

    chat_template, name_or_path, eos_token_id, pad_token_id = None, "vanishing", 3, 0

    def __call__(self, text, *args, **kwargs):
        return {"input_ids": [9], "offset_mapping": [(0, 2)]}

    def apply_chat_template(self, *args, **kwargs):
        raise NotImplementedError

    def decode(self, ids, *args, **kwargs):
        return ""


VANISHING = _Vanishing()


@pytest.mark.parametrize("name", CASES)
def test_bad_input(model, name):
    make, error, message = CASES[name]
    with pytest.raises(error, match=message):
        execute(model, make())


@pytest.mark.parametrize("budget", [0, -1])
def test_no_budget(model, budget):
    with pytest.raises(PlanError, match=f"budget={budget} "):
        execute(model, [Run(CLEAN, generate=1)], budget=budget)


def test_values_that_no_primitive_takes():
    with pytest.raises(SiteError, match=r"Means\.collect"):
        MeanAblate("L1H0 L1H1", {Site.parse("L1H0"): v(6)}).lower()
    with pytest.raises(SiteError, match="mean of shape"):
        MeanAblate("L1H0", {Site.parse("L1H0"): torch.ones(2, 6)}).lower()
    with pytest.raises(SiteError, match="two examples"):
        ResampleAblate("L1H0", {Site.parse("L1H0"): torch.ones(1, 6)}).lower()
    with pytest.raises(SiteError, match="NaN"):
        Steer(MLP, torch.tensor([1.0, float("nan")]))
    with pytest.raises(SiteError, match="computed later"):
        Edit(MLP, read=Component.resid_post, U=torch.ones(16, 1), V=torch.ones(16, 1))
    with pytest.raises(SiteError, match="at least one site"):
        ZeroAblate([])
    assert Stack().lower() == ()
