"""PCPStudy: all trials of a tuning, and the best of them. No forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from bkdinterp.plotting import curves, ends
from bkdinterp.results import Fingerprint, Result, caption, same_length

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class PCPStudy(Result):
    """All trials of a tuning.

    Attributes:
        factors: ``[trial factor]``, in the order of `names`.
        values: the objective of each trial.
        names: name of each factor: the module and direction that it scales.
        method: ``"grid"`` or ``"tpe"``.
    """

    fingerprint: Fingerprint
    factors: Float[Tensor, "trial factor"]
    values: Float[Tensor, " trial"]
    names: tuple[str, ...]
    method: str

    def _validate(self) -> None:
        same_length(factors=self.factors.shape[1], names=len(self.names))

    @property
    def best(self) -> Float[Tensor, " factor"]:
        """The factors with the smallest objective; the first trial if several are equal."""
        return self.factors[int(self.values.argmin())]

    @property
    def best_value(self) -> float:
        """The smallest objective."""
        return float(self.values.min())

    @property
    def ties(self) -> Float[Tensor, "tie factor"]:
        """The factors of all trials with the smallest objective, `best` first.

        If there are several, the objective does not distinguish them, but other prompts or edits may.
        """
        return self.factors[self.values == self.values.min()]

    def to_frame(self) -> "pandas.DataFrame":
        """One row per trial."""
        import pandas as pd

        columns = {name: self.factors[:, i].tolist() for i, name in enumerate(self.names)}
        return pd.DataFrame({"trial": range(len(self.values)), **columns, "objective": self.values.tolist()})

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """The objective of each trial, and the best so far.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        values, best = self.values, self.values.cummin(0).values
        series = {"trial": (values, None, None), "best so far": (best, None, None)}
        return curves(
            range(1, len(self.values) + 1),
            series,
            xlabel="trial",
            ylabel="objective (smaller is better)",
            title=title or caption(f"Tuning {len(self.names)} factors ({self.method})", self.fingerprint),
            ylim=ends(limit),
            ax=ax,
        )

    def describe(self) -> str:
        """One line with method, number of trials, best factors and objective, and the number of trials that share it."""
        best = ", ".join(f"{name} = {v:.3g}" for name, v in zip(self.names, self.best.tolist(), strict=True))
        shared = f", the first of {n} trials that tie" if (n := len(self.ties)) > 1 else ""
        return f"{self.method}, {len(self.values)} trials, best objective {self.best_value:.3g} at {best}{shared}"
