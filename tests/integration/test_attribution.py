"""Every attribution score derived again by plain hooks; identities that hold exactly; errors before any forward."""

import dataclasses

import jaxtyping
import pytest
import torch
from integration import engine_oracle as oracle

import bkdinterp as bk
from bkdinterp.engine import program
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.methods.attribution import _attribution

TIGHT = {"rtol": 1e-8, "atol": 1e-12}


def kind_of(model):
    return model.module.config.model_type


def rows(model, pairs, side):
    return oracle.rows_of(model.tokenizer, getattr(pairs, side))


def values(model, row, layer, component, columns, generated=False):
    """[token d] of one unpadded, unedited row."""
    ids = row.ids if generated else row.prompt
    _, seen = oracle.logits(model.module, ids, kind_of(model), reads=[(layer, component)])
    return seen[layer, component][columns]


def unit(model, site):
    """Layer, component and channels of a site."""
    site = bk.Site.parse(site)
    if site.head is not None:
        return site.layer, "z", oracle.head_slice(kind_of(model), site.head)
    if site.neuron is not None:
        return site.layer, "mlp_act", slice(site.neuron, site.neuron + 1)
    return site.layer, str(site.component), slice(None)


def by_hand(model, pairs, site, *, direction, source, where="last", given=None, first_token=False):
    """Effects of one site by one plain forward per prompt, from the definitions."""
    own, other = ("clean", "triggered") if direction == "noising" else ("triggered", "clean")
    giving = source if source in ("clean", "triggered") else other
    where = bk.Where.of(where)
    given = where if given is None else bk.Where.of(given)
    layer, component, channels = unit(model, site)
    edited, givers = rows(model, pairs, own), rows(model, pairs, giving)

    def read(row, at):
        columns = row.columns(at.prompt, at.generated)
        return values(model, row, layer, component, columns, at.generated)[:, channels]

    def score(row, edits=()):
        found = oracle.target_logprobs(model.module, row.prompt, row.target, kind_of(model), edits)
        return found[0] if first_token else found.mean()

    theirs = [read(row, given) for row in givers]
    mean = torch.cat(theirs).mean(0)
    own_mean = torch.cat([read(row, where) for row in edited]).mean(0)
    out = []
    for i, row in enumerate(edited):

        def new(old, i=i):
            if source == "difference":
                return old + mean - own_mean
            return (theirs[i] if source == "pair" else mean).expand_as(old)

        edit = oracle.at(row.columns(where.prompt, where.generated), new, channels)
        out.append(score(row, [(layer, component, edit)]) - score(row))
    return torch.stack(out)


def check(model, pairs, scores, effects, site, **settings):
    """One row of effects against the hand computation; and it moved the score."""
    expected = by_hand(model, pairs, site, **settings)
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(effects, expected, **TIGHT)
    assert scores.direction == settings["direction"] and scores.source == settings["source"]


SOURCES = ["triggered", "clean", "difference", "pair"]


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_unit_equals_one_hooked_forward(model, pairs, direction, source):
    pairs = pairs.subset(range(4))
    attribution = bk.Attribution(model, direction=direction, source=source)
    settings = {"direction": direction, "source": source}
    heads = attribution.heads(pairs, layers=[2])
    check(model, pairs, heads, heads.effects[2, 3], "L2H3", **settings)
    for name, component in [("mlps", "mlp_out"), ("attentions", "attn_out"), ("residuals", "resid_post")]:
        scores = getattr(attribution, name)(pairs, layers=[0, 3])
        assert scores.component == component
        assert scores.effects[[1, 2]].isnan().all()
        for layer in (0, 3):
            check(model, pairs, scores, scores.effects[layer], f"L{layer}.{component}", **settings)
    neurons = attribution.neurons(pairs, layer=1, neurons=[0, 5])
    assert neurons.n_scored == 2 and neurons.effects.shape[0] == model.architecture.d_mlp
    check(model, pairs, neurons, neurons.effects[5], "L1N5", **settings)
    assert neurons.n_source == (1 if source == "pair" else 4)


def test_the_default_source_is_the_other_side(llama, pairs):
    for direction, other in [("noising", "triggered"), ("denoising", "clean")]:
        default = bk.Attribution(llama, direction=direction).mlps(pairs, layers=[1])
        named = bk.Attribution(llama, direction=direction, source=other).mlps(pairs, layers=[1])
        assert default.source == other
        assert torch.equal(default.effects[1], named.effects[1])


def test_the_base_is_that_of_the_edited_side(model, pairs):
    for direction, own in [("noising", "clean"), ("denoising", "triggered")]:
        scores = bk.Attribution(model, direction=direction).mlps(pairs, layers=[0])
        expected = oracle.mean_logprobs(model.module, rows(model, pairs, own), kind_of(model))
        torch.testing.assert_close(scores.base, expected, **TIGHT)


# --- positions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "source", "where", "source_where"),
    [
        ("denoising", "clean", "trigger", None),  # the clean prompts' mean over all tokens
        ("denoising", "clean", "trigger", (0, 1)),
        ("denoising", "difference", "trigger", None),
        ("denoising", "triggered", "trigger", None),  # the control keeps the trigger's own tokens
        ("denoising", "pair", "trigger", "last"),
        ("denoising", "clean", "all", None),
        ("denoising", "pair", (0, -1), None),
        ("noising", "triggered", "all", None),
        ("noising", "triggered", "last", "trigger"),
        ("noising", "pair", "all", (-1,)),
        ("noising", "pair", (-2, -1), (0, -1)),
    ],
)
def test_positions(model, pairs, direction, source, where, source_where):
    pairs = pairs.subset(range(3))
    attribution = bk.Attribution(
        model, direction=direction, source=source, where=where, source_where=source_where
    )
    given = source_where
    if given is None and where == "trigger" and source != "triggered":
        given = "all"
    scores = attribution.attentions(pairs, layers=[1])
    settings = {"direction": direction, "source": source, "where": where, "given": given}
    check(model, pairs, scores, scores.effects[1], "L1.attn_out", **settings)
    neuron = attribution.neurons(pairs, layer=2, neurons=[4])
    check(model, pairs, neuron, neuron.effects[4], "L2N4", **settings)
    assert str(scores.source_where) == str(bk.Where.of(where if given is None else given))


@pytest.mark.parametrize("source", ["triggered", "pair"])
def test_generated_tokens_take_generated_tokens(model, pairs, source):
    pairs = pairs.subset(range(3))
    where = bk.Where("last", generated=True)
    scores = bk.Attribution(model, source=source, where=where).mlps(pairs, layers=[2])
    settings = {"direction": "noising", "source": source, "where": where}
    check(model, pairs, scores, scores.effects[2], "L2.mlp_out", **settings)


def test_what_cannot_work_fails_before_any_forward(model, pairs, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a forward ran")

    def attribute(**settings):
        return bk.Attribution(model, **settings).mlps(pairs)

    monkeypatch.setattr(model.module, "forward", forbidden)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(PlanError, match=r"selects no token of clean prompt 0.*direction='denoising'"):
            attribute(where="trigger")
        with pytest.raises(PlanError, match="source_where='trigger' selects no token of any clean"):
            attribute(direction="denoising", source_where="trigger")
        with pytest.raises(PlanError, match=r"prompt 0 has 2 tokens at 'trigger'.*source_where one position"):
            attribute(direction="denoising", source="pair", where="trigger")
        with pytest.raises(PlanError, match="cannot be matched"):
            attribute(source="pair", where="all")
        with pytest.raises(PlanError, match="both cover generated tokens"):
            attribute(source="pair", where=bk.Where((0, 1), generated=True), source_where=(0, 1))
        with pytest.raises(PlanError, match="own partner"):
            bk.Attribution(model, source="pair").mlps(pairs, source_pairs=pairs)
        with pytest.raises(PlanError, match="direction 'backwards'"):
            attribute(direction="backwards")
        with pytest.raises(SiteError, match="out of range"):
            attribute(where=(40,))
        with pytest.raises(SiteError, match="Layer 4"):
            bk.Attribution(model).residuals(pairs, layers=[4])
        with pytest.raises(SiteError, match="Neurons"):
            bk.Attribution(model).neurons(pairs, layer=0, neurons=[model.architecture.d_mlp])
        with pytest.raises(SiteError, match="Layer -1"):
            bk.Attribution(model).neurons(pairs, layer=-1)
        untargeted = bk.PairedPrompts(
            *(dataclasses.replace(p, target=None) for p in (pairs.clean, pairs.triggered))
        )
        with pytest.raises(PlanError, match="needs prompts with targets"):
            bk.Attribution(model).mlps(untargeted)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# --- identities -----------------------------------------------------------------------------------------------


def test_ones_own_value_changes_nothing(model, pairs):
    same = bk.PairedPrompts(pairs.clean, pairs.clean)
    attribution = bk.Attribution(model, source="pair", where="all")
    for scores in (
        attribution.heads(same),
        attribution.mlps(same),
        attribution.attentions(same),
        attribution.residuals(same),
        attribution.neurons(same, layer=2),
    ):
        assert scores.n_scored == scores.acie.numel()
        assert scores.effects.abs().max() < 1e-12


@pytest.mark.parametrize(("direction", "other"), [("noising", "triggered"), ("denoising", "clean")])
def test_the_last_residual_stream_decides_the_first_token(model, pairs, direction, other):
    attribution = bk.Attribution(model, "first_token_logprob", direction=direction, source="pair")
    scores = attribution.residuals(pairs)
    there = [
        oracle.target_logprobs(model.module, row.prompt, row.target, kind_of(model))[0]
        for row in rows(model, pairs, other)
    ]
    torch.testing.assert_close(scores.base + scores.effects[3], torch.stack(there), **TIGHT)
    assert (scores.base - torch.stack(there)).abs().max() > 1e-3  # the two sides differ


def test_the_whole_residual_stream_restores_the_clean_score(model, pairs):
    """Both sides of a pair of equal length: then every token has its partner."""
    swapped = tuple("zeta" + text[text.index(" ") :] for text in pairs.clean.text)
    spans = tuple(((0, 4),) for _ in swapped)
    equal = bk.PairedPrompts(pairs.clean, dataclasses.replace(pairs.clean, text=swapped, spans=spans))
    attribution = bk.Attribution(
        model, direction="denoising", source="pair", where=bk.Where("all", generated=True)
    )
    scores = attribution.residuals(equal)
    clean = oracle.mean_logprobs(model.module, rows(model, equal, "clean"), kind_of(model))
    for layer in range(4):
        torch.testing.assert_close(scores.base + scores.effects[layer], clean, **TIGHT)
    assert scores.effects.abs().max() > 1e-3


@pytest.mark.parametrize("reduce", ["mean", None])
def test_all_neurons_together_are_the_mlp_and_all_heads_the_attention(model, pairs, reduce):
    source = "triggered" if reduce else "pair"
    whole = bk.Attribution(model, source=source)
    arch = model.architecture
    origin = whole._origin(pairs, None)
    neurons = [bk.Site(1, bk.Component.mlp_act, neuron=i) for i in range(arch.d_mlp)]
    heads = [bk.HeadId(2, j).site for j in range(arch.n_heads)]
    runs = [bk.Run(pairs.clean, origin.patch(*sites), score="logprob") for sites in (neurons, heads)]
    by_neurons, by_heads = (r.scores for r in bk.execute(model, runs))
    mlps, attentions = whole.mlps(pairs, layers=[1]), whole.attentions(pairs, layers=[2])
    torch.testing.assert_close(by_neurons - mlps.base, mlps.effects[1], **TIGHT)
    torch.testing.assert_close(by_heads - mlps.base, attentions.effects[2], **TIGHT)
    assert mlps.effects[1].abs().max() > 1e-4 and attentions.effects[2].abs().max() > 1e-4


def test_primitives_take_neurons(model, pairs):
    run = bk.Run(
        pairs.clean, bk.ZeroAblate("L1N3"), reads=(bk.Read("L1N3"), bk.Read("L1.mlp_act")), score="logprob"
    )
    (result,) = bk.execute(model, [run])
    assert result.reads[0].shape == (len(pairs), 1)
    assert not result.reads[0].any() and not result.reads[1][:, 3].any() and result.reads[1][:, 4].all()
    with pytest.raises(SiteError, match="neurons a layer"):
        bk.plan(model, [bk.Run(pairs.clean, bk.ZeroAblate("L1N999"), score="logprob")])


# --- interruption ---------------------------------------------------------------------------------------------


def interrupted(monkeypatch, reached):
    """Have a sweep stop after the scores that ``reached(run, example)`` names."""

    def run(model, runs, options, **settings):
        out = []
        for i, result in enumerate(bk.execute(model, runs, **options, **settings)):
            scores = result.scores.clone()
            for e in range(len(scores)):
                if not reached(i, e):
                    scores[e] = float("nan")
            out.append(dataclasses.replace(result, scores=scores))
        raise bk.errors.SweepInterrupted(tuple(out), done=3, total=5)

    monkeypatch.setattr(_attribution, "run", run)


def test_ctrl_c_leaves_the_finished_prompts(llama, pairs, monkeypatch):
    whole = bk.Attribution(llama).mlps(pairs)
    interrupted(monkeypatch, lambda run, example: example in (1, 4) or run < 3)
    with pytest.raises(bk.errors.SweepInterrupted) as stop:
        bk.Attribution(llama).mlps(pairs)
    partial = stop.value.partial
    assert isinstance(partial, bk.methods.LayerScores) and partial.n == 2 and partial.n_scored == 4
    assert torch.equal(partial.effects, whole.effects[:, [1, 4]])
    assert torch.equal(partial.base, whole.base[[1, 4]])
    assert partial.fingerprint.data == pairs.subset([1, 4]).fingerprint
    assert partial.n_source == len(pairs)
    assert len(partial.top_k(4)) == 4


def test_ctrl_c_of_a_real_sweep_leaves_what_the_docs_say(llama, pairs, monkeypatch):
    """Layer by layer: early on the first heads on all prompts; with one batch of prompts done, those prompts whole."""
    original, calls = program.prepare, []

    def stop_at(n):
        def prepare(chunk, state):
            calls.append(1)
            if len(calls) == n:
                raise KeyboardInterrupt
            return original(chunk, state)

        calls.clear()
        monkeypatch.setattr(program, "prepare", prepare)

    kinds = set()
    for budget in (2**30, 100_000):
        attribution = bk.Attribution(llama)
        stop_at(0)
        whole = attribution.heads(pairs, budget=budget)
        for n in range(2, len(calls) + 1, max(1, len(calls) // 12)):
            stop_at(n)
            with pytest.raises(KeyboardInterrupt) as stop:
                attribution.heads(pairs, budget=budget)
            partial = stop.value.partial
            if partial is None:
                continue
            scored = ~partial.effects[..., 0].isnan()
            assert partial.n_scored == int(scored.sum())
            if partial.n_scored == 16:
                assert partial.n < len(pairs)
                kinds.add("prompts")
            else:
                kinds.add("heads")
            examples = [whole.base.tolist().index(x) for x in partial.base.tolist()]
            torch.testing.assert_close(partial.effects[scored], whole.effects[scored][:, examples])
    assert kinds == {"prompts", "heads"}


def test_ctrl_c_in_the_first_prompts_leaves_the_finished_units(llama, pairs, monkeypatch):
    whole = bk.Attribution(llama).heads(pairs, layers=[1, 3])
    interrupted(monkeypatch, lambda run, example: example < 3 and run < 6)  # the base and 5 of 8 heads
    with pytest.raises(KeyboardInterrupt) as stop:
        bk.Attribution(llama).heads(pairs, layers=[1, 3])
    partial = stop.value.partial
    assert partial.n == 3 and partial.n_scored == 5
    assert {str(h) for h in partial.top_k(5)} == {"L1H0", "L1H1", "L1H2", "L1H3", "L3H0"}
    torch.testing.assert_close(partial.effects[1], whole.effects[1][:, :3])


def test_ctrl_c_before_any_effect_leaves_none(llama, pairs, monkeypatch):
    interrupted(monkeypatch, lambda run, example: run == 0)
    with pytest.raises(bk.errors.SweepInterrupted) as stop:
        bk.Attribution(llama).mlps(pairs)
    assert stop.value.partial is None
