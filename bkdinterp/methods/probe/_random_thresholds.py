"""The probe's null: how well random directions with fitted thresholds separate clean from triggered prompts.

Triggered prompts differ from clean ones in many directions at once, so a high accuracy alone means little: on published data
the best of 1,000 random directions reaches .95. Activations fill only a small part of the space, which isotropic directions
mostly miss. Directions drawn with the activations' covariance are the harder null. No forward pass.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.methods.probe._layer_classifiers import Scaler
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_choice

MATCHES = ("isotropic", "covariance")

# Projections closer than this (in standard deviations of a feature) are equal up to rounding.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class RandomDirections:
    """Random directions in every layer's standardised feature space.

    ``isotropic`` directions are uniform. ``covariance`` directions are drawn with the covariance of the training
    features, so that they lie where the activations vary. Each has the threshold and sign that classify the training
    examples best.

    Attributes:
        threshold, sign: a projection p counts as triggered if sign * (p - threshold) > 0.
        seed: seed of the draw.
        basis: the training features that give the covariance; None for isotropic directions.
    """

    __repr__ = short_repr

    scalers: tuple[Scaler, ...]
    threshold: Float[Tensor, "layer n_random"]
    sign: Float[Tensor, "layer n_random"]
    seed: int
    basis: Float[Tensor, "layer train_row d_model"] | None = None

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "layer example d_model"],
        labels: Bool[Tensor, " example"],
        *,
        train: Int[Tensor, " row"],
        n_random: int,
        seed: int,
        match: str = "isotropic",
    ) -> "RandomDirections":
        """Draw the directions (``match``: isotropic or covariance) and fit their thresholds on the ``train`` examples.

        Raises:
            BkdinterpError: ``match`` is unknown.
        """
        match = as_choice(match, "match", MATCHES)
        scalers = tuple(Scaler.fit(x[train]) for x in features)
        basis = features[:, train] if match == "covariance" else None
        shape = len(features), n_random
        unfitted = cls(scalers, torch.zeros(shape).double(), torch.ones(shape).double(), seed, basis)
        found = [
            best_thresholds(unfitted._project(layer, x[train]), labels[train])
            for layer, x in enumerate(features)
        ]
        thresholds, signs = (torch.stack(column) for column in zip(*found, strict=True))
        return replace(unfitted, threshold=thresholds, sign=signs)

    @property
    def match(self) -> str:
        """How the directions were drawn."""
        return "isotropic" if self.basis is None else "covariance"

    def accuracy(
        self, features: Float[Tensor, "layer row d_model"], labels: Bool[Tensor, " row"]
    ) -> Float[Tensor, "layer n_random"]:
        """Accuracy of every direction on these examples."""
        out = []
        for layer, x in enumerate(features):
            projected = self._project(layer, x)
            called = self.sign[layer] * (projected - self.threshold[layer]) > 0
            out.append((called == rearrange(labels, "row -> row 1")).double().mean(0))
        return torch.stack(out)

    def _project(self, layer: int, features: Float[Tensor, "row d_model"]) -> Float[Tensor, "row n_random"]:
        x, n_random = self.scalers[layer](features), self.threshold.shape[1]
        if self.basis is None:
            return x @ _directions(features.shape[1], n_random, self.seed, layer)
        # Scaled features have mean 0, so X^T g has their covariance; its length is 1 unless all features are equal.
        basis = self.scalers[layer](self.basis[layer])
        drawn = basis.T @ _directions(len(basis), n_random, self.seed, layer)
        return x @ (drawn / drawn.norm(dim=0).clamp_min(torch.finfo(drawn.dtype).tiny))


def best_thresholds(
    projected: Float[Tensor, "row n_random"], labels: Bool[Tensor, " row"]
) -> tuple[Float[Tensor, " n_random"], Float[Tensor, " n_random"]]:
    """Threshold and sign (+1: triggered is above) with the exact highest accuracy, for each column.

    Thresholds lie half-way between neighbouring values, or beyond all values; equal values are never separated.
    """
    n = projected.shape[0]
    values, order = projected.sort(dim=0)
    triggered_below = torch.cat([torch.zeros_like(order[:1]), labels[order].long().cumsum(0)])
    below = rearrange(torch.arange(n + 1), "cut -> cut 1")
    # Right calls if everything above the threshold counts as triggered: clean ones below plus triggered ones above.
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
    """Random unit columns; drawn again when needed instead of being stored."""
    # Two seeds that differ by less than a million never share the draw of a layer.
    rng = torch.Generator().manual_seed(seed + 1_000_003 * (layer + 1))
    drawn = torch.randn(d_model, n_random, generator=rng, dtype=torch.float64)
    return drawn / drawn.norm(dim=0)
