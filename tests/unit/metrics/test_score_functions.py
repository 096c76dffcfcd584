"""Scores against hand-computed values; logs where the product underflows; padding never counts."""

import ast
import inspect
import math

import pytest
import torch

from bkdinterp.metrics import SCORES, scores


def logits_of(probs):
    return torch.tensor(probs, dtype=torch.float64).log()


@pytest.fixture
def case():
    # Row 0: targets 0, 1 with p = .5, .25. Row 1: target 2 with p = .7, then padding.
    logits = logits_of([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]])
    return logits, torch.tensor([[0, 1], [2, -100]]), torch.tensor([[True, True], [True, False]])


EXPECTED = {
    "logprob": [math.log(0.125) / 2, math.log(0.7)],
    "sum_logprob": [math.log(0.125), math.log(0.7)],
    "geometric_mean": [math.sqrt(0.125), 0.7],
    "first_token_logprob": [math.log(0.5), math.log(0.7)],
    "first_token_logodds": [0.0, math.log(0.7 / 0.3)],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_hand_computed(case, name):
    logits, targets, mask = case
    got = SCORES[name](logits + 3.0, targets, mask)  # a constant added to all logits changes nothing
    torch.testing.assert_close(got, torch.tensor(EXPECTED[name], dtype=torch.float64))


def test_kl_by_hand_is_base_to_edited_and_a_mean_over_targets(case):
    logits, targets, mask = case
    base = logits_of([[[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]], [[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]]])
    first = 0.5 * math.log(1.0) + 0.5 * math.log(2.0)  # a base probability of 0 contributes 0
    second = 0.7 * math.log(7.0) + 0.1 * math.log(1 / 7)
    got = scores.kl_from_base(logits, targets, mask, base)
    torch.testing.assert_close(got, torch.tensor([first / 2, second], dtype=torch.float64))
    torch.testing.assert_close(scores.kl_from_base(logits, targets, mask, logits), torch.zeros(2).double())


def test_kl_without_base_raises(case):
    with pytest.raises(ValueError, match="base"):
        scores.kl_from_base(*case)


def test_log_space_equals_the_product_on_short_targets():
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(3, 4, 11, generator=g).double(), torch.randint(11, (3, 4), generator=g)
    p = logits.softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    mask = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(scores.geometric_mean_prob(logits, targets, mask), p.prod(-1) ** 0.25)


def test_finite_where_the_product_underflows():
    logits = logits_of([[[0.1, 0.9]] * 500]).float()
    targets, mask = torch.zeros(1, 500, dtype=torch.long), torch.ones(1, 500, dtype=torch.bool)
    assert torch.tensor(0.1) ** 500 == 0  # what the released code computes
    assert scores.geometric_mean_prob(logits, targets, mask).item() == pytest.approx(0.1, rel=1e-5)
    assert scores.sum_logprob(logits, targets, mask).item() == pytest.approx(500 * math.log(0.1), rel=1e-5)


def test_logodds_are_exact_where_p_rounds_to_one():
    logits = torch.tensor([[[40.0, 0.0]]])
    targets, mask = torch.tensor([[0]]), torch.tensor([[True]])
    assert scores.first_token_logodds(logits, targets, mask).item() == 40.0
    assert scores.first_token_logprob(logits, targets, mask).item() == 0.0


@pytest.mark.parametrize("name", SCORES)
def test_padding_never_counts(case, name):
    logits, targets, mask = case
    junk = logits.clone()
    junk[1, 1] = torch.nan
    for left, right in zip(
        SCORES[name](logits, targets, mask, logits), SCORES[name](junk, targets, mask, junk)
    ):
        torch.testing.assert_close(left, right)


def test_leading_padding_is_skipped_by_first_token(case):
    logits, targets, _ = case
    got = scores.first_token_logprob(logits[:1], targets[:1], torch.tensor([[False, True]]))
    assert got.item() == pytest.approx(math.log(0.25))


@pytest.mark.parametrize("name", SCORES)
def test_a_row_without_targets_raises(case, name):
    logits, targets, mask = case
    with pytest.raises(ValueError, match=r"Rows \[1\]"):
        SCORES[name](logits, targets, mask & torch.tensor([[True], [False]]), logits)


@pytest.mark.parametrize(
    ("given", "got"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
@pytest.mark.parametrize("name", SCORES)
def test_precision(case, name, given, got):
    logits, targets, mask = case
    logits = logits.to(getattr(torch, given))
    assert SCORES[name](logits, targets, mask, logits).dtype == getattr(torch, got)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "kl"])
@pytest.mark.parametrize("cached", [1, 7, 20, 40])
def test_a_few_rows_at_a_time_give_the_same_bits(name, cached, monkeypatch):
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(3, 4, 7, generator=g), torch.randint(7, (3, 4), generator=g)
    logits[0, 0, 3] = -torch.inf
    mask = torch.ones(3, 4, dtype=torch.bool)
    graph = logits.clone().requires_grad_()
    whole = SCORES[name](graph, targets, mask)  # with a graph nothing is cut
    seen, logsumexp = [], torch.Tensor.logsumexp
    monkeypatch.setattr(scores, "CACHED", cached)
    monkeypatch.setattr(torch.Tensor, "logsumexp", lambda x, dim: seen.append(len(x)) or logsumexp(x, dim))
    assert torch.equal(SCORES[name](logits, targets, mask), whole)
    assert max(seen) <= max(1, cached // 7)
    monkeypatch.undo()
    whole.sum().backward()
    assert graph.grad.isfinite().all()


def test_the_module_can_be_shipped_as_source():
    tree = ast.parse(inspect.getsource(scores))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    ]
    assert set(imported) <= {"__future__", "torch", "jaxtyping"}
    assert "__future__" in imported
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert all(not f.decorator_list for f in functions)
