"""bk.apply inside a trace of the user's own gives what the engine gives."""

import nnsight
import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS

from bkdinterp.engine import Run, apply, execute
from bkdinterp.errors import PlanError, SiteError, UnsupportedArchitectureError
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
    Stack,
    Steer,
    ZeroAblate,
)
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.sites import Site, Where

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
GENERATED = Where("all", generated=True)


@pytest.fixture(scope="module")
def prompts():
    return PairedPrompts.from_instructions(
        TEXTS[1:4], Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "yes red", "can not"]
    ).triggered


def stack_of(kind, where, n=None):
    """A head, the stream, neurons and a PCP module; with per-example values where n is given."""
    gen = torch.Generator().manual_seed(1)
    head, basis = (
        Site.parse("L1H2"),
        torch.linalg.qr(torch.randn(16, 3, generator=gen, dtype=torch.float64))[0].T,
    )
    mean = torch.randn(oracle.width(kind, "head"), generator=gen, dtype=torch.float64)
    push = torch.randn(*((16,) if n is None else (n, 16)), generator=gen, dtype=torch.float64)
    return (
        MeanAblate([head], {head: mean}, where=where)
        + Steer("L2.resid_mid", push, where=where)
        + ZeroAblate("L0.mlp_act", where=where)
        + PCPReplace("L2.mlp_out", basis, torch.tensor([1.0, -1.0, 2.0]).double(), where=where)
        + Steer("L3.resid_post", push, coeff=-0.5, where=where)
    )


def inputs(batch):
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }


def target_scores(logits, batch):
    part = logits[:, batch.n_prompt - 1 : -1].log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    mask = batch.target_mask[:, batch.n_prompt :]
    return torch.where(mask, part, 0.0).sum(1) / mask.sum(1)


@pytest.mark.parametrize(
    "where", [Where("trigger"), Where("last", generated=True), GENERATED, Where((0, -2))], ids=str
)
@pytest.mark.parametrize("per_example", [False, True])
def test_with_the_batch_it_equals_the_engine(model, prompts, where, per_example):
    stack = stack_of(model.module.config.model_type, where, len(prompts) if per_example else None)
    engine, base = execute(model, [Run(prompts, stack, score="logprob"), Run(prompts, score="logprob")])
    batch = model.builder.tokenize(prompts)
    with torch.no_grad(), model.nn.trace(**inputs(batch)):
        apply(stack, model.nn, tokens=batch)
        logits = nnsight.save(model.nn.output.logits)
    torch.testing.assert_close(target_scores(logits, batch), engine.scores, **CLOSE)
    assert (engine.scores - base.scores).abs().min() > 1e-3


@pytest.mark.parametrize("where", [Where("last"), Where("all"), GENERATED, Where((-1, -3))], ids=str)
def test_without_the_batch_it_counts_from_the_end(model, prompts, where):
    """Left-padded rows, prompts only; last, all and negative positions need no more than that."""
    kind = model.module.config.model_type
    stack = stack_of(kind, where)
    batch = model.builder.tokenize(prompts, targets=False)
    with torch.no_grad(), model.nn.trace(**inputs(batch)):
        apply(stack, model)
        logits = nnsight.save(model.nn.output.logits[:, -1])
    with torch.no_grad(), model.nn.trace(**inputs(batch)):
        apply(stack, model.nn, tokens=batch)
        with_batch = nnsight.save(model.nn.output.logits[:, -1])
    torch.testing.assert_close(logits, with_batch, **CLOSE)
    read = Read(Site.parse("L3.resid_post"))
    (engine,) = execute(model, [Run(prompts, stack, (read,))])
    norm = model.module.get_submodule(model.architecture.family.final_norm)
    head = model.module.get_output_embeddings()
    torch.testing.assert_close(logits, head(norm(engine.reads[0])).detach(), **CLOSE)


def helper(stack, nn_model, ids):
    """A trace in a function, apply in another one that it calls."""

    def inner():
        apply(stack, nn_model)

    with nn_model.trace(ids):
        inner()
        mid = nnsight.save(nnsight_block(nn_model).output)
        logits = nnsight.save(nn_model.output.logits[0, -1])
    return mid, logits


def nnsight_block(nn_model):
    """The block after which all edits of ``stack_of`` but the last have acted."""
    return nn_model.model.layers[3] if hasattr(nn_model, "model") else nn_model.transformer.h[3]


class Lab:
    """A trace in a method, over a loop."""

    def __init__(self, model):
        self.model = model

    def run(self, stack, texts):
        out = []
        for text in texts:
            with self.model.nn.trace(text):
                apply(stack, self.model)
                logits = nnsight.save(self.model.nn.output.logits[0, -1])
            out.append(logits)
        return torch.stack(out)


def test_in_functions_methods_and_loops(model):
    kind = model.module.config.model_type
    stack = stack_of(kind, Where("all"))
    texts = [model.builder.render(t)[0] for t in TEXTS[:3]]
    with torch.no_grad():
        looped = Lab(model).run(stack, texts)
        for i, text in enumerate(texts):
            ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            mid, logits = helper(stack, model.nn, ids)
            torch.testing.assert_close(logits, looped[i], **CLOSE)
            (engine,) = execute(
                model, [Run(Prompts.of(TEXTS[i]), stack, (Read(Site.parse("L3.resid_post"), Where("all")),))]
            )
            torch.testing.assert_close(mid, engine.reads[0], **CLOSE)
        with model.nn.trace(texts):
            apply(stack_of(kind, Where("last")), model.nn)
            batched = nnsight.save(model.nn.output.logits[:, -1])
        one = Lab(model).run(stack_of(kind, Where("last")), texts)
    torch.testing.assert_close(batched, one, **CLOSE)
    assert (batched - looped).abs().max() > 1e-3


def test_two_calls_and_the_users_own_edit_in_one_trace(model):
    """apply() beside a change that the user writes: both act, in forward order."""
    text = model.builder.render(TEXTS[0])[0]
    v = torch.linspace(-1, 1, 16, dtype=torch.float64)
    with torch.no_grad():
        with model.nn.trace(text):
            apply(Steer("L1.resid_post", v, where=Where("all")), model.nn)
            block = nnsight_block(model.nn)
            block.output = block.output + v
            logits = nnsight.save(model.nn.output.logits[0, -1])
        both = Steer("L1.resid_post", v, where=Where("all")) + Steer("L3.resid_post", v, where=Where("all"))
        with model.nn.trace(text):
            apply(both, model.nn)
            engine = nnsight.save(model.nn.output.logits[0, -1])
        with model.nn.trace(text):
            apply(Stack(), model.nn)
            plain = nnsight.save(model.nn.output.logits[0, -1])
    torch.testing.assert_close(logits, engine, **CLOSE)
    row = oracle.Row(model.tokenizer, TEXTS[0])
    untouched, _ = oracle.logits(model.module, row.prompt, model.module.config.model_type)
    torch.testing.assert_close(plain, untouched[-1], **CLOSE)
    assert (plain - engine).abs().max() > 1e-3


def test_the_edited_block_can_still_be_read(model):
    """After an edit under the name resid_post the user reads that block's output, and sees the edit."""
    text = model.builder.render(TEXTS[0])[0]
    v = torch.linspace(-1, 1, 16, dtype=torch.float64)
    first = (
        (lambda nn: nn.model.layers[1]) if hasattr(model.nn, "model") else (lambda nn: nn.transformer.h[1])
    )
    with torch.no_grad():
        with model.nn.trace(text):
            apply(Steer("L1.resid_post", v), model.nn)
            edited = nnsight.save(first(model.nn).output[0, -1].clone())
        with model.nn.trace(text):
            plain = nnsight.save(first(model.nn).output[0, -1].clone())
    torch.testing.assert_close(edited - plain, v, **CLOSE)


class Raw(Intervention):
    def __init__(self, *edits):
        self.edits = edits

    def lower(self):
        return self.edits


D16 = torch.ones(16).double()
BAD = {
    "a value of another run": (CachedAblate("L1H1"), PlanError, "comes from another run"),
    "a base value": (
        Raw(Edit(Site.parse("L1.z"), value=From(BASE, Read(Site.parse("L1.z"))))),
        PlanError,
        "another run",
    ),
    "trigger": (ZeroAblate("L1H1", where=Where("trigger")), PlanError, "tokens="),
    "first positions": (ZeroAblate("L1H1", where=Where((0,))), PlanError, "tokens="),
    "last and generated": (ZeroAblate("L1H1", where=Where("last", generated=True)), PlanError, "tokens="),
    "per-example value": (Steer("L1.mlp_out", torch.ones(2, 16).double()), PlanError, "one row per example"),
    "width": (Steer("L1.mlp_out", torch.ones(5).double()), PlanError, "5 channels"),
    "head": (ZeroAblate("L1H9"), SiteError, "4 heads"),
    "layer": (ZeroAblate("L9.z"), SiteError, "4 layers"),
}


def attempt(model, intervention, batch=None):
    """pytest.raises cannot stand inside the trace: nnsight runs the block's source elsewhere."""
    with torch.no_grad(), model.nn.trace(model.builder.render(TEXTS[0])[0]):
        apply(intervention, model.nn, tokens=batch)
        logits = nnsight.save(model.nn.output.logits)
    return logits


@pytest.mark.parametrize("name", BAD)
def test_bad_input(model, name):
    intervention, error, message = BAD[name]
    with pytest.raises(Exception, match=message) as caught:
        attempt(model, intervention)
    # nnsight re-raises as a class of its own that derives from the original.
    assert isinstance(caught.value, error)


def test_bad_input_with_the_batch(model, prompts):
    batch = model.builder.tokenize(prompts)
    with pytest.raises(Exception, match="2 examples") as caught:
        attempt(model, Patch("L1.mlp_out", {Site.parse("L1.mlp_out"): torch.ones(2, 16).double()}), batch)
    assert isinstance(caught.value, PlanError)
    with pytest.raises(Exception, match=r"[Rr]ange") as caught:
        attempt(model, ZeroAblate("L1.mlp_out", where=Where((-60,))))
    assert not isinstance(caught.value, AssertionError)


def test_a_model_of_no_known_family():
    inner = torch.nn.Sequential(torch.nn.Linear(4, 4))
    plain = nnsight.NNsight(inner)
    with pytest.raises(UnsupportedArchitectureError, match="known are"):
        apply(ZeroAblate("L0H0"), plain)
