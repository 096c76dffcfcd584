"""What models answer to a fixed set of queries, and queries that are tuned to tell backdoored models from clean ones.

Source: meta neural trojan detection (Xu et al. 2021), where queries and a classifier of the answers are trained together on
shadow models. Cost: one forward pass of the queries a model; tuning: one forward and backward of them a step and model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bkdinterp.detection.meta._shadows import Shadow
from bkdinterp.errors import BkdinterpError
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.values import as_integer, as_seed

Queries = Float[Tensor, "query channel height width"]
_LR = 0.03
_BATCH = 24


def random_queries(n: int = 10, *, side: int = 8, channels: int = 1, seed: int = 0) -> Queries:
    """Noise, uniform from 0 to 1.

    Raises:
        BkdinterpError: counts below 1.
    """
    shape = (
        as_integer(n, "n", low=1),
        as_integer(channels, "channels", low=1),
        as_integer(side, "side", low=1),
    )
    return torch.rand(*shape, side, generator=torch.Generator().manual_seed(as_seed(seed)))


@plain_torch()
def query_features(modules: Sequence[Any], queries: Queries) -> Float[np.ndarray, "model feature"]:
    """Log-probabilities of each query, in class order and sorted: a backdoor may lead into any class.

    Raises:
        BkdinterpError: no model.
    """
    if not modules:
        raise BkdinterpError("query_features needs at least one model.")
    return np.stack([_answers(m, queries).flatten().double().numpy() for m in modules])


@plain_torch(grad=True)
def tune_queries(shadows: Sequence[Shadow], queries: Queries, *, steps: int = 120, seed: int = 0) -> Queries:
    """Queries, kept within 0 to 1, moved to where a linear classifier of the answers separates the shadows best.

    The classifier is thrown away: fit one on the answers to the tuned queries.

    Args:
        shadows: clean and poisoned ones.
        queries: to begin with.
        steps: of Adam, each on a batch of 24 shadows, half of them poisoned.
        seed: of the batches.

    Raises:
        BkdinterpError: shadows of one sort only, or counts below 1.
    """
    steps = as_integer(steps, "steps", low=1)
    sorts = [[s for s in shadows if s.poisoned is kind] for kind in (False, True)]
    if not all(sorts):
        raise BkdinterpError("Queries are tuned on clean and on poisoned shadows; give some of both.")
    rng = torch.Generator().manual_seed(as_seed(seed))
    raw = torch.logit(queries.clamp(0.02, 0.98)).requires_grad_()
    first = torch.stack(
        [_answers(s.module, torch.sigmoid(raw)) for s in (*sorts[0][:_BATCH], *sorts[1][:_BATCH])]
    )
    centre, spread = first.mean(0).detach(), first.std(0).detach().clamp_min(0.1)
    weight = torch.zeros(first[0].shape, requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam(
        [{"params": [raw], "lr": 3 * _LR}, {"params": [weight, bias], "lr": _LR, "weight_decay": 1e-3}]
    )
    truth = torch.cat([torch.zeros(_BATCH // 2), torch.ones(_BATCH // 2)])
    for _ in range(steps):
        batch = [
            sort[i]
            for sort in sorts
            for i in torch.randint(len(sort), (_BATCH // 2,), generator=rng).tolist()
        ]
        shown = torch.sigmoid(raw)
        answers = torch.stack([_answers(s.module, shown) for s in batch])
        says = ((answers - centre) / spread * weight).flatten(1).sum(1) + bias
        optimiser.zero_grad()
        functional.binary_cross_entropy_with_logits(says, truth).backward(inputs=[raw, weight, bias])
        optimiser.step()
    return torch.sigmoid(raw).detach()


def _answers(module: nn.Module, queries: Queries) -> Float[Tensor, "query _"]:
    answers = module(queries).log_softmax(-1)
    return torch.cat([answers, answers.sort(-1, descending=True).values], -1)
