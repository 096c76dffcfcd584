"""The probe's null: how well a random direction separates clean from triggered, threshold fitted.

Triggered prompts differ from clean ones in many directions at once, so a high accuracy alone says little: in
published data the best of 1,000 random directions reaches .95. No forward pass.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.methods._classifiers import Scaler
from bkdinterp.reprs import short_repr

# Projections closer than this (in standard deviations of a feature) are the same number but for rounding.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class RandomDirections:
    """Random unit directions in every layer's standardised feature space.

    Each has the threshold and the sign that classify the training examples best.

    Attributes:
        threshold, sign: a projection p is called triggered when sign * (p - threshold) > 0.
    """

    __repr__ = short_repr

    scalers: tuple[Scaler, ...]
    threshold: Float[Tensor, "layer n_random"]
    sign: Float[Tensor, "layer n_random"]
    seed: int

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "layer example d_model"],
        labels: Bool[Tensor, " example"],
        *,
        train: Int[Tensor, " row"],
        n_random: int,
        seed: int,
    ) -> "RandomDirections":
        """Draw the directions and fit their thresholds on the ``train`` examples."""
        scalers, thresholds, signs = [], [], []
        for layer, x in enumerate(features):
            scalers.append(Scaler.fit(x[train]))
            projected = scalers[-1](x[train]) @ _directions(x.shape[1], n_random, seed, layer)
            threshold, sign = best_thresholds(projected, labels[train])
            thresholds.append(threshold)
            signs.append(sign)
        return cls(tuple(scalers), torch.stack(thresholds), torch.stack(signs), seed)

    def accuracy(
        self, features: Float[Tensor, "layer row d_model"], labels: Bool[Tensor, " row"]
    ) -> Float[Tensor, "layer n_random"]:
        """Share of right calls of every direction on these examples."""
        out = []
        for layer, x in enumerate(features):
            directions = _directions(x.shape[1], self.threshold.shape[1], self.seed, layer)
            projected = self.scalers[layer](x) @ directions
            called = self.sign[layer] * (projected - self.threshold[layer]) > 0
            out.append((called == rearrange(labels, "row -> row 1")).double().mean(0))
        return torch.stack(out)


def best_thresholds(
    projected: Float[Tensor, "row n_random"], labels: Bool[Tensor, " row"]
) -> tuple[Float[Tensor, " n_random"], Float[Tensor, " n_random"]]:
    """Threshold and sign (+1: triggered above it) of the highest accuracy, exactly, for each column.

    Cuts lie in the middle between neighbouring values, or beyond all; equal values are never separated.
    """
    n = projected.shape[0]
    values, order = projected.sort(dim=0)
    triggered_below = torch.cat([torch.zeros_like(order[:1]), labels[order].long().cumsum(0)])
    below = rearrange(torch.arange(n + 1), "cut -> cut 1")
    # Right calls when everything above the cut is called triggered: clean below plus triggered above.
    right = below - triggered_below + (labels.sum() - triggered_below)
    infinity = torch.full_like(values[:1], float("inf"))
    padded = torch.cat([-infinity, values, infinity])
    allowed = (padded[1:] - padded[:-1]) > _SAME
    score = torch.where(allowed, torch.maximum(right, n - right), -1)
    cut = score.argmax(0, keepdim=True)
    low, high = padded.gather(0, cut)[0], padded.gather(0, cut + 1)[0]
    sign = torch.where(right.gather(0, cut)[0] * 2 >= n, 1.0, -1.0).to(values.dtype)
    return (low + high) / 2, sign


def _directions(d_model: int, n_random: int, seed: int, layer: int) -> Float[Tensor, "d_model n_random"]:
    """Unit columns; drawn again when needed rather than kept."""
    # Two seeds that differ by less than a million never share a layer's draw.
    rng = torch.Generator().manual_seed(seed + 1_000_003 * (layer + 1))
    drawn = torch.randn(d_model, n_random, generator=rng, dtype=torch.float64)
    return drawn / drawn.norm(dim=0)
