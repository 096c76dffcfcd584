"""Declared scores in runs, plans and methods: what they compute, and what is most important by them."""

import functools

import pytest
import torch

import bkdinterp as bk
from bkdinterp.engine import Local, plan
from bkdinterp.errors import PlanError
from bkdinterp.interventions import ZeroAblate
from bkdinterp.methods import Attribution, LayerSweep, backdoor_state, score_edits
from bkdinterp.metrics import SCORES, scores


def loss(logits, targets, mask):
    return -scores.mean_logprob(logits, targets, mask)


def gap(logits, targets, mask, base):
    return scores.mean_logprob(logits, targets, mask) - scores.mean_logprob(base, targets, mask)


def second(logits, targets, mask, column=1):
    return logits[:, column].amax(-1)


LOSS = bk.Score(loss, sense="lower")
EDIT = ZeroAblate("L1H1")


def run(model, runs, **how):
    return Local(progress=False).run(plan(model, runs, **how), model)


@pytest.mark.parametrize("naive", [True, False])
def test_a_score_of_three_arguments_and_one_that_asks_for_the_base(model, pairs, naive):
    prompts = pairs.triggered
    given = (loss, bk.Score(gap, needs_base=True), "logprob", functools.partial(second, column=0))
    edited = [run(model, [bk.Run(prompts, EDIT, score=s)], naive=naive)[0].scores for s in given]
    plain = run(model, [bk.Run(prompts, score=s) for s in ("logprob", given[1])], naive=naive)
    torch.testing.assert_close(edited[0], -edited[2])
    torch.testing.assert_close(edited[1], edited[2] - plain[0].scores)
    torch.testing.assert_close(plain[1].scores, torch.zeros_like(plain[1].scores))
    assert edited[1].abs().max() > 1e-4 and edited[3].shape == edited[0].shape


def test_only_so_many_target_tokens_are_computed(model, pairs):
    whole = plan(model, [bk.Run(pairs.clean, score=second)])
    two = plan(model, [bk.Run(pairs.clean, score=bk.Score(second, n_targets=2))])
    longest = max(len(model.builder.target_ids("x", t)) for t in pairs.clean.target)
    assert longest > 2 and two.cost.token_layers < whole.cost.token_layers
    (a,), (b,) = (Local(progress=False).run(p, model) for p in (whole, two))
    torch.testing.assert_close(a.scores, b.scores)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda logits, targets, mask: logits.mean(), r"lambda-\w+' gave a tensor \[\]"),
        (lambda logits, targets, mask, base: base[:, 0, 0], "needs_base=True"),
        (lambda logits, targets, mask: logits[:, 0].argmax(-1), "int64"),
        (lambda logits: logits[:, 0, 0], "takes"),
        (lambda logits, targets, mask: torch.full((len(logits),), torch.nan), "gave NaN on finite logits"),
    ],
)
@pytest.mark.parametrize("door", ["run", "attribution", "edits", "state"])
def test_every_door_names_the_score_and_what_it_gave(model, pairs, score, message, door):
    doors = {
        "run": lambda: bk.execute(model, [bk.Run(pairs.clean, score=score)]),
        "attribution": lambda: Attribution(model, metric=score).mlps(pairs),
        "edits": lambda: score_edits(model, {"clean": pairs.clean}, {"edit": EDIT}, score),
        "state": lambda: backdoor_state(model, pairs, score=score),
    }
    with pytest.raises(PlanError, match=message):
        doors[door]()


def test_a_score_that_fails_on_real_rows_only_is_told_in_words(model, pairs):
    def fewer(logits, targets, mask):
        return logits[:, 0, 0][: 3 if len(logits) in (1, 3) else 2]

    with pytest.raises(Exception, match="not one number each"):
        bk.execute(model, [bk.Run(pairs.clean, score=fewer)])


def test_two_scores_of_one_name_are_refused(model, pairs):
    runs = [bk.Run(pairs.clean, score=bk.Score(f, "one")) for f in (loss, second)]
    with pytest.raises(PlanError, match="named 'one'"):
        plan(model, runs)
    lambdas = [
        bk.Run(pairs.clean, score=f) for f in (lambda lo, t, m: lo[:, 0, 0], lambda lo, t, m: lo[:, 0, 1])
    ]
    a, b = run(model, lambdas)
    assert not torch.equal(a.scores, b.scores)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_the_most_important_units_are_the_same_by_a_likelihood_and_by_its_loss(model, pairs, direction):
    by = {s: Attribution(model, metric=s, direction=direction).heads(pairs) for s in ("logprob", LOSS)}
    high, low = by["logprob"], by[LOSS]
    assert (high.sense, low.sense, low.metric) == ("higher", "lower", "loss")
    torch.testing.assert_close(high.effects, -low.effects)
    assert high.top_k(3) == low.top_k(3)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_of_a_distance_the_largest_are_most_important(model, pairs, tmp_path, direction):
    found = Attribution(model, metric="kl", direction=direction).mlps(pairs)
    assert found.sense == "distance"
    assert [s.layer for s in found.top_k(2)] == found.acie.argsort(descending=True)[:2].tolist()
    again = type(found).load(found.save(tmp_path / "kl"))
    assert again.sense == "distance" and again.top_k(2) == found.top_k(2)


def test_a_layer_sweep_takes_any_score(model, pairs, tmp_path):
    vector = bk.BackdoorVector.extract(model, "L0H0, L1H1", pairs)
    for direction in ("add", "subtract"):
        found = {
            by.name if isinstance(by, bk.Score) else by: bk.sweep_layers(
                model, vector, pairs, direction=direction, by=by
            )
            for by in ("logprob", LOSS, "kl")
        }
        assert found["logprob"].best == found["loss"].best
        largest = found["kl"].layers[found["kl"].values.mean(-1).argmax()]
        assert found["kl"].best == int(largest)
    sweep = bk.sweep_layers(model, vector, pairs, by=loss, layers=[0, 2])
    assert sweep.by == "loss" and f"best layer {sweep.best} (of 2 tried)" in repr(sweep)
    assert LayerSweep.load(sweep.save(tmp_path / "sweep")).best == sweep.best
    assert "selection" not in sweep.plot().axes[0].get_title()
    partial = bk.sweep_layers(model, vector, pairs, by=functools.partial(second, column=0), layers=[1])
    assert partial.by == "second(column=0)"


def test_a_direct_call_is_the_function():
    given = torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(SCORES["logprob"](*given), scores.mean_logprob(*given))
    assert torch.equal(LOSS(*given), loss(*given))
