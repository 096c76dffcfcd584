"""Which class, if any, has a trigger that is too small: judged by clean models of other seeds, not by a constant.

Some classes are easier to reach than others in every clean model, and the most extreme of ten classes always looks extreme.
So each class is compared with itself in the null models, and the judge asks how often a clean model's MOST extreme class goes
as far. Costs no forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection.images._cleanse import ReversedTriggers
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.reprs import short_repr
from bkdinterp.results import Fingerprint, Result, caption, within
from bkdinterp.stats import Comparison, p_value
from bkdinterp.values import as_number

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False)
class TriggerNull:
    """Sizes of reversed triggers in clean models, each class by itself.

    Attributes:
        log_sizes: natural logarithm of each null model's sizes.
    """

    __repr__ = short_repr

    log_sizes: Float[Tensor, "model d_class"]

    @classmethod
    def fit(cls, clean: Sequence[ReversedTriggers]) -> Self:
        """From searches, with the same settings, in clean models of other seeds; 19 are the fewest that can reach p = .05.

        Raises:
            BkdinterpError: fewer than three, or with other numbers of classes.
        """
        if len(clean) < 3 or len({len(c.sizes) for c in clean}) > 1:
            raise BkdinterpError("A null needs at least three clean models with the same classes.")
        return cls(torch.stack([c.sizes for c in clean]).double().log())

    def deviations(self, sizes: Float[Tensor, " d_class"]) -> Float[Tensor, " d_class"]:
        """How much smaller each class's trigger is than in the null models, in their standard deviations.

        The median over the classes is taken away first: a model that is fragile in all classes is no backdoored one.
        """
        return _deviations(sizes.double().log(), self.log_sizes)

    @property
    def extremes(self) -> Float[Tensor, " model"]:
        """The largest deviation of each null model, seen from the others."""
        rows = range(len(self.log_sizes))
        others = [self.log_sizes[[j for j in rows if j != i]] for i in rows]
        return torch.stack([_deviations(self.log_sizes[i], others[i]).max() for i in rows])

    def judge(self, found: ReversedTriggers, *, level: float | int = 0.05) -> "ImageVerdict":
        """p of each class, and those at or below ``level``: in so many clean models any class would be named.

        Raises:
            BkdinterpError: another number of classes, or a level that so few null models cannot reach.
        """
        level = as_number(level, "level", low=0, high=1)
        n = len(self.log_sizes)
        if len(found.sizes) != self.log_sizes.shape[1]:
            raise BkdinterpError(f"{len(found.sizes)} classes; the null has {self.log_sizes.shape[1]}.")
        if level < 1 / (n + 1):
            raise BkdinterpError(
                f"{n} null models give no p below {1 / (n + 1):.3f}; level={level:g} needs more."
            )
        scores, extremes = self.deviations(found.sizes), self.extremes
        p = torch.tensor([p_value(float(s), extremes) for s in scores], dtype=torch.float64)
        return ImageVerdict(found.fingerprint, scores, extremes, p, level)


@dataclass(frozen=True, eq=False, repr=False)
class ImageVerdict(Result):
    """Each class's deviation and p, corrected for the number of classes.

    Attributes:
        scores: deviation of each class.
        extremes: the largest deviation of each null model.
        p: share of null models, this one counted as one more, whose most extreme class goes as far.
        level: at which classes are named.
    """

    fingerprint: Fingerprint
    scores: Float[Tensor, " d_class"]
    extremes: Float[Tensor, " model"]
    p: Float[Tensor, " d_class"]
    level: float

    def _validate(self) -> None:
        if not len(self.scores) or not len(self.extremes):
            raise ArtefactError("there are no classes, or no clean models, in it.")
        within(None, None, scores=self.scores, extremes=self.extremes)
        within(0, 1, p=self.p, level=self.level)

    @property
    def named(self) -> tuple[int, ...]:
        """Classes that a backdoor leads into, most extreme first; none where nothing goes beyond the null."""
        order = torch.argsort(-self.scores).tolist()
        return tuple(i for i in order if self.p[i] <= self.level)

    @property
    def comparison(self) -> Comparison:
        """The most extreme class beside the null models' most extreme ones."""
        name = f"class {int(self.scores.argmax())}"
        return Comparison.of(float(self.scores.max()), self.extremes.tolist(), name=name)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per class: deviation, p, whether it is named."""
        import pandas as pd

        named = [i in self.named for i in range(len(self.p))]
        return pd.DataFrame(
            {
                "class": range(len(self.p)),
                "deviation": self.scores.tolist(),
                "p": self.p.tolist(),
                "named": named,
            }
        )

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Deviation of each class beside the most extreme classes of the null models, up to their quantile at 1 - level.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        extremes = self.extremes.double().numpy()
        band = float(extremes.min()), float(np.quantile(extremes, 1 - self.level))
        return bar_intervals(
            [str(i) for i in range(len(self.scores))],
            self.scores.tolist(),
            xlabel="how much smaller the trigger is than in clean models (their standard deviations)",
            ylabel="class",
            title=title
            or caption("Is the trigger into a class smaller than in any clean model?", self.fingerprint),
            null=band,
            null_label=f"most extreme class of each of {len(extremes)} clean models, the lower {100 * (1 - self.level):.3g} %",
            notes=[f"p={p:.2g}" for p in self.p.tolist()],
            xlim=ends(limit),
            ax=ax,
        )

    def describe(self) -> str:
        """What is named, the smallest p, number of null models."""
        what = f"names {', '.join(map(str, self.named))}" if self.named else "names no class"
        return f"{what}, p={float(self.p.min()):.2g} against {len(self.extremes)} clean models, model={self.fingerprint.label}"


def _deviations(
    log_sizes: Float[Tensor, " d_class"], null: Float[Tensor, "model d_class"]
) -> Float[Tensor, " d_class"]:
    centre = null.mean(0)
    smaller, null_smaller = centre - log_sizes, centre - null
    # Spread of what is left when each model's own level is taken away; pooled over classes, as three models say little of one.
    left = null_smaller - null_smaller.median(1, keepdim=True).values
    spread = left.square().mean().sqrt().clamp_min(1e-12)
    return (smaller - smaller.median()) / spread
