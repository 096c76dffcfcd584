"""One binary classifier per layer on that layer's features: logistic regression, the paper's SVM and MLP.

Classifiers are stored as plain tensors, so that the L x L evaluations are matrix products. No forward pass of the language
model. For the settings of the SVM and the MLP see docs/papers.md, Definitions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.model._torch_state import plain_torch
from bkdinterp.reprs import short_repr

CLASSIFIERS = ("logistic", "svm", "mlp")

# A decision value this close to the boundary counts as "clean". Otherwise rounding noise would decide if the features carry
# no information, as in layer 0 of a rotary model.
TIE = 1e-9

HIDDEN, DROPOUT, LEARNING_RATE, EPOCHS, BATCH = 100, 0.2, 1e-3, 100, 16


class LayerClassifiers(ABC):
    """One fitted classifier per layer."""

    @abstractmethod
    def decision(self, layer: int, features: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """Decision values of the classifier of ``layer`` for features of any layer; above 0 means triggered.

        They are log-odds for ``logistic`` and ``mlp``, and the signed margin for ``svm``.
        """

    def predict(self, layer: int, features: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
        """Predicted labels; True means triggered."""
        return self.decision(layer, features) > TIE


def fit_classifiers(
    kind: str,
    features: Float[Tensor, "layer example d_model"],
    labels: Bool[Tensor, " example"],
    *,
    train: Int[Tensor, " row"],
    validation: Int[Tensor, " held_row"],
    seed: int,
    best_epoch: bool = True,
) -> LayerClassifiers:
    """Fit every layer's classifier on the ``train`` examples.

    Args:
        kind: ``logistic`` (standardised, L2 with C = 1), ``svm`` (standardised, RBF, C = 1, gamma = "scale")
            or ``mlp`` (unscaled, one hidden layer of 100).
        features: features of all examples.
        labels: True means triggered.
        train: indices of the examples to fit on.
        validation: indices of the validation examples; only used by ``mlp`` with ``best_epoch``.
        seed: seed of the MLP's initialisation, batches and dropout; the other classifiers are deterministic.
        best_epoch: keep the MLP's epoch with the lowest validation loss; False keeps the last one, as the paper's released
            code does (docs/papers.md, Deviations).
    """
    if kind == "mlp":
        return Mlp.fit(features, labels, train=train, validation=validation, seed=seed, best_epoch=best_epoch)
    one = Logistic.fit_layer if kind == "logistic" else Svm.fit_layer
    layers = [one(layer[train].double(), labels[train], seed) for layer in features]
    return Separate(tuple(layers))


@dataclass(frozen=True, eq=False)
class Scaler:
    """Subtracts the mean and divides by the standard deviation (1 for a constant feature)."""

    __repr__ = short_repr

    mean: Float[Tensor, " d_model"]
    scale: Float[Tensor, " d_model"]

    @classmethod
    def fit(cls, features: Float[Tensor, "row d_model"]) -> "Scaler":
        """Fit on training features; equals scikit-learn's StandardScaler."""
        from sklearn.preprocessing import StandardScaler

        fitted = StandardScaler().fit(features.double().numpy())
        return cls(torch.from_numpy(fitted.mean_), torch.from_numpy(fitted.scale_))

    def __call__(self, features: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        return (features.double() - self.mean) / self.scale


class _One(ABC):
    @abstractmethod
    def decision(self, features: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """Decision values; above 0 means triggered."""


@dataclass(frozen=True, eq=False)
class Separate(LayerClassifiers):
    """Classifiers fitted one by one, each with its own scaler."""

    __repr__ = short_repr

    layers: tuple[_One, ...]

    def decision(self, layer: int, features: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """See `LayerClassifiers.decision`; features are scaled with the scaler of ``layer``."""
        return self.layers[layer].decision(features)


@dataclass(frozen=True, eq=False)
class Logistic(_One):
    """Logistic regression of one layer on standardised features."""

    __repr__ = short_repr

    scaler: Scaler
    weight: Float[Tensor, " d_model"]
    bias: float

    @classmethod
    def fit_layer(
        cls, features: Float[Tensor, "row d_model"], labels: Bool[Tensor, " row"], seed: int
    ) -> "Logistic":
        """Fit on training features."""
        from sklearn.linear_model import LogisticRegression

        scaler = Scaler.fit(features)
        fitted = LogisticRegression(max_iter=2000, random_state=seed).fit(
            scaler(features).numpy(), labels.numpy()
        )
        return cls(scaler, torch.from_numpy(fitted.coef_[0]), float(fitted.intercept_[0]))

    def decision(self, features: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """Log-odds of triggered."""
        return self.scaler(features) @ self.weight + self.bias


@dataclass(frozen=True, eq=False)
class Svm(_One):
    """Support vector machine of one layer with an RBF kernel on standardised features."""

    __repr__ = short_repr

    scaler: Scaler
    support: Float[Tensor, "row d_model"]
    coeff: Float[Tensor, " row"]
    bias: float
    gamma: float

    @classmethod
    def fit_layer(
        cls, features: Float[Tensor, "row d_model"], labels: Bool[Tensor, " row"], seed: int
    ) -> "Svm":
        """Fit on training features. Equals SVC(kernel="rbf", gamma="scale"), with the kernel as a matrix product."""
        from sklearn.svm import SVC

        scaler = Scaler.fit(features)
        x = scaler(features)
        variance = float(x.var(correction=0))
        gamma = 1.0 / (x.shape[1] * variance) if variance > 0 else 1.0
        fitted = SVC(C=1.0, kernel="precomputed", random_state=seed).fit(
            _rbf(x, x, gamma).numpy(), labels.numpy()
        )
        support = x[torch.from_numpy(fitted.support_).long()]
        return cls(
            scaler, support, torch.from_numpy(fitted.dual_coef_[0].copy()), float(fitted.intercept_[0]), gamma
        )

    def decision(self, features: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """Signed margin."""
        return _rbf(self.scaler(features), self.support, self.gamma) @ self.coeff + self.bias


def _rbf(
    a: Float[Tensor, "row d_model"], b: Float[Tensor, "other d_model"], gamma: float
) -> Float[Tensor, "row other"]:
    squares = rearrange(a.square().sum(1), "row -> row 1") + b.square().sum(1) - 2 * a @ b.T
    return torch.exp(-gamma * squares.clamp(min=0))


@dataclass(frozen=True, eq=False)
class Mlp(LayerClassifiers):
    """Linear(d, 100) - ReLU - Dropout(0.2) - Linear(100, 1) per layer, with all layers trained together.

    The layers share batches but no parameters, and Adam acts on each number separately, so this equals one training per
    layer. Binary cross-entropy, Adam 1e-3, 100 epochs, batches of 16, no feature scaling, threshold 0.5.
    """

    __repr__ = short_repr

    weights_in: Float[Tensor, "layer d_model hidden"]
    bias_in: Float[Tensor, "layer hidden"]
    weights_out: Float[Tensor, "layer hidden"]
    bias_out: Float[Tensor, " layer"]

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "layer example d_model"],
        labels: Bool[Tensor, " example"],
        *,
        train: Int[Tensor, " row"],
        validation: Int[Tensor, " held_row"],
        seed: int,
        best_epoch: bool,
    ) -> "Mlp":
        """See `fit_classifiers`."""
        n_layers, _, d_model = features.shape
        rng = torch.Generator().manual_seed(seed)
        inner, outer = 1 / math.sqrt(d_model), 1 / math.sqrt(HIDDEN)
        shapes = [
            ((n_layers, d_model, HIDDEN), inner),
            ((n_layers, HIDDEN), inner),
            ((n_layers, HIDDEN), outer),
            ((n_layers,), outer),
        ]
        params = [
            ((2 * torch.rand(shape, generator=rng) - 1) * bound).requires_grad_() for shape, bound in shapes
        ]
        optimiser = torch.optim.Adam(params, lr=LEARNING_RATE)
        best, best_loss = [p.detach().clone() for p in params], torch.full((n_layers,), math.inf)
        with plain_torch(grad=True), threads_for(params[0]):
            for _ in range(EPOCHS):
                for batch in train[torch.randperm(len(train), generator=rng)].split(BATCH):
                    optimiser.zero_grad()
                    _losses(params, features[:, batch].float(), labels[batch], rng).sum().backward()
                    optimiser.step()
                if best_epoch:
                    with torch.no_grad():
                        loss = _losses(params, features[:, validation].float(), labels[validation], None)
                    better = loss < best_loss
                    best_loss = torch.where(better, loss, best_loss)
                    for kept, p in zip(best, params, strict=True):
                        kept[better] = p.detach()[better]
        return cls(*(best if best_epoch else [p.detach() for p in params]))

    def decision(self, layer: int, features: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """Log-odds of triggered."""
        one = [p[layer : layer + 1] for p in (self.weights_in, self.bias_in, self.weights_out, self.bias_out)]
        return _logits(one, rearrange(features.float(), "row d_model -> 1 row d_model"), None)[0]


@contextmanager
def threads_for(data: Tensor) -> Iterator[None]:
    """Context with a single thread if steps are small: on a busy machine, threads waiting for each other cost far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if data.numel() > 10_000_000 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _logits(
    params: list[Tensor], features: Float[Tensor, "layer row d_model"], dropout: torch.Generator | None
) -> Float[Tensor, "layer row"]:
    weights_in, bias_in, weights_out, bias_out = params
    hidden = torch.relu(features @ weights_in + rearrange(bias_in, "layer hidden -> layer 1 hidden"))
    if dropout is not None:
        kept = torch.rand(hidden.shape, generator=dropout) >= DROPOUT
        hidden = hidden * kept / (1 - DROPOUT)
    out = einsum(hidden, weights_out, "layer row hidden, layer hidden -> layer row")
    return out + rearrange(bias_out, "layer -> layer 1")


def _losses(
    params: list[Tensor],
    features: Float[Tensor, "layer row d_model"],
    labels: Bool[Tensor, " row"],
    dropout: torch.Generator | None,
) -> Float[Tensor, " layer"]:
    logits = _logits(params, features, dropout)
    wanted = labels.to(logits.dtype).expand_as(logits)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
