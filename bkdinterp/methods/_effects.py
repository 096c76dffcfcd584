"""Effects of single units (heads, layers, neurons) per example: what every kind of attribution returns. No forwards.

ACIE, intervals, order and table derive from the per-example effects here; what a unit is called, and how the whole is
drawn, the concrete classes say (``_scores``).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.results import Fingerprint, Result
from bkdinterp.sites import Where
from bkdinterp.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Effects(Result):
    """Effects of single units, per example.

    Attributes:
        effects: change of the metric, examples last; NaN for units that were not asked for.
        base: metric of the unedited prompts ``[example]``.
        metric: its name (log-probabilities in nats).
        sense: which values of it mean more of the backdoor (see ``bk.Score``): ``"higher"``, ``"lower"`` or ``"distance"``.
        direction: ``"noising"`` (clean prompts were edited) or ``"denoising"`` (triggered prompts were).
        source: whose activation was patched in.
        n_source: prompts behind one patched value: those of the mean, 1 for ``"pair"``.
        where: the patched positions.
        source_where: the positions that the value was read at.
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
    def n_scored(self) -> int:
        """Number of units that were scored."""
        return int((~self.acie.isnan()).sum())

    def interval(self, unit: Any, *, seed: int = 0) -> Interval:
        """Bootstrap interval of one unit's ACIE over examples; SiteError if it was not scored."""
        row = self.effects.flatten(0, -2)[self._index(unit)]
        if row.isnan().any():
            raise SiteError(
                f"{self._name(self._index(unit))} was not scored; ask for its layer in the attribution."
            )
        return bootstrap_mean(row, seed=seed)

    def order(self, k: int | None = None) -> list[int]:
        """Flat indices of the ``k`` units that matter most (None: all scored ones), first the strongest.

        Noising asks which units bring the backdoor about, denoising which take it away. Of a metric whose higher values mean
        more of it (a log-probability) these have the largest and the most negative effects, of one whose lower values do (a
        loss) the most negative and the largest; of a distance from the unedited output (``"kl"``) the largest in both.

        Raises:
            SiteError: ``k`` outside 1..number of scored units.
        """
        k = self.n_scored if k is None else k
        if not 1 <= k <= self.n_scored:
            raise SiteError(f"top_k({k}): choose 1 to {self.n_scored} {self.unit}s.")
        sign = (
            -1.0
            if self.sense != "distance" and (self.direction == "denoising") != (self.sense == "lower")
            else 1.0
        )
        key = (sign * self.acie.flatten()).nan_to_num(nan=-torch.inf)
        return key.argsort(descending=True, stable=True)[:k].tolist()

    def to_frame(self) -> "pandas.DataFrame":
        """One row per unit: name, place, acie, standard deviation over examples, n; in the order of `top_k`."""
        import pandas as pd

        acie, std = self.acie.flatten().tolist(), self.effects.std(dim=-1).flatten().tolist()
        return pd.DataFrame(
            [self._place(i) | {"acie": acie[i], "std": std[i], "n": self.n} for i in self.order()]
        )

    def describe(self) -> str:
        """Shape, n, metric, direction and source, the three strongest units and the model."""
        acie = self.acie.flatten()
        best = ", ".join(f"{self._name(i)} {acie[i]:+.3f}" for i in self.order(min(3, self.n_scored)))
        head = f"{self._shape()}, n={self.n}, {self.metric}, {self.direction}, source={self.source}"
        return f"{head}: {best}; model={self.fingerprint.label}"

    def _caption(self, what: str) -> str:
        """A figure's title: what, which direction and source, n."""
        return f"Causal effect of each {what}\n{self.direction}, source: {self.source}, n={self.n}"

    def _columns(self, indices: list[int]) -> tuple[list[float], list[float], list[float]]:
        """Estimates, lower and upper ends of the intervals of some units."""
        flat = self.effects.flatten(0, -2)
        found = [bootstrap_mean(flat[i]) for i in indices]
        return [c.estimate for c in found], [c.low for c in found], [c.high for c in found]

    @abstractmethod
    def _index(self, unit: Any) -> int:
        """Flat index of a unit that a user named; SiteError if there is none."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """What a unit is called."""

    @abstractmethod
    def _place(self, index: int) -> dict[str, Any]:
        """A unit's columns in the table."""

    @abstractmethod
    def _shape(self) -> str:
        """How many units of what, for the repr."""
