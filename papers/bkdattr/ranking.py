"""Rankings of heads, and how far two of them agree: overlap of the top k, rank correlation. No forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.sites import HeadId, HeadSet
from bkdinterp.stats import Interval

RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class Ranking:
    """Effects of heads on each example, and the order that their means give.

    Attributes:
        heads: that were scored.
        effects: ``[head example]``.
        grid: (n_layers, n_heads) of the model.
    """

    heads: tuple[HeadId, ...]
    effects: Float[Tensor, "head example"]
    grid: tuple[int, int]

    @classmethod
    def of(cls, unit: Mapping[str, Any], *, geometric: bool = False) -> "Ranking":
        """From a unit of `attribution_units`. ``geometric``: change of the papers' exp(mean log-probability) instead."""
        effects = torch.tensor(unit["effects"], dtype=torch.float64)
        if geometric:
            base = torch.tensor(unit["base"], dtype=torch.float64)
            effects = (base + effects).exp() - base.exp()
        heads = tuple(HeadId.parse(h) for h in unit["heads"])
        return cls(heads, effects, (unit["grid"][0], unit["grid"][1]))

    @property
    def acie(self) -> Float[Tensor, " head"]:
        """Mean over examples."""
        return self.effects.mean(1)

    def top_k(self, k: int) -> HeadSet:
        """The ``k`` heads of largest (signed) effect; all where there are fewer."""
        chosen = order(self.acie)[:k].tolist()
        return HeadSet(tuple(self.heads[i] for i in chosen), self.grid)


def order(values: Float[Tensor, "*draw head"]) -> Int[Tensor, "*draw head"]:
    """Indices, the largest value first, ties in place."""
    return values.argsort(dim=-1, descending=True, stable=True)


def _top(values: Float[Tensor, "*draw head"], k: int) -> Bool[Tensor, "*draw head"]:
    """Which are among the ``k`` largest."""
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, order(values)[..., :k], True)


def overlap(a: Float[Tensor, "*draw head"], b: Float[Tensor, "*draw head"], k: int) -> Float[Tensor, "*draw"]:
    """Share of the top ``k`` of one that is in the top ``k`` of the other."""
    return (_top(a, k) & _top(b, k)).sum(-1) / k


def spearman(a: Float[Tensor, "*draw head"], b: Float[Tensor, "*draw head"]) -> Float[Tensor, "*draw"]:
    """Rank correlation, ties with their mean rank; 0 where one side is constant."""
    from scipy.stats import rankdata

    x, y = (torch.from_numpy(rankdata(v.numpy(), axis=-1)).double() for v in (a, b))
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return ((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).nan_to_num(nan=0.0)


def compare(a: Ranking, b: Ranking, k: int | None = None, *, seed: int = 0) -> Interval:
    """Overlap of the top ``k``, or the rank correlation with ``k=None``, with a bootstrap interval over prompts.

    Both rankings come from the same prompts in the same order, which are drawn together.
    """

    def measure(x: Tensor, y: Tensor) -> Tensor:
        return spearman(x, y) if k is None else overlap(x, y, k)

    n = a.effects.shape[1]
    picks = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    # How often each prompt is drawn, so that all draws are one product.
    counts = torch.nn.functional.one_hot(picks, n).sum(1).to(a.effects.dtype) / n
    drawn = measure(counts @ a.effects.T, counts @ b.effects.T).double()
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    found = float(measure(a.acie, b.acie))
    return Interval(found, min(low, found), max(high, found), n, "bootstrap")


def split_half(a: Ranking, k: int, *, seed: int = 0, splits: int = 50) -> float:
    """Mean overlap of the top ``k`` between random halves of the prompts: what sampling alone leaves of it."""
    n = a.effects.shape[1]
    if n < 2:
        return 1.0
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(splits):
        pick = torch.randperm(n, generator=generator)
        left, right = pick[: n // 2], pick[n // 2 : 2 * (n // 2)]
        found.append(float(overlap(a.effects[:, left].mean(1), a.effects[:, right].mean(1), k)))
    return sum(found) / splits


def ratio(part: Float[Tensor, " example"], whole: Float[Tensor, " example"], *, seed: int = 0) -> Interval:
    """Sum of ``part`` over sum of ``whole``, with a bootstrap interval over examples."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(part), (2000, len(part)), generator=generator)
    drawn = part[picks].sum(1) / whole[picks].sum(1)
    low, high = torch.quantile(drawn.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    found = float(part.sum() / whole.sum())
    return Interval(found, min(low, found), max(high, found), len(part), "bootstrap")
