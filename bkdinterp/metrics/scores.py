"""Scores of a teacher-forced target: plain functions (logits, targets, mask, base logits or None) -> [row].

``logits[row, k]`` predict ``targets[row, k]``; ``mask`` is True on real target tokens. Computed in float32 at
least, float64 kept. No forward pass of their own; ``kl_from_base`` needs the base run's logits. Source: the
metric of BAHA, BkdAttr sec. 3 (geometric mean), in logs because the released product underflows.

This module is sent to remote servers as source: undecorated functions, no imports of the package, and
annotations that stay strings.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Numbers that stay in a core's cache beside their exponentials: half a MiB of float32.
CACHED = 2**17


def mean_logprob(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    base: Float[Tensor, "row target d_vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """Mean log-probability per target token, nats; the default score. ValueError on a row without targets."""
    return _target_logprobs(logits, targets, mask).sum(-1) / mask.sum(-1)


def sum_logprob(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    base: Float[Tensor, "row target d_vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """Log-probability of the whole target, nats. ValueError on a row without targets."""
    return _target_logprobs(logits, targets, mask).sum(-1)


def geometric_mean_prob(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    base: Float[Tensor, "row target d_vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """The papers' P(y|x): geometric mean probability of target tokens, 0..1. ValueError without targets."""
    return mean_logprob(logits, targets, mask).exp()


def first_token_logprob(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    base: Float[Tensor, "row target d_vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """Log-probability of the first target token, nats. ValueError on a row without targets."""
    first, token = _first(logits, targets, mask)
    return first.gather(-1, token).squeeze(-1) - _logsumexp(first)


def first_token_logodds(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    base: Float[Tensor, "row target d_vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """log p - log(1 - p) of the first target token, nats. ValueError on a row without targets.

    Computed as its logit minus the logsumexp of all others, which stays exact where p rounds to 1.
    """
    first, token = _first(logits, targets, mask)
    return first.gather(-1, token).squeeze(-1) - _logsumexp(first.scatter(-1, token, -torch.inf))


def kl_from_base(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    base: Float[Tensor, "row target d_vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """KL(base || edited) of the next-token distribution, mean over target tokens, nats.

    ValueError without ``base`` or on a row without targets.
    """
    if base is None:
        raise ValueError("The score 'kl' compares with the unedited run: pass its logits as base.")
    _check_mask(mask)
    log_p, log_q = _wide(base).log_softmax(-1), _wide(logits).log_softmax(-1)
    p = log_p.exp()
    # A token of base probability 0 contributes 0, also where log p is -inf.
    terms = torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum(-1)
    return torch.where(mask, terms, torch.zeros_like(terms)).sum(-1) / mask.sum(-1)


def _logsumexp(logits: Float[Tensor, "*row d_vocab"]) -> Float[Tensor, " *row"]:
    """``logits.logsumexp(-1)`` to the bit. On a CPU some rows at a time, so that temporaries stay in a core's cache."""
    if (
        logits.device.type != "cpu"
        or logits.requires_grad
        or not logits.is_contiguous()
        or not logits.numel()
    ):
        return logits.logsumexp(-1)
    blocks = logits.flatten(0, -2).split(max(1, CACHED // logits.shape[-1]))
    return torch.cat([block.logsumexp(-1) for block in blocks]).view(logits.shape[:-1])


def _wide(logits: Float[Tensor, ...]) -> Float[Tensor, ...]:
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_mask(mask: Bool[Tensor, "row target"]) -> None:
    empty = (~mask.any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"Rows {empty[:8]} have no target token; a score needs at least one per row.")


def _target_logprobs(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
) -> Float[Tensor, "row target"]:
    _check_mask(mask)
    wide = _wide(logits)
    # Padding may hold any id (-100 too) and any logits: index it safely, and select instead of multiplying.
    token = targets.masked_fill(~mask, 0).unsqueeze(-1)
    logprobs = wide.gather(-1, token).squeeze(-1) - _logsumexp(wide)
    return torch.where(mask, logprobs, torch.zeros_like(logprobs))


def _first(
    logits: Float[Tensor, "row target d_vocab"],
    targets: Int[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
) -> tuple[Float[Tensor, "row d_vocab"], Int[Tensor, "row 1"]]:
    _check_mask(mask)
    row = torch.arange(mask.shape[0], device=mask.device)
    column = mask.int().argmax(-1)
    return _wide(logits[row, column]), targets[row, column].unsqueeze(-1)
