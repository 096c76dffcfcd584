"""A score is declared: what it takes, what it looks at, which end of it is the backdoor's; what is none is refused."""

import functools
import subprocess
import sys

import pytest
import torch

from bkdinterp.errors import PlanError
from bkdinterp.metrics import SCORES, Score, as_score, scores


def loss(logits, targets, mask):
    return -scores.mean_logprob(logits, targets, mask)


def top(logits, targets, mask, k=3):
    return logits[:, 0].topk(k).values.mean(-1)


def change(logits, targets, mask, base):
    return (logits - base)[:, 0].abs().amax(-1)


class Named:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, logits, targets, mask):
        return self.factor * logits[:, 0, 0]


def test_the_packages_scores_are_declared():
    assert {name: (s.needs_base, s.n_targets, s.sense) for name, s in SCORES.items()} == {
        "logprob": (False, None, "higher"),
        "sum_logprob": (False, None, "higher"),
        "geometric_mean": (False, None, "higher"),
        "first_token_logprob": (False, 1, "higher"),
        "first_token_logodds": (False, 1, "higher"),
        "kl": (True, None, "distance"),
    }
    for name, score in SCORES.items():
        assert as_score(name) is as_score(score) is score
        score.check(11)


@pytest.mark.parametrize(
    ("fn", "name", "arguments"),
    [
        (loss, "loss", 3),
        (top, "top", 3),
        (change, "change", 4),
        (scores.mean_logprob, "mean_logprob", 4),
        (functools.partial(top, k=5), "top(k=5)", 3),
        (functools.partial(functools.partial(top, k=5), k=6), "top(k=6)", 3),
        (Named(2.0), "Named", 3),
        (lambda *given: given[0][:, 0, 0], None, 4),
        (lambda logits, targets, mask, **more: logits[:, 0, 0], None, 3),
        (lambda logits, targets, mask, *, base=None: logits[:, 0, 0], None, 3),
    ],
)
def test_functions_are_taken_as_they_are(fn, name, arguments):
    score = as_score(fn)
    assert (score.fn, score.arguments) == (fn, arguments)
    assert score.name.startswith("lambda-") if name is None else score.name == name
    if name != "change":
        score.check(13)


def test_lambdas_and_partials_are_told_apart():
    def times(factor):
        return lambda logits, targets, mask: factor * logits[:, 0, 0]

    different = [
        times(1.0),
        times(2.0),
        times(torch.ones(2)),
        times(torch.zeros(2)),
        lambda logits, targets, mask: logits[:, 0, 0],
        lambda logits, targets, mask: logits[:, 0, 1],
        lambda logits, targets, mask: logits[:, 0].amax(-1),
        lambda logits, targets, mask: logits[:, 0].amin(-1),
        functools.partial(top, k=2),
        functools.partial(top, k=3),
    ]
    assert len({Score(fn).name for fn in different}) == len(different)
    assert Score(times(1.0)).name == Score(times(1.0)).name
    assert Score(top) == Score(top) != Score(top, n_targets=1)


def test_a_lambdas_name_is_the_same_in_every_process():
    code = "from bkdinterp.metrics import Score; print(Score(lambda a, b, c, s={object()}: a[:, 0, 0]).name)"
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_score("nll"), "choose one of logprob"),
        (lambda: as_score(None), "give a name, a function"),
        (lambda: as_score(3), "give a name, a function"),
        (lambda: as_score(Named), "give a function"),
        (lambda: Score(SCORES["kl"]), "give a function"),
        (lambda: Score(lambda logits, targets: 0), r"takes \(logits, targets\)"),
        (lambda: Score(lambda logits, targets, mask, base, more: 0), "takes"),
        (lambda: Score(lambda logits, targets, *, mask: 0), "takes"),
        (lambda: Score(loss, needs_base=True), "no fourth argument"),
        (lambda: Score(loss, " "), "empty"),
        (lambda: Score(loss, "payload_rate"), "rate of texts"),
        (lambda: Score(loss, n_targets=0), "n_targets"),
        (lambda: Score(loss, sense="more"), "choose one of higher, lower, distance"),
        (lambda: as_score(Score(loss, "kl")), "name of a different score of the package"),
    ],
)
def test_what_is_no_score_is_refused(make, message):
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda logits, targets, mask: logits.mean(), r"gave a tensor \[\] of torch.float32 for 3 rows"),
        (lambda logits, targets, mask: 0.5, r"gave 0.5 \(float\)"),
        (lambda logits, targets, mask: None, "NoneType"),
        (lambda logits, targets, mask: logits[:, 0], r"\[3, 13\]"),
        (lambda logits, targets, mask: logits[:, 0].argmax(-1), "torch.int64"),
        (lambda logits, targets, mask: logits[:, 0, 0] > 0, "torch.bool"),
        (lambda logits, targets, mask: logits[:, 0, 0] / 0 * 0, "NaN on finite logits"),
        (lambda logits, targets, mask: logits[:, 0, 0].squeeze(), r"\[\] of torch.float32 for 1 rows"),
        (lambda logits, targets, mask: logits[:, 0, 10**9], "raised IndexError"),
        (lambda logits, targets, mask, base: logits[:, 0, 0] - base[:, 0, 0], "needs_base=True"),
    ],
)
def test_a_score_that_gives_something_else_is_named_with_what_it_gave(fn, message):
    with pytest.raises(PlanError, match=message) as caught:
        Score(fn, "mine").check(13)
    assert "'mine'" in str(caught.value)


def test_infinite_scores_are_scores():
    Score(lambda logits, targets, mask: logits[:, 0, 0] - torch.inf, "low").check(13)
    Score(change, needs_base=True).check(13)
