"""Composition: a + b, a.then(b), Stack(), and the conflicts that need a stated order."""

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS

from bkdinterp.engine import Local, Run, plan
from bkdinterp.errors import SiteConflictError
from bkdinterp.interventions import Apply, MeanAblate, PCPReplace, Scale, Stack, Steer, ZeroAblate
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Site, Where

ALL = Where("all", generated=True)


def vector(d, seed):
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def prompts():
    return PairedPrompts.from_instructions(
        TEXTS[1:3], Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "yes red"]
    ).triggered


def scores(model, prompts, *interventions):
    runs = [Run(prompts, edits, score="logprob") for edits in interventions]
    return [r.scores for r in Local(progress=False).run(plan(model, runs), model)]


def by_hand(model, prompts, hooks_of_row):
    kind = model.module.config.model_type
    rows = oracle.rows_of(model.tokenizer, prompts)
    return oracle.mean_logprobs(model.module, rows, kind, lambda i, row: hooks_of_row(row))


def everywhere(row):
    return list(range(len(row.ids)))


def add(layer, component, v, channels=slice(None)):
    return lambda row: (layer, component, oracle.at(everywhere(row), lambda old: old + v, channels))


def put(layer, component, v, channels=slice(None)):
    return lambda row: (layer, component, oracle.at(everywhere(row), lambda old: v.expand_as(old), channels))


def test_sum_on_different_sites_equals_hooks_in_either_order(model, prompts):
    kind = model.module.config.model_type
    v, m = vector(16, 0), vector(oracle.width(kind, "head"), 1)
    a = Steer("L2.resid_pre", v, where=ALL)
    b = MeanAblate("L1H3", {Site.parse("L1H3"): m}, where=ALL)
    c = ZeroAblate("L0.mlp_out", where=Where("trigger"))
    left, right, one = scores(model, prompts, a + b + c, c + (b + a), a)

    def hooks(row):
        zero = (0, "mlp_out", oracle.at(row.columns("trigger"), torch.zeros_like))
        return [add(2, "resid_pre", v)(row), put(1, "z", m, oracle.head_slice(kind, 3))(row), zero]

    expected = by_hand(model, prompts, hooks)
    torch.testing.assert_close(left, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(right, expected, rtol=1e-8, atol=1e-12)
    assert (left - one).abs().min() > 1e-3


def test_adding_twice_at_one_site_adds_up(model, prompts):
    u, v = vector(16, 2), vector(16, 3)
    a, b = Steer("L1.mlp_out", u, coeff=2.0, where=ALL), Steer("L1.mlp_out", v, coeff=-0.5, where=ALL)
    joint, single = scores(model, prompts, a + b, Steer("L1.mlp_out", 2.0 * u - 0.5 * v, where=ALL))
    expected = by_hand(model, prompts, lambda row: [add(1, "mlp_out", 2.0 * u - 0.5 * v)(row)])
    torch.testing.assert_close(joint, single, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(joint, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("site", "channels"),
    [("L1.resid_pre", None), ("L1.z", None), ("L1H2", 2), ("L2.resid_mid", None), ("L2.mlp_act", None)],
)
def test_then_states_the_order(model, prompts, site, channels):
    kind = model.module.config.model_type
    s = Site.parse(site)
    name = str(s.component)
    part = slice(None) if channels is None else oracle.head_slice(kind, channels)
    d = oracle.width(kind, "head" if channels is not None else name)
    u, v = vector(d, 4), vector(d, 5)
    replace, push = MeanAblate(s, {s: u}, where=ALL), Steer(s, v, where=ALL)
    first, second = scores(model, prompts, replace.then(push), push.then(replace))
    put_u, add_v = put(s.layer, name, u, part), add(s.layer, name, v, part)
    torch.testing.assert_close(
        first, by_hand(model, prompts, lambda r: [put_u(r), add_v(r)]), rtol=1e-8, atol=1e-12
    )
    torch.testing.assert_close(
        second, by_hand(model, prompts, lambda r: [add_v(r), put_u(r)]), rtol=1e-8, atol=1e-12
    )
    assert (first - second).abs().min() > 1e-4
    with pytest.raises(SiteConflictError, match=r"then"):
        replace + push


def test_scaling_in_a_stated_order_equals_hooks(model, prompts):
    u = vector(16, 8)
    half, push = Scale("L1.mlp_out", 0.5, where=ALL), Steer("L1.mlp_out", u, where=ALL)
    first, second, twice, quarter, nothing, zero, zeroed = scores(
        model,
        prompts,
        half.then(push),
        push.then(half),
        half.then(half),
        Scale("L1.mlp_out", 0.25, where=ALL),
        Stack(),
        Scale("L1.mlp_out", 0, where=ALL),
        ZeroAblate("L1.mlp_out", where=ALL),
    )

    def halve(row):
        return (1, "mlp_out", oracle.at(everywhere(row), lambda old: 0.5 * old))

    expected = by_hand(model, prompts, lambda r: [halve(r), add(1, "mlp_out", u)(r)])
    torch.testing.assert_close(first, expected, rtol=1e-8, atol=1e-12)
    expected = by_hand(model, prompts, lambda r: [add(1, "mlp_out", u)(r), halve(r)])
    torch.testing.assert_close(second, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(twice, quarter, rtol=1e-10, atol=1e-12)
    assert (quarter - nothing).abs().min() > 1e-3 and torch.equal(zero, zeroed)
    (same, plain) = scores(model, prompts, Scale("L1.mlp_out", 1, where=ALL), Stack())
    torch.testing.assert_close(same, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_then_across_the_two_names_of_the_stream(model, prompts, reverse):
    """resid_post of a block is resid_pre of the next: the stated order holds, whatever the names' own order."""
    u, v = vector(16, 6), vector(16, 7)
    replace, push = (
        MeanAblate("L1.resid_post", {Site.parse("L1.resid_post"): u}, where=ALL),
        Steer("L2.resid_pre", v, where=ALL),
    )
    (got,) = scores(model, prompts, push.then(replace) if reverse else replace.then(push))
    put_u, add_v = put(1, "resid_post", u), add(1, "resid_post", v)
    order = [add_v, put_u] if reverse else [put_u, add_v]
    torch.testing.assert_close(
        got, by_hand(model, prompts, lambda r: [h(r) for h in order]), rtol=1e-8, atol=1e-12
    )


def test_head_then_whole_layer(model, prompts):
    kind = model.module.config.model_type
    u = vector(oracle.width(kind, "z"), 8)
    head, layer = ZeroAblate("L1H0", where=ALL), Steer("L1.z", u, where=ALL)
    first, second = scores(model, prompts, head.then(layer), layer.then(head))
    zero = lambda row: (1, "z", oracle.at(everywhere(row), torch.zeros_like, oracle.head_slice(kind, 0)))  # noqa: E731
    add_u = add(1, "z", u)
    torch.testing.assert_close(
        first, by_hand(model, prompts, lambda r: [zero(r), add_u(r)]), rtol=1e-8, atol=1e-12
    )
    torch.testing.assert_close(
        second, by_hand(model, prompts, lambda r: [add_u(r), zero(r)]), rtol=1e-8, atol=1e-12
    )


def test_read_sees_earlier_edits(model, prompts):
    """PCPReplace's input is the edited one: the matrix acts on what the module really gets."""
    basis = torch.linalg.qr(
        torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0].T
    factors = torch.tensor([2.0, -1.0], dtype=torch.float64)
    v = vector(16, 9)
    matrix = basis.T @ torch.diag(factors) @ basis
    seen = {}

    def keep(x):
        seen["x"] = x[0].clone()
        return x

    got, unsteered = scores(
        model,
        prompts,
        PCPReplace("L1.mlp_out", basis, factors, where=ALL) + Steer("L1.mlp_in", v, where=ALL),
        PCPReplace("L1.mlp_out", basis, factors, where=ALL),
    )
    expected = by_hand(
        model,
        prompts,
        lambda r: [
            add(1, "mlp_in", v)(r),
            (1, "mlp_in", keep),
            (1, "mlp_out", lambda x: (seen["x"] @ matrix)[None]),
        ],
    )
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)
    assert (got - unsteered).abs().max() > 1e-3


def test_empty_stack_is_the_identity(model, prompts):
    plain, twice = scores(model, prompts, Stack(), Stack() + Stack())
    kind = model.module.config.model_type
    expected = oracle.mean_logprobs(model.module, oracle.rows_of(model.tokenizer, prompts), kind)
    assert torch.equal(plain, twice)
    torch.testing.assert_close(plain, expected, rtol=1e-8, atol=1e-12)
    zero = ZeroAblate("L1H2")
    with_identity, alone = scores(model, prompts, Stack() + zero, zero)
    assert torch.equal(with_identity, alone)
    assert len(Stack()) == 0
    assert Stack().lower() == ()


def sign(x):
    return x.sign()


V = torch.ones(16)
CONFLICTS = {
    "two replacements": (ZeroAblate("L1.mlp_out"), MeanAblate("L1.mlp_out", {Site.parse("L1.mlp_out"): V})),
    "scale and add": (Scale("L1.attn_proj", 0.5), Steer("L1.attn_proj", V)),
    "scale twice": (Scale("L1H2", 0.5), Scale("L1.z", 2)),
    "scale and replace": (Scale("L1H2", 0.5), ZeroAblate("L1H2")),
    "replace and add": (ZeroAblate("L1.attn_proj"), Steer("L1.attn_proj", V)),
    "head and its layer": (ZeroAblate("L1H2"), ZeroAblate("L1.z")),
    "two names of the stream": (ZeroAblate("L2.resid_pre"), Steer("L1.resid_post", V)),
    "fn and add": (Apply("L1.mlp_in", fn=sign), Steer("L1.mlp_in", V)),
    "last and -1": (ZeroAblate("L1.mlp_out"), Steer("L1.mlp_out", V, where=Where((-1,)))),
    "generated tokens": (
        ZeroAblate("L1.mlp_out", where=Where("last", generated=True)),
        Steer("L1.mlp_out", V, where=Where("none", generated=True)),
    ),
    "trigger may be last": (
        ZeroAblate("L1.mlp_out", where=Where("trigger")),
        Steer("L1.mlp_out", V, where=Where("last")),
    ),
}
FREE = {
    "two heads": (ZeroAblate("L1H2"), ZeroAblate("L1H3")),
    "scaled heads": (Scale("L1H2", 0.5), Scale("L1H3", 0.5)),
    "two layers": (ZeroAblate("L1.mlp_out"), ZeroAblate("L2.mlp_out")),
    "two components": (ZeroAblate("L1.mlp_out"), Steer("L1.mlp_in", V)),
    "two additions": (Steer("L2.resid_pre", V), Steer("L1.resid_post", V)),
    "other tokens": (ZeroAblate("L1.mlp_out", where=Where((0,))), Steer("L1.mlp_out", V, where=Where((1,)))),
    "prompt and generated": (
        ZeroAblate("L1.mlp_out", where=Where("all")),
        Steer("L1.mlp_out", V, where=Where("none", generated=True)),
    ),
    "same layer, pre and post": (ZeroAblate("L1.resid_pre"), Steer("L1.resid_post", V)),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts(name):
    a, b = CONFLICTS[name]
    for first, second in ((a, b), (b, a)):
        with pytest.raises(SiteConflictError, match="State an order"):
            first + second
        with pytest.raises(SiteConflictError):
            Stack((Steer("L0.mlp_out", V), first)) + second
        assert len(first.then(second).lower()) == len(a.lower()) + len(b.lower())


@pytest.mark.parametrize("name", FREE)
def test_no_conflict(name):
    a, b = FREE[name]
    assert len((a + b).lower()) == len((b + a).lower()) == 2
