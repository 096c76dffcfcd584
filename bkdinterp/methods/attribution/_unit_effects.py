"""Effects of single units (heads, layers, neurons) per example: the base of all results of attribution. No forwards.

ACIE, intervals, order and table are computed here from the per-example effects. The concrete classes in ``_unit_scores`` add
names of units and figures. Top units are chosen among all units, so repr, table and figures give simultaneous intervals, and
`Effects.p_adjusted` is corrected for the choice.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError, SiteError
from bkdinterp.metrics import with_unit
from bkdinterp.results import (
    Fingerprint,
    Result,
    beside_names,
    caption,
    check_beside,
    difference_columns,
    model_words,
    same_prompts,
)
from bkdinterp.sites import Where
from bkdinterp.stats import Interval, Simultaneous, adjusted_p, bootstrap_mean, simultaneous
from bkdinterp.values import as_integer, as_number

if TYPE_CHECKING:
    import pandas


DIFFERENCE = "difference (first minus second)"


def strongest_sign(sense: str, direction: str) -> float:
    """1 if the effects that matter most are the largest ones, -1 if they are the most negative; see `Effects.order`."""
    return -1.0 if sense != "distance" and (direction == "denoising") != (sense == "lower") else 1.0


@dataclass(frozen=True, eq=False, repr=False)
class Effects(Result):
    """Effects of single units, per example.

    Attributes:
        effects: change of the metric, examples last; NaN for units that were not scored.
        base: metric of the unedited prompts ``[example]``.
        metric: name of the metric (log-probabilities are in nats).
        sense: which values show the backdoor (see ``bk.Score``): ``"higher"``, ``"lower"`` or ``"distance"``.
        direction: ``"noising"`` (clean prompts were edited) or ``"denoising"`` (triggered prompts were).
        source: source of the patched activation.
        n_source: number of prompts averaged in a patched value; 1 for ``"pair"``.
        where: the patched positions.
        source_where: the positions at which the value was read.
    """

    schema_version: ClassVar[int] = 3
    unit: ClassVar[str] = "unit"

    fingerprint: Fingerprint
    effects: Float[Tensor, "*unit example"]
    base: Float[Tensor, " example"]
    metric: str
    sense: str
    direction: str
    source: str
    n_source: int
    where: Where
    source_where: Where

    @property
    def acie(self) -> Float[Tensor, "*unit"]:
        """Average causal indirect effect: the mean over examples."""
        return self.effects.mean(dim=-1)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.effects.shape[-1]

    @property
    def scored(self) -> Bool[Tensor, "*unit"]:
        """The units that were scored."""
        return ~self.acie.isnan()

    @property
    def n_scored(self) -> int:
        """Number of units that were scored."""
        return int(self.scored.sum())

    def interval(self, unit: Any, *, seed: int = 0) -> Interval:
        """Bootstrap interval over examples of one unit's ACIE, for a unit that was named beforehand.

        For units chosen because their effects are large, use `intervals`, or compute this on new prompts.

        Raises:
            SiteError: the unit was not scored.
        """
        index = self._index(unit)
        if not self.scored.flatten()[index]:
            raise SiteError(f"{self._name(index)} was not scored; ask for its layer in the attribution.")
        return bootstrap_mean(self.effects.flatten(0, -2)[index], seed=seed)

    def intervals(self, *, level: float = 0.95, seed: int = 0) -> Simultaneous:
        """Simultaneous intervals of all scored units, valid also for units chosen by their size; flat unit axis.

        See `bkdinterp.stats.simultaneous`; the figures, the table and the repr use these.

        Raises:
            BkdinterpError: no unit was scored, or ``level`` is outside (0, 1).
        """
        return simultaneous(self.effects.flatten(0, -2), level=level, seed=seed)

    @cached_property
    def p_adjusted(self) -> Float[Tensor, "*unit"]:
        """Two-sided p-value for an effect of 0 for each unit, corrected for all units (step-down max-T over sign flips).

        It is at least 2**(1 - n), so with fewer than 6 examples none can reach .05. See `bkdinterp.stats.adjusted_p`.
        """
        p = adjusted_p(self.effects.flatten(0, -2))
        return torch.from_numpy(p).reshape(self.acie.shape)

    def differing(self, level: float | int = 0.05) -> list[int]:
        """Flat indices of the units whose effect differs from 0, in the order of `order`; possibly empty.

        The probability of naming any unit without an effect is at most ``level``, whether or not others have effects.

        Raises:
            BkdinterpError: ``level`` is outside 0 to 1.
        """
        level = as_number(level, "level", low=0.0, high=1.0)
        p = self.p_adjusted.flatten().tolist()
        return [i for i in self.order() if p[i] <= level]

    def order(self, k: int | None = None) -> list[int]:
        """Flat indices of the ``k`` units that matter most, strongest first; None gives all scored units.

        With noising, these are the units that produce the backdoor's output; with denoising, those that remove it. For a
        metric with sense ``"higher"`` (a log-probability), they have the largest effects when noising and the most negative
        ones when denoising. For ``"lower"`` (a loss) it is the reverse. For a distance from the unedited output (``"kl"``)
        they have the largest effects in both.

        Raises:
            SiteError: ``k`` is outside 1..number of scored units.
        """
        k = self.n_scored if k is None else as_integer(k, "k of top_k", error=SiteError)
        if not 1 <= k <= self.n_scored:
            raise SiteError(f"top_k({k}): choose 1 to {self.n_scored} {self.unit}s.")
        key = strongest_sign(self.sense, self.direction) * self.acie.flatten()
        key = key.masked_fill(~self.scored.flatten(), -torch.inf)
        return key.argsort(descending=True, stable=True)[:k].tolist()

    def to_frame(self, *, beside: "Effects | None" = None) -> "pandas.DataFrame":
        """One row per unit, in the order of `top_k`: name, place, acie, simultaneous interval, adjusted p, std, n.

        ``std`` is the standard deviation over examples.

        Args:
            beside: other scores, e.g. the twin's; adds columns ``beside`` (their acie), ``difference`` and, if both are on
                the same prompts, the ends of the difference's simultaneous interval.

        Raises:
            BkdinterpError: ``beside`` has another kind, metric or number of units.
        """
        import pandas as pd

        found, p = self._simultaneous, self.p_adjusted.flatten().tolist()
        acie, std = self.acie.flatten().tolist(), self.effects.std(dim=-1).flatten().tolist()
        frame = pd.DataFrame(
            [
                self._place(i)
                | {"acie": acie[i], "low": float(found.low[i]), "high": float(found.high[i])}
                | {"p_adjusted": p[i], "std": std[i], "n": self.n}
                for i in self.order()
            ]
        )
        if beside is None:
            return frame
        return frame.assign(
            **{k: [column[i] for i in self.order()] for k, column in self._gap(beside).items()}
        )

    def compare(self, other: Self) -> Self:
        """These effects minus another model's on the same prompts, unit by unit, as a result of the same kind. No forwards.

        So everything that holds for effects holds for the differences: ``to_frame`` has simultaneous intervals, ``top_k`` takes
        the units that matter most *more here than there*, `significant` those that differ (corrected for all units), and
        ``plot`` is the map of differences. ``plot(beside=other)`` draws both models and the difference on one scale. Units
        that one of them did not score are NaN. The fingerprint names both, and is that of no model.

        Args:
            other: e.g. the twin's scores.

        Raises:
            BkdinterpError: ``other`` is of another kind, metric, direction, source or number of units, or on other prompts.
        """
        self._gap(other)
        for name in ("direction", "source"):
            check_beside(self, other, **{name: (getattr(self, name), getattr(other, name))})
        if not same_prompts(self, other) or self.effects.shape != other.effects.shape:
            raise BkdinterpError(
                "compare() pairs the examples, so both scores must be on the same prompts; plot(beside=...) draws others."
            )
        there = other.fingerprint
        words = (there.adapter or model_words(there)).rstrip("/").split("/")[-1]
        here = (self.fingerprint.adapter or "").rstrip("/").split("/")[-1]
        return replace(
            self,
            effects=self.effects - other.effects,
            base=self.base - other.base,
            fingerprint=replace(self.fingerprint, adapter=f"{here} minus {words}".strip()),
        )

    def describe(self) -> str:
        """One line: shape, n, metric, direction, source, the three strongest units with intervals, and the model."""
        first = self.order(min(3, self.n_scored))
        best = ", ".join(
            f"{self._name(i)} {e:+.3f} [{low:+.2f}, {high:+.2f}]"
            for i, e, low, high in zip(first, *self._columns(first), strict=True)
        )
        head = f"{self._shape()}, n={self.n}, {self.metric}, {self.direction}, source={self.source}"
        return f"{head}: {best} (simultaneous 95 %); model={self.fingerprint.label}"

    def _caption(self, what: str, beside: "Effects | None" = None) -> str:
        """A figure's title with unit, direction, source and n, and with the model unless two panels name theirs."""
        details = (self.direction, f"source: {self.source}", f"n={self.n}")
        if beside is not None:
            return f"Causal effect of each {what}\n{', '.join(details)}"
        return caption(f"Causal effect of each {what}", self.fingerprint, *details)

    @property
    def _label(self) -> str:
        """Label of the value axis or of the colours."""
        return f"ACIE ({with_unit(self.metric)})"

    def _gap(self, beside: "Effects") -> dict[str, list[float]]:
        """Differences from another result, by flat unit; raises BkdinterpError if the two cannot be compared."""
        shapes = (tuple(self.acie.shape), tuple(getattr(beside, "acie", self.acie).shape))
        metrics = (self.metric, getattr(beside, "metric", self.metric))
        check_beside(self, beside, metric=metrics, **{f"number of {self.unit}s": shapes})
        own, other = self.effects.flatten(0, -2), beside.effects.flatten(0, -2)
        return difference_columns(own, other, paired=same_prompts(self, beside))

    def _panel_names(self, beside: "Effects") -> tuple[str, str]:
        """Names of both models, and of what else differs."""
        keys = ("component", "layer", "direction", "source", "where", "n")
        here = [k for k in keys if hasattr(self, k)]
        return beside_names(self, beside, **{k: (getattr(self, k), getattr(beside, k)) for k in here})

    def _columns(self, indices: list[int]) -> tuple[list[float], list[float], list[float]]:
        """Estimates, lower and upper ends of the simultaneous intervals of some units."""
        found = self._simultaneous
        return found.estimate[indices].tolist(), found.low[indices].tolist(), found.high[indices].tolist()

    @cached_property
    def _simultaneous(self) -> Simultaneous:
        return self.intervals()

    @abstractmethod
    def _index(self, unit: Any) -> int:
        """Flat index of a unit given by the user; raises SiteError if it does not exist."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """Name of a unit."""

    @abstractmethod
    def _place(self, index: int) -> dict[str, Any]:
        """A unit's columns in the table."""

    @abstractmethod
    def _shape(self) -> str:
        """Number and kind of units, for the repr."""
