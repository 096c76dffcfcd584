"""PCP on models: the fit is the outputs' PCA, the intervention is the matrix, and exported weights equal the intervention."""

from dataclasses import replace

import pytest
import torch
from integration.conftest import tiny_gpt2, tiny_llama, tiny_tokenizer

from bkdinterp.engine import Local, Run, digest_of, plan
from bkdinterp.errors import PlanError, SiteError, UnsupportedArchitectureError
from bkdinterp.interventions import MeanAblate, PCPReplace, Stack, Steer, ZeroAblate
from bkdinterp.methods import (
    PCP,
    Activations,
    MatchScores,
    Means,
    export_weights,
    factor_scales,
    score_edits,
    tune_grid,
)
from bkdinterp.metrics import vocabulary_score
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Where
from bkdinterp.stats import PCA
from papers.lamparth.pcp_units import Objective

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
SITES = "L1.mlp_out L2.attn_out"
EVERYWHERE = Where("all", generated=True)


def test_an_objective_is_known_by_what_it_is_not_by_what_was_measured(model, pairs):
    sets = {"clean": pairs.clean, "triggered": pairs.triggered}
    goal = MatchScores.of(model, sets, "logprob", wanted={"clean": -3.0})
    # The same on another machine: what was measured differs in its last digits.
    elsewhere = replace(goal, wanted=goal.wanted | {"triggered": goal.wanted["triggered"] * (1 + 1e-7)})
    assert digest_of(elsewhere) == digest_of(goal)
    others = [
        MatchScores.of(model, sets, "logprob", wanted={"clean": -3.0, "triggered": -1.0}),
        MatchScores.of(model, sets, "logprob", wanted={"clean": -3.1}),
        MatchScores.of(model, sets, "sum_logprob", wanted={"clean": -3.0}),
        MatchScores.of(model, sets, "logprob", wanted={"clean": -3.0}, weights={"clean": 2.0}),
    ]
    steer = [Steer("L1.mlp_out", torch.full((model.architecture.d_model,), x)) for x in (1.0, 1.0 + 1e-6)]
    forms = [Objective(goal, None), *(Objective(goal, shift) for shift in steer)]
    assert len({digest_of(o) for o in (goal, *others)}) == 5
    assert digest_of(forms[1]) == digest_of(forms[2]) != digest_of(forms[0])


def logprobs(model, prompts, edit=None):
    runs = [Run(prompts, edit or Stack(), score="logprob")]
    return Local(progress=False).run(plan(model, runs), model)[0].scores


def test_fit_is_the_pca_of_the_outputs_and_pools_sets(model, pairs):
    pcp = PCP.fit(model, [pairs.clean, pairs.triggered], SITES, rank=3)
    both = Prompts.concat([pairs.clean, pairs.triggered])
    found = Activations.collect(model, both, SITES)
    for site, e in pcp.directions.items():
        torch.testing.assert_close(e, PCA.fit(found[site], 3).directions)
        torch.testing.assert_close(e @ e.T, torch.eye(3, dtype=torch.float64), **CLOSE)
    released = PCP.fit(model, both, SITES, rank=3, directions="released")
    assert not torch.allclose(released.directions["L1.mlp_out"], pcp.directions["L1.mlp_out"])


def test_fit_at_every_token_leaves_padding_out(model, pairs):
    pcp = PCP.fit(model, pairs.clean, "L1.mlp_out", rank=2, where="all")
    rows = Activations.collect(model, pairs.clean, "L1.mlp_out", where="all")["L1.mlp_out"]
    real = rows[~rows.isnan().any(-1)]
    torch.testing.assert_close(pcp.directions["L1.mlp_out"], PCA.fit(real, 2).directions)


def test_scales_bound_the_least_squares_factor(model, pairs):
    both = [pairs.clean, pairs.triggered]
    pcp = PCP.fit(model, both, SITES, rank=4)
    scales = factor_scales(model, both, pcp)
    assert tuple(scales) == pcp.names
    beyond_spreads = 0
    for site, read in (("L1.mlp_out", "L1.mlp_in"), ("L2.attn_out", "L2.attn_in")):
        found = Activations.collect(model, Prompts.concat(both), [read, site])
        for i, e in enumerate(pcp.directions[site]):
            x, y = found[read] @ e, found[site] @ e
            # The replacement has no intercept, y ~ f x; with the mean added back it is y - mean ~ f x.
            dx, dy = x - x.mean(), y - y.mean()
            best = [float((a * b).sum() / (a * a).sum()) for a, b in ((x, y), (x, dy), (dx, dy))]
            scale = scales[f"{site} {i + 1}"]
            assert max(map(abs, best)) <= scale * (1 + 1e-9)
            spreads, norms = float(dy.norm() / dx.norm()), float(y.norm() / x.norm())
            assert scale == pytest.approx(max(spreads, norms), rel=1e-8)
            beyond_spreads += norms > spreads
    assert beyond_spreads  # where the spreads alone are no bound
    same = Prompts.concat([pairs.clean.subset([0])] * 7)  # a constant, but for rounding
    with pytest.raises(PlanError, match="does not vary along direction 1"):
        factor_scales(model, same, pcp)
    with pytest.raises(PlanError, match="does not vary along direction 1"):
        factor_scales(model, pairs.clean.subset([0]), pcp)


def exported_and_loaded(model, pairs, edit, folder):
    """The exported copy after plain transformers saved and loaded it; every step equals the intervention."""
    wanted = logprobs(model, pairs.triggered, edit)
    assert float((wanted - logprobs(model, pairs.triggered)).abs().max()) > 1e-3
    exported = export_weights(model, edit)
    torch.testing.assert_close(logprobs(exported, pairs.triggered), wanted, **CLOSE)
    # The original is untouched, and transformers alone saves and loads the copy.
    torch.testing.assert_close(logprobs(model, pairs.triggered, edit), wanted, rtol=0, atol=0)
    exported.module.save_pretrained(folder)
    exported.tokenizer.save_pretrained(folder)
    again = Model.load(folder, dtype=torch.float64)
    torch.testing.assert_close(logprobs(again, pairs.triggered), wanted, **CLOSE)
    return again


@pytest.mark.parametrize(
    "sites", ["L1.mlp_out", "L2.attn_out", SITES, "L0.mlp_out L1.attn_out L1.mlp_out L3.attn_out"]
)
def test_exported_weights_equal_the_intervention(model, pairs, sites, tmp_path):
    pcp = PCP.fit(model, pairs.triggered, sites, rank=2)
    factors = [(-1) ** i * (0.5 + 0.3 * i) for i in range(len(pcp.names))]
    edit = pcp.replace(factors)
    again = exported_and_loaded(model, pairs, edit, tmp_path)
    generated = [
        Local(progress=False).run(plan(m, [Run(pairs.clean, e, generate=6)]), m)[0].tokens
        for m, e in ((model, edit), (again, Stack()))
    ]
    assert generated[0] == generated[1]


@pytest.mark.parametrize("kind", ["zero", "mean", "both"])
def test_exported_ablations_equal_the_intervention(model, pairs, kind, tmp_path):
    heads = "L0H1 L2H0 L2H3"
    means = Means.collect(model, pairs.clean, heads)
    zero = ZeroAblate("L1H2", where=EVERYWHERE)
    edit = {
        "zero": ZeroAblate(heads, where=EVERYWHERE),
        "mean": MeanAblate(heads, means=means, where=EVERYWHERE),
        "both": Stack([MeanAblate(heads, means=means, where=EVERYWHERE), Stack([zero])]),
    }[kind]
    exported_and_loaded(model, pairs, edit, tmp_path)


def test_exported_attention_adds_a_block_and_mixes_no_tokens(pairs):
    model = Model.from_module(tiny_gpt2(), tiny_tokenizer(), chat=False)
    pcp = PCP.fit(model, pairs.triggered, "L0.attn_out L1.attn_out L2.attn_out L3.attn_out", rank=2)
    exported = export_weights(model, pcp.replace(0.5))
    assert exported.architecture.n_layers == 8
    # With every attention replaced, earlier words cannot matter.
    ids = torch.tensor([[5, 9, 12, 7], [6, 20, 31, 7]])
    logits = exported.module(ids).logits[:, -1]
    torch.testing.assert_close(logits[0], logits[1], **CLOSE)
    assert not torch.allclose(*model.module(ids).logits[:, -1])


def test_what_cannot_be_exported_is_refused(model, pairs):
    pcp = PCP.fit(model, pairs.clean, "L1.mlp_out", rank=2)
    here = PCPReplace("L1.mlp_out", pcp.directions["L1.mlp_out"], torch.ones(2), where="last")
    for edit, words in (
        (ZeroAblate("L1.mlp_out", where=EVERYWHERE), "ablates heads, not L1.mlp_out"),
        (ZeroAblate("L1H2"), "every token"),
        (ZeroAblate("L1H2", where=EVERYWHERE).then(ZeroAblate("L1H2", where=EVERYWHERE)), "twice"),
        (ZeroAblate("L1H2", where=EVERYWHERE) + Steer("L1.mlp_out", torch.ones(16)), "PCPReplace"),
        (here, "every token"),
        (Stack(), "one replacement"),
    ):
        with pytest.raises(SiteError, match=words):
            export_weights(model, edit)
    wide = PCP.fit(model, [pairs.clean, pairs.triggered], "L1.mlp_out", rank=12)
    big = PCPReplace("L1.mlp_out", torch.eye(16).repeat(5, 1), torch.ones(80))
    assert export_weights(model, wide.replace(1.0)) is not None
    with pytest.raises(SiteError, match="lower the rank"):
        export_weights(model, big)


def test_other_families_and_activations_are_refused(pairs):
    torch.manual_seed(0)
    odd = tiny_gpt2()
    for block in odd.transformer.h:
        block.mlp.act = torch.nn.Sigmoid()
    model = Model.from_module(odd, tiny_tokenizer())
    with pytest.raises(UnsupportedArchitectureError, match="Sigmoid"):
        export_weights(model, PCP.fit(model, pairs.clean, "L1.mlp_out", rank=1).replace(1.0))


def test_only_mlps_and_attentions_are_replaced(model, pairs):
    with pytest.raises(SiteError, match=r"not L1\.resid_post"):
        PCP.fit(model, pairs.clean, "L1.resid_post", rank=2)
    with pytest.raises(SiteError, match="Unknown directions"):
        PCP.fit(model, pairs.clean, "L1.mlp_out", rank=2, directions="best")


def test_match_scores_is_zero_for_no_edit_and_finds_a_planted_factor(model, pairs):
    sets = {"clean": pairs.clean, "triggered": pairs.triggered}
    objective = MatchScores.of(model, sets, "logprob")
    assert objective(Stack()) == pytest.approx(0, abs=1e-20)
    pcp = PCP.fit(model, pairs.triggered, "L1.mlp_out", rank=1)
    planted = {
        name: float(logprobs(model, prompts, pcp.replace(0.7)).mean()) for name, prompts in sets.items()
    }
    goal = MatchScores.of(model, sets, "logprob", wanted=planted, weights={"clean": 2.0})
    study = tune_grid(pcp, goal, [0.1, 0.4, 0.7, 1.0, -0.7])
    assert study.best.tolist() == [pytest.approx(0.7)] and study.best_value == pytest.approx(0, abs=1e-15)
    # One at a time gives the same as all in one plan.
    alone = [goal(pcp.replace(row)) for row in study.factors]
    assert alone == pytest.approx(study.values.tolist(), abs=1e-12)


def test_an_edit_cannot_take_the_name_of_the_unedited_model(model, pairs):
    with pytest.raises(PlanError, match="'unedited'"):
        score_edits(model, {"clean": pairs.clean}, {"unedited": Stack()}, "logprob")


def test_score_edits_is_each_run_by_itself(model, pairs):
    sets = {"clean": pairs.clean, "triggered": pairs.triggered}
    means = Means.collect(model, [pairs.clean, pairs.triggered], "L0.mlp_out L2.attn_out")
    edits = {str(site): MeanAblate(site, means, where="all") for site in means.sites}
    ids = torch.arange(8, 20)
    score = vocabulary_score(ids, k=5, name="share")
    found = score_edits(model, sets, edits, score)
    for name, prompts in sets.items():
        for edit_name, edit in {None: None, **edits}.items():
            batch = model.builder.tokenize(prompts, targets=False)
            tokens = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            if edit is None:
                logits = model.module(**tokens, position_ids=batch.position_ids).logits[:, -1]
                top = logits.topk(5, dim=-1).indices
                expected = torch.isin(top, ids).double().mean(-1)
                torch.testing.assert_close(found.of(name), expected)
            else:
                (alone,) = Local(progress=False).run(plan(model, [Run(prompts, edit, score=score)]), model)
                torch.testing.assert_close(found.of(name, edit_name), alone.scores.double())
    assert list(found.table().columns) == ["unedited", *edits] and len(found.to_frame()) == 6


def test_pooled_mean_is_over_all_sets_and_the_released_one_is_not(model, pairs):
    sets = [pairs.clean, pairs.triggered.subset([0, 1])]
    rows = [Activations.collect(model, part, "L1.mlp_out")["L1.mlp_out"] for part in sets]
    pooled = Means.collect(model, sets, "L1.mlp_out")["L1.mlp_out"]
    torch.testing.assert_close(pooled, torch.cat(rows).mean(0), **CLOSE)
    released = Means.collect(model, sets, "L1.mlp_out", kind="released")["L1.mlp_out"]
    expected = (rows[0].mean(0) + rows[1].sum(0)) / 2
    torch.testing.assert_close(released, expected, **CLOSE)
    with pytest.raises(SiteError, match="one token"):
        Means.collect(model, sets, "L1.mlp_out", where="all", kind="released")


def test_mean_ablation_puts_the_pooled_mean_at_every_token(pairs):
    model = Model.from_module(tiny_llama(), tiny_tokenizer(), name="tiny-llama")
    means = Means.collect(model, [pairs.clean, pairs.triggered], "L2.mlp_out")
    edit = MeanAblate("L2.mlp_out", means, where="all")
    found = Local(progress=False).run(plan(model, [Run(pairs.clean, edit, score="logprob")]), model)[0].scores
    # The module itself, hooked to say the mean on every prompt token.
    builder = model.builder
    batch = builder.tokenize(pairs.clean)
    keep = batch.selection(edit.where)

    def say_mean(module, inputs, output):
        out = output.clone()
        out[keep] = means["L2.mlp_out"]
        return out

    handle = model.module.model.layers[2].mlp.register_forward_hook(say_mean)
    try:
        logits = model.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits
    finally:
        handle.remove()
    logp = logits[:, batch.n_prompt - 1 : -1].log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    mask = batch.target_mask[:, batch.n_prompt :]
    torch.testing.assert_close(found, (logp * mask).sum(1) / mask.sum(1), **CLOSE)
