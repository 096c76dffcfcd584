"""Streaming mean and covariance: a fitter takes batches, and ``finish()`` gives a frozen float64 value.

Batches are merged with Chan's pairwise update, so any split of the examples gives the result of one batch. Costs no
forward pass.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import short_repr


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of ``n`` examples, float64 on the CPU.

    Attributes:
        value: the mean, in the unit of the examples.
        n: number of examples.
    """

    __repr__ = short_repr

    value: Float[Tensor, "..."]
    n: int

    @classmethod
    def fit(cls, x: Float[Tensor, "example ..."]) -> "Mean":
        """Mean over the first axis in one call; raises BkdinterpError as `RunningMean` does."""
        running = RunningMean(*x.shape[1:])
        running.update(x)
        return running.finish()


@dataclass(frozen=True, eq=False)
class Covariance:
    """Mean and covariance (divided by ``n - 1``) of ``n`` examples, float64 on the CPU."""

    __repr__ = short_repr

    mean: Float[Tensor, " d_model"]
    cov: Float[Tensor, "d_model d_model"]
    n: int

    @classmethod
    def fit(cls, x: Float[Tensor, "example d_model"]) -> "Covariance":
        """Covariance over the first axis in one call; raises as `RunningCovariance` does."""
        running = RunningCovariance(x.shape[1])
        running.update(x)
        return running.finish()


class RunningMean:
    """Accumulates the mean of examples of shape ``shape`` in float64; ``RunningMean()`` is for scalars."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.n = 0
        self._mean = torch.zeros(shape, dtype=torch.float64)

    def update(self, x: Float[Tensor, "example ..."]) -> Self:
        """Add a batch; an empty batch changes nothing.

        Raises:
            BkdinterpError: the examples have the wrong shape, or hold NaN or infinity.
        """
        x = _checked(x, self.shape, "RunningMean")
        return self if x.shape[0] == 0 else self.merge(Mean(x.mean(0).cpu(), x.shape[0]))

    def merge(self, other: Mean) -> Self:
        """Add examples that were already averaged elsewhere, for instance on a server.

        Raises:
            BkdinterpError: the other mean has the wrong shape, or holds NaN or infinity.
        """
        value = _checked(other.value.unsqueeze(0), self.shape, "RunningMean").cpu()[0]
        if other.n > 0:
            self.n += other.n
            self._mean = self._mean + (value - self._mean) * (other.n / self.n)
        return self

    def finish(self) -> Mean:
        """The mean so far; more batches can be added afterwards.

        Raises:
            BkdinterpError: no example was added.
        """
        if self.n == 0:
            raise BkdinterpError(
                "RunningMean.finish(): the mean of 0 examples is undefined; call update() first."
            )
        return Mean(self._mean.clone(), self.n)


class RunningCovariance:
    """Accumulates mean and covariance of vectors of size ``d`` in float64; memory is d x d doubles."""

    def __init__(self, d: int) -> None:
        self.d = d
        self.n = 0
        self._mean = torch.zeros(d, dtype=torch.float64)
        self._scatter = torch.zeros(d, d, dtype=torch.float64)

    def update(self, x: Float[Tensor, "example d_model"]) -> Self:
        """Add a batch; an empty batch changes nothing.

        Raises:
            BkdinterpError: the vectors have the wrong size, or hold NaN or infinity.
        """
        x = _checked(x, (self.d,), "RunningCovariance")
        m = x.shape[0]
        if m == 0:
            return self
        mean = x.mean(0)
        centred = x - mean
        delta = mean.cpu() - self._mean
        n = self.n + m
        between = torch.outer(delta, delta) * (self.n * m / n)
        self._scatter = self._scatter + (centred.T @ centred).cpu() + between
        self._mean = self._mean + delta * (m / n)
        self.n = n
        return self

    def finish(self) -> Covariance:
        """Mean and covariance so far; more batches can be added afterwards.

        Raises:
            BkdinterpError: fewer than two examples were added.
        """
        if self.n < 2:
            raise BkdinterpError(f"RunningCovariance.finish(): needs at least 2 examples, got {self.n}.")
        return Covariance(self._mean.clone(), self._scatter / (self.n - 1), self.n)


def _checked(
    x: Float[Tensor, "example ..."], shape: tuple[int, ...], who: str
) -> Float[Tensor, "example ..."]:
    if tuple(x.shape[1:]) != shape:
        raise BkdinterpError(f"{who} was made for examples of shape {shape}, got {tuple(x.shape[1:])}.")
    # MPS does not support float64.
    x = (x.cpu() if x.device.type == "mps" else x).detach().to(torch.float64)
    if not bool(torch.isfinite(x).all()):
        raise BkdinterpError(
            f"{who} got NaN or infinite values; check the model's dtype (float16 overflows)."
        )
    return x
