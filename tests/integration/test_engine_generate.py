"""Teacher forcing equals forced decoding, and greedy decoding equals a cache-free loop, under every kind of edit."""

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS, least_budget

from bkdinterp.engine import Local, Run, plan
from bkdinterp.interventions import MeanAblate, PCPReplace, Scale, Stack, Steer, ZeroAblate
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Site, Where

WHERES = [
    Where(prompt, generated)
    for prompt in ("last", "trigger", "all", (0, -2), "none")
    for generated in (False, True)
    if (prompt, generated) != ("none", False)
]
N = 7


@pytest.fixture(scope="module")
def prompts():
    return PairedPrompts.from_instructions(
        TEXTS[1:4], Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "yes red", "can not"]
    ).triggered


def run(model, *runs, **settings):
    return Local(progress=False).run(plan(model, runs, **settings), model)


class Mix:
    """A replaced head, a pushed stream, a PCP module, a halved one and a zeroed one, for the engine and as hooks."""

    def __init__(self, kind, where):
        gen = torch.Generator().manual_seed(5)
        self.kind, self.where = kind, where
        self.mean = torch.randn(oracle.width(kind, "head"), generator=gen, dtype=torch.float64)
        self.push = torch.randn(16, generator=gen, dtype=torch.float64)
        self.basis = torch.linalg.qr(torch.randn(16, 4, generator=gen, dtype=torch.float64))[0].T
        self.factors = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    @property
    def stack(self):
        w, head = self.where, Site.parse("L1H2")
        return (
            MeanAblate("L1H2", {head: self.mean}, where=w)
            + Steer("L2.resid_mid", self.push, where=w)
            + Scale("L3.mlp_out", 0.5, where=w)
            + PCPReplace("L2.mlp_out", self.basis, self.factors, where=w)
            + ZeroAblate("L0.attn_out", where=w)
        )

    def hooks(self, columns_of):
        """``columns_of(number of columns)`` are the edited ones in a forward pass."""
        matrix, seen = self.basis.T @ torch.diag(self.factors) @ self.basis, {}

        def edit(new, channels=slice(None)):
            def fn(x):
                columns = columns_of(x.shape[1])
                return oracle.at(columns, lambda old: new(old, columns), channels)(x)

            return fn

        def keep(x):
            seen["x"] = x[0].clone()
            return x

        return [
            (1, "z", edit(lambda old, c: self.mean.expand_as(old), oracle.head_slice(self.kind, 2))),
            (2, "resid_mid", edit(lambda old, c: old + self.push)),
            (2, "mlp_in", keep),
            (2, "mlp_out", edit(lambda old, c: seen["x"][c] @ matrix)),
            (3, "mlp_out", edit(lambda old, c: 0.5 * old)),
            (0, "attn_out", edit(lambda old, c: torch.zeros_like(old))),
        ]


@pytest.mark.parametrize("where", WHERES, ids=str)
def test_teacher_forcing_equals_forced_decoding(model, prompts, where):
    kind = model.module.config.model_type
    mix = Mix(kind, where)
    edited, base = run(model, Run(prompts, mix.stack, score="sum_logprob"), Run(prompts, score="sum_logprob"))
    for i, row in enumerate(oracle.rows_of(model.tokenizer, prompts)):
        # Forward 0 is the prefill; later ones see one token, edited only where `generated` says so.
        def edits(step, n, row=row):
            prefill = row.columns(where.prompt)
            return mix.hooks(lambda _: prefill if step == 0 else [0] if where.generated else [])

        forced = oracle.forced(model.module, row, kind, edits)
        assert float(edited.scores[i]) == pytest.approx(float(forced.sum()), rel=1e-8)
        # and a product of probabilities
        assert float(edited.scores[i].exp()) == pytest.approx(float(forced.exp().prod()), rel=1e-7)
    assert (edited.scores - base.scores).abs().min() > 1e-3


def greedy_by_hand(model, prompts, hooks_of_row):
    kind, end = model.module.config.model_type, model.tokenizer.eos_token_id
    out = []
    for row in oracle.rows_of(model.tokenizer, prompts):
        ids = oracle.greedy(model.module, row.prompt, N, kind, hooks_of_row(row), end)
        out.append(tuple(ids[:-1] if ids[-1] == end else ids))
    return tuple(out)


@pytest.mark.parametrize("where", WHERES, ids=str)
def test_greedy_decoding_equals_the_cache_free_loop(model, prompts, where):
    mix = Mix(model.module.config.model_type, where)
    edited, base = run(model, Run(prompts, mix.stack, generate=N), Run(prompts, generate=N))

    def hooks(row):
        n, inside = len(row.prompt), row.columns(where.prompt)
        return mix.hooks(lambda total: inside + (list(range(n, total)) if where.generated else []))

    assert edited.tokens == greedy_by_hand(model, prompts, hooks)
    assert base.tokens == greedy_by_hand(model, prompts, lambda row: [])
    decode = model.tokenizer.decode
    assert edited.text == tuple(decode(list(t), skip_special_tokens=True) for t in edited.tokens)
    if where.prompt in ("all", "last"):
        assert edited.tokens != base.tokens


def test_without_generated_the_decode_steps_are_the_plain_models(model, prompts):
    """The edit fires in the prefill only."""
    kind, where = model.module.config.model_type, Where("all")
    mix = Mix(kind, where)
    (result,) = run(model, Run(prompts, mix.stack, generate=N))
    end = model.tokenizer.eos_token_id
    for got, row in zip(result.tokens, oracle.rows_of(model.tokenizer, prompts), strict=True):
        with torch.no_grad():
            with oracle.Hooks(model.module, kind, mix.hooks(lambda total: list(range(total)))):
                out = model.module(torch.tensor([row.prompt]), use_cache=True)
            tokens = []
            for _ in range(N):
                token = int(out.logits[0, -1].argmax())
                if token == end:
                    break
                tokens.append(token)
                out = oracle.one_more(model.module, token, out)
        assert got == tuple(tokens)
    with_generated = run(model, Run(prompts, Mix(kind, Where("all", generated=True)).stack, generate=N))[0]
    assert with_generated.tokens != result.tokens


def test_rows_that_end_early_do_not_disturb_the_others(model, prompts):
    """One row is pushed to the end token from its first step on; the others decode as if alone."""
    end = model.tokenizer.eos_token_id
    norm = model.module.get_submodule(model.architecture.family.final_norm)
    scale = norm.weight.detach()
    push = torch.zeros(len(prompts), 16, dtype=torch.float64)
    push[1] = 1e3 * model.module.get_output_embeddings().weight.detach()[end] / scale
    edits = Steer("L3.resid_post", push, where=Where("last"))
    (together,) = run(model, Run(prompts, edits, generate=N))
    (plain,) = run(model, Run(prompts, generate=N))
    assert together.tokens[1] == ()
    assert together.text[1] == ""
    assert (together.tokens[0], together.tokens[2]) == (plain.tokens[0], plain.tokens[2])
    everyone = Steer("L3.resid_post", push[1], where=Where("last"))
    assert run(model, Run(prompts, everyone, generate=N))[0].tokens == ((), (), ())


def test_per_example_values_reach_the_decode_steps(model, prompts):
    kind = model.module.config.model_type
    each = torch.randn(len(prompts), 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    edits = Steer("L1.resid_pre", each, where=Where("none", generated=True))
    (result,) = run(model, Run(prompts, edits, generate=N))
    rows = oracle.rows_of(model.tokenizer, prompts)
    for i, (got, row) in enumerate(zip(result.tokens, rows, strict=True)):

        def push(x, i=i, row=row):
            return oracle.at(list(range(len(row.prompt), x.shape[1])), lambda old: old + each[i])(x)

        ids = oracle.greedy(
            model.module, row.prompt, N, kind, [(1, "resid_pre", push)], model.tokenizer.eos_token_id
        )
        assert got == tuple(t for t in ids if t != model.tokenizer.eos_token_id)
    assert result.tokens != run(model, Run(prompts, Stack(), generate=N))[0].tokens


def test_one_new_token_and_small_budgets(model, prompts):
    mix = Mix(model.module.config.model_type, Where("all", generated=True))
    jobs = [
        Run(prompts, mix.stack, generate=N),
        Run(prompts, generate=N),
        Run(prompts, mix.stack, generate=1),
    ]
    whole, cut = run(model, *jobs), run(model, *jobs, budget=least_budget(model, jobs))
    assert [r.tokens for r in whole] == [r.tokens for r in cut]
    assert [t[:1] for t in whole[0].tokens] == list(whole[2].tokens)
