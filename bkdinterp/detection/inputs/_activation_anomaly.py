"""ActivationAnomaly: is the model's state at the end of a prompt far from where clean prompts leave it?

For each layer, the residual stream at the prompt's last token is compared with that of trusted prompts: by the Mahalanobis
distance with a shrunken covariance (Lee et al. 2018; Ledoit & Wolf 2004), or by z-scores alone. Half of the trusted prompts make
mean and spread; the other half say how large a distance is ordinary in a layer, so that layers can be compared, and a prompt's
score is that of its oddest layer.

Any unusual prompt is far away, not only a triggered one: calibrate on the suspect's own kind of prompts, with `screen_inputs`.
Cost: one forward pass per prompt, without generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection.rows import z_scores
from bkdinterp.engine import Run, execute
from bkdinterp.errors import PromptError
from bkdinterp.interventions import Read
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import Prompts
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site
from bkdinterp.values import as_choice, as_integer, as_texts

Statistic = Literal["mahalanobis", "z"]
# Fewer trusted prompts have no spread to speak of.
LEAST = 16


@dataclass(frozen=True, eq=False)
class ActivationAnomaly:
    """Scores of prompts by their oddest layer.

    Attributes:
        model: the suspect.
        trusted: clean prompts, at least 16; not the ones that thresholds are set on.
        statistic: ``"mahalanobis"``, or ``"z"``: each channel by itself.
        layers: which layers are looked at; None for all.
        folder: activations of the trusted prompts are kept there and taken up again.

    Raises:
        PromptError: too few trusted prompts, an unknown statistic, or a layer that the model does not have.
    """

    __repr__ = short_repr

    model: Model
    trusted: tuple[str, ...]
    statistic: str = "mahalanobis"
    layers: tuple[int, ...] | None = None
    folder: Any = None

    def __post_init__(self) -> None:
        as_model(self.model, "ActivationAnomaly")
        object.__setattr__(self, "trusted", as_texts(self.trusted, "trusted"))
        as_choice(self.statistic, "statistic", get_args(Statistic), error=PromptError)
        if len(self.trusted) < LEAST:
            raise PromptError(f"{len(self.trusted)} trusted prompts are too few; give at least {LEAST}.")
        n = self.model.architecture.n_layers
        layers = range(n) if self.layers is None else self.layers
        chosen = tuple(as_integer(layer, "layers", low=0, high=n - 1, error=PromptError) for layer in layers)
        if not chosen:
            raise PromptError("layers=() names no layer; give some, or None for all.")
        object.__setattr__(self, "layers", chosen)

    @property
    def name(self) -> str:
        """The statistic's name."""
        return "activations, Mahalanobis" if self.statistic == "mahalanobis" else "activations, z-scores"

    def scores(self, texts: Sequence[str], *, folder: str | Path | None = None) -> Float[Tensor, " prompt"]:
        """How many times farther a prompt lies than half of the trusted ones, as a logarithm, in its oddest layer.

        Raises:
            PromptError: no prompt.
        """
        return self.by_layer(texts, folder=folder).max(0).values

    def by_layer(
        self, texts: Sequence[str], *, folder: str | Path | None = None
    ) -> Float[Tensor, "layer prompt"]:
        """The same, for each of the layers.

        Raises:
            PromptError: no prompt.
        """
        found = self._states(as_texts(texts, "texts"), folder)
        fitted, ordinary = self._clean
        rows = [
            np.log(np.maximum(_distance(self.statistic, x, clean), 1e-12) / usual)
            for x, clean, usual in zip(found, fitted, ordinary, strict=True)
        ]
        return torch.from_numpy(np.stack(rows)).float()

    @cached_property
    def _clean(self) -> tuple[list[Float[np.ndarray, "prompt d_model"]], list[float]]:
        """By layer, the states that make mean and spread, and the median distance of the others."""
        states = self._states(self.trusted, self.folder)
        half = len(self.trusted) // 2
        fitted = [x[:half] for x in states]
        usual = [
            max(float(np.median(_distance(self.statistic, x[half:], clean))), 1e-12)
            for x, clean in zip(states, fitted, strict=True)
        ]
        return fitted, usual

    def _states(
        self, texts: Sequence[str], folder: str | Path | None
    ) -> list[Float[np.ndarray, "prompt d_model"]]:
        assert self.layers is not None
        reads = tuple(Read(Site(layer, Component.resid_post), "last") for layer in self.layers)
        (found,) = execute(self.model, [Run(Prompts.of(list(texts)), reads=reads)], folder=folder)
        return [x.double().cpu().numpy() for x in found.reads]


def _distance(
    statistic: str, x: Float[np.ndarray, "prompt d"], clean: Float[np.ndarray, "trusted d"]
) -> Float[np.ndarray, " prompt"]:
    if statistic == "z":
        return z_scores(x, clean)
    from sklearn.covariance import LedoitWolf

    return LedoitWolf().fit(clean).mahalanobis(x)
