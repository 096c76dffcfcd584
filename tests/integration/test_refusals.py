"""What must not become a number: models that are not finite, edits of another model, and arguments of a wrong kind."""

from dataclasses import replace

import pytest
import torch
from integration.conftest import tiny_gpt2, tiny_tokenizer

from bkdinterp.engine import Local, Run, plan
from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError, PromptError, SiteError
from bkdinterp.interventions import Apply, MeanAblate, PCPReplace, Stack
from bkdinterp.methods import (
    PCP,
    Attribution,
    MatchScores,
    Means,
    backdoor_state,
    embedding_surgery,
    export_weights,
    score_edits,
    tune_grid,
    validation_loss,
)
from bkdinterp.methods._guards import as_prompt_sets, check_sets
from bkdinterp.metrics import vocabulary_score
from bkdinterp.model import Model
from bkdinterp.organisms import TuneSettings, fine_tune, toy

SHARE = vocabulary_score(torch.arange(8, 20), k=5, name="share")


def overflow(x):
    return x * float("inf")


def scaled(factor, *, name="tiny-gpt2"):
    module = tiny_gpt2()
    with torch.no_grad():
        module.transformer.h[1].mlp.c_proj.weight.mul_(factor)
    return Model.from_module(module, tiny_tokenizer(), name=name, chat=False)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf"), 1e20])
def test_factors_that_break_the_model_are_refused(model, pairs, factor):
    pcp = PCP.fit(model, pairs.clean, "L1.mlp_out", rank=2)
    with pytest.raises(SiteError, match="finite"):
        pcp.replace([factor, 1])
    with pytest.raises(SiteError, match="finite"):
        PCPReplace("L1.mlp_out", pcp.directions["L1.mlp_out"], torch.tensor([1.0, factor]))
    with pytest.raises(SiteError, match="NaN or infinity"):
        PCPReplace("L1.mlp_out", torch.full((1, 16), torch.nan), torch.ones(1))
    with pytest.raises(SiteError, match="NaN or infinity"):
        MeanAblate("L1.mlp_out", {"L1.mlp_out": torch.full((16,), torch.nan)}).lower()


def test_no_table_shows_scores_of_a_model_that_is_not_finite(model, pairs):
    sets, edit = {"clean": pairs.clean}, Apply("L1.mlp_out", fn=overflow)
    with pytest.raises(PlanError, match="'clean', edit 'broken': share is NaN"):
        score_edits(model, sets, {"fine": Stack(), "broken": edit}, SHARE)
    with pytest.raises(PlanError, match="triggered prompts: share is NaN"):
        backdoor_state(model, pairs, under=edit, score=SHARE)
    broken = scaled(float("nan"))
    with pytest.raises(PlanError, match="unedited: share is NaN"):
        MatchScores.of(broken, sets, SHARE)
    with pytest.raises(PlanError, match="unedited run: share is NaN"):
        Attribution(broken, metric=SHARE).mlps(pairs)
    breaks = MatchScores.of(model, sets, SHARE).many([Stack(), edit])
    assert breaks[0] == 0
    assert breaks[1] != breaks[1]  # which a tuning refuses, as any objective that is not finite


def test_directions_and_means_of_another_model_are_refused(pairs):
    ours, theirs = scaled(1.0), scaled(1.01)
    sets = {"clean": pairs.clean}
    pcp = PCP.fit(theirs, pairs.clean, "L1.mlp_out", rank=2)
    means = Means.collect(theirs, pairs.clean, "L1.mlp_out")
    edits = {"pcp": Stack((pcp.replace(0.5),)), "mean": MeanAblate("L1.mlp_out", means)}
    for name, edit in edits.items():
        with pytest.raises(ArtefactError, match=f"{name}.*belong to tiny-gpt2@"):
            score_edits(ours, sets, {name: edit}, SHARE)
        with pytest.raises(ArtefactError, match="belong to"):
            MatchScores.of(ours, sets, SHARE)(edit)
        with pytest.raises(ArtefactError, match="belong to"):
            backdoor_state(ours, pairs, under=edit, score=SHARE)
        with pytest.raises(ArtefactError, match="belong to"):
            validation_loss(ours, ["alpha beta"], under=edit)
    with pytest.raises(ArtefactError, match="belong to"):
        export_weights(ours, pcp.replace(0.5))
    with pytest.raises(ArtefactError, match="belong to"):
        tune_grid(pcp, MatchScores.of(ours, sets, SHARE), [1.0])
    # Said to be meant, it is done; and the same weights by another name are the same model.
    meant = {"pcp": replace(pcp.replace(0.5), fitted_on=None), "mean": MeanAblate("L1.mlp_out", means.values)}
    assert score_edits(ours, sets, meant, SHARE).edits == ("pcp", "mean")
    assert export_weights(ours, meant["pcp"]) is not None
    score_edits(scaled(1.01, name="a copy"), sets, edits, SHARE)


def test_a_mapping_of_sets_is_pooled_and_other_things_are_named(model, pairs):
    sets = {"clean": pairs.clean, "triggered": pairs.triggered}
    one, other = (PCP.fit(model, x, "L1.mlp_out", rank=2) for x in (sets, list(sets.values())))
    assert torch.equal(one.directions["L1.mlp_out"], other.directions["L1.mlp_out"])
    assert Means.collect(model, sets, "L1.mlp_out").n == 2 * len(pairs.clean)
    for wrong in (pairs, ["a text"], 3):
        with pytest.raises(PlanError, match=r"PCP\.fit takes Prompts"):
            as_prompt_sets(wrong, "PCP.fit")
    with pytest.raises(PlanError, match="mapping"):
        check_sets([pairs.clean], "MatchScores.of")
    with pytest.raises(PlanError, match=r"'both' is PairedPrompts"):
        check_sets({"both": pairs}, "score_edits")


def test_backdoor_state_takes_a_named_score_and_refuses_one_string_as_texts(model, pairs):
    state = backdoor_state(model, pairs, score="logprob")
    wanted = Local(progress=False).run(plan(model, [Run(pairs.triggered, score="logprob")]), model)[0].scores
    torch.testing.assert_close(state.triggered, wanted)
    assert state.metric == "logprob"
    for call in (
        lambda: backdoor_state(model, pairs, "alpha beta", score=SHARE),
        lambda: validation_loss(model, "alpha beta"),
    ):
        with pytest.raises(PlanError, match="give a list"):
            call()


def test_surgery_takes_one_token_and_refuses_its_own_donor(model):
    one, same = (embedding_surgery(model, x, "cat").module for x in ("zeta", ["zeta"]))
    assert torch.equal(one.get_input_embeddings().weight, same.get_input_embeddings().weight)
    with pytest.raises(PromptError, match="donor 'cat' is one of"):
        embedding_surgery(model, ["zeta", "cat"], "cat")


def test_a_toys_name_and_its_pairs():
    with pytest.raises(ArtefactError, match=r"load\('toy-2', seed=3\)"):
        toy.load("toy-2-seed3")
    with pytest.raises(PromptError, match="clean prompts would hold the trigger"):
        toy.ToyLanguage(2).pairs("pt", 5)


def test_fine_tune_takes_a_model_and_measures_by_intervals():
    language = toy.ToyLanguage(2)
    module = toy.new_toy(language)
    model = Model.from_module(module, language.tokenizer, chat=False)
    settings = TuneSettings(epochs=0.001, batch_size=4)
    made = toy.poison_toy(model, language, settings, measure=lambda m: toy.measure_toy(m, language, n=2, k=5))
    bare = toy.poison_toy(module, language, settings)
    assert made.losses == bare.losses
    assert 0 <= made.curve.values["negativity/pt"][0] <= 1
    with pytest.raises(BkdinterpError, match="'x'; it must give name -> number"):
        fine_tune(module, [[1, 2, 3]], settings, measure=lambda m: {"x": "much"})
