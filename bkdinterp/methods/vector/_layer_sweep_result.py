"""LayerSweep: the effect of a vector at each layer, and the choice of a layer. No forward pass here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.results import Fingerprint, Result, check_beside, difference_columns, same_prompts
from bkdinterp.stats import Comparison, Interval, simultaneous, wilson

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import plotly.graph_objects

PAYLOAD_RATE = "payload_rate"
LEVEL = 0.95


def choose_layer(
    values: Sequence[Sequence[float | int]],
    direction: str,
    kept: Sequence[Sequence[float | int]] | None = None,
    sense: str = "higher",
) -> int:
    """Index of the best layer; when subtracting, ties are broken by how much of the right answers is kept.

    If every layer removes the payload, an early layer may do so by breaking the text (as in BkdAttr's sweep; docs, papers).

    Args:
        values: values of each layer on the same prompts: payload found (0 or 1), or a score.
        direction: ``"add"`` takes the layer with most of the backdoor, ``"subtract"`` the one with least.
        kept: how much of the right answers each layer keeps on the same prompts; used to break ties when subtracting. Among
            the remaining layers, and when adding, the first is taken.
        sense: which values show the backdoor, see `bkdinterp.Score`; for a distance the layer with the largest effect is
            taken in both directions.
    """
    sign = 1.0 if takes_smallest(direction, sense) else -1.0
    means = [sign * fmean(row) for row in values]
    if direction == "add":
        return means.index(min(means))
    order = [(mean, -fmean(kept[i]) if kept is not None else 0.0) for i, mean in enumerate(means)]
    return order.index(min(order))


def takes_smallest(direction: str, sense: str) -> bool:
    """Whether the best layer is the one with the smallest mean."""
    return sense != "distance" and (direction == "subtract") != (sense == "lower")


@dataclass(frozen=True, eq=False, repr=False)
class LayerSweep(Result):
    """Effect of a vector at each layer on the prompts that choose the layer; report its effect on other prompts.

    Intervals are simultaneous for all layers, so that the interval of the best layer covers although it was chosen.

    Attributes:
        layers: the layers that were tried ``[layer]``.
        values: values per example ``[layer example]``: payload found (0 or 1), or the score of the target.
        base: the same without the vector ``[example]``.
        by: name of the values: ``"payload_rate"`` or a score.
        direction: add (on clean prompts) or subtract (on triggered ones).
        coeff: factor of the vector.
        kept: word F1 of the outputs with the references, if outputs were generated when subtracting: how much of the right
            answers is kept; None otherwise.
        nulls: the same as ``values`` for each control vector ``[control layer example]``; empty without controls.
        first_token_only: whether the score uses only the target's first token.
        sense: which values show the backdoor (see ``bk.Score``); ``"higher"`` for payload rates.
    """

    schema_version: ClassVar[int] = 2

    fingerprint: Fingerprint
    layers: Int[Tensor, " layer"]
    values: Float[Tensor, "layer example"]
    base: Float[Tensor, " example"]
    by: str
    direction: str
    coeff: float
    kept: Float[Tensor, "layer example"] | None
    nulls: Float[Tensor, "control layer example"]
    first_token_only: bool
    sense: str = "higher"

    def _validate(self) -> None:
        whole = torch.cat([self.values, self.base[None]])
        if 0 in self.values.shape or not bool(whole.isfinite().all()):
            raise ArtefactError("values and base must be finite numbers, at least one of each layer.")
        if self._rates and not bool(((whole == 0) | (whole == 1)).all()):
            raise ArtefactError("payloads are 0 or 1.")
        if self.direction not in ("add", "subtract"):
            raise ArtefactError(f"direction {self.direction!r} must be 'add' or 'subtract'.")

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.values.shape[1]

    @property
    def best(self) -> int:
        """The layer with most of the backdoor when adding, or least when subtracting (see `choose_layer`).

        When subtracting, ties go to the layer whose outputs keep most of the references (`kept`), then to the first.
        """
        return int(self.layers[self._best])

    @property
    def best_interval(self) -> Interval:
        """The best layer's mean on these prompts, with an interval corrected for the choice among the tried layers.

        These prompts also chose it, so report the layer on others: ``evaluate(..., under=vector.add(sweep.best))``.
        """
        return self.intervals()[self._best]

    def intervals(self, level: float = LEVEL) -> list[Interval]:
        """Simultaneous intervals of all layers' means: Wilson's with Bonferroni correction for rates, max-t for scores.

        Raises:
            BkdinterpError: ``level`` is outside (0, 1).
        """
        if self._rates:
            # Check before the correction, which could move an invalid level into (0, 1).
            corrected = 1 - (1 - level) / len(self.layers) if 0 < level < 1 else level
            found_each = [wilson(int(row.sum()), self.n, corrected) for row in self.values]
            return [replace(ci, level=level, method="bonferroni wilson") for ci in found_each]
        found = simultaneous(self.values, level=level)
        return [found.interval(i) for i in range(len(self.layers))]

    @property
    def comparison(self) -> Comparison:
        """Comparison of the vector at its best layer with each control at that control's own best layer.

        Raises:
            BkdinterpError: the sweep has no controls.
        """
        if not len(self.nulls):
            raise BkdinterpError(
                "This sweep has no controls; give sweep_layers(controls=random_directions(like=vector, n=20, seed=0))."
            )
        chosen = [choose_layer(control.tolist(), self.direction, sense=self.sense) for control in self.nulls]
        return Comparison.of(
            self.values[self._best],
            [control[i] for control, i in zip(self.nulls, chosen, strict=True)],
            name=f"layer {self.best}",
            null_names=[f"control {c + 1} at layer {int(self.layers[i])}" for c, i in enumerate(chosen)],
            side="less" if takes_smallest(self.direction, self.sense) else "greater",
        )

    def to_frame(self, *, beside: "LayerSweep | None" = None) -> "pandas.DataFrame":
        """One row per layer: mean and simultaneous interval, n, whether it is the best, what was kept, and the controls.

        Args:
            beside: another sweep, e.g. on the twin; adds columns ``beside`` (its mean), ``difference`` and, if both are
                on the same prompts, the ends of the difference's simultaneous interval.

        Raises:
            BkdinterpError: ``beside`` has other layers, another score or another direction.
        """
        if beside is not None:
            return self.to_frame().assign(**self._gap(beside))
        import pandas as pd

        rows = []
        for i, interval in enumerate(self.intervals()):
            row: dict[str, Any] = {"layer": int(self.layers[i]), "mean": interval.estimate}
            row |= {"low": interval.low, "high": interval.high, "n": self.n, "best": i == self._best}
            if self.kept is not None:
                row["kept"] = float(self.kept[i].mean())
            if len(self.nulls):
                means = self.nulls[:, i].mean(-1)
                row |= {"control_mean": float(means.mean()), "control_low": float(means.min())}
                row |= {"control_high": float(means.max())}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        beside: "LayerSweep | None" = None,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Curve over layers with simultaneous intervals, the chosen layer marked and the unedited model as a band.

        With controls, their median and, as a grey band, their range at each layer.

        Args:
            beside: another sweep, e.g. on the twin, drawn on the same scale.
            title: replaces the default title.
            ax: matplotlib axes to draw into, a list of two with ``beside``; None makes a figure.
            limit: ends (low, high) of the value axis.

        Raises:
            BkdinterpError: ``beside`` has other layers, another score or another direction.
        """
        from bkdinterp.methods.vector._sweep_figures import plot_sweep

        if beside is not None:
            self._gap(beside)
        return plot_sweep(self, beside, title, ax, limit)

    def hover(
        self,
        *,
        beside: "LayerSweep | None" = None,
        title: str | None = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each layer says its row of `to_frame`; of the controls, mean and range are drawn.

        Args:
            beside: another sweep, e.g. on the twin, drawn on the same scale.
            title: replaces the default title.
            limit: ends (low, high) of the value axis.

        Raises:
            BkdinterpError: plotly is missing, or ``beside`` has other layers, another score or another direction.
        """
        from bkdinterp.methods.vector._sweep_figures import hover_sweep

        return hover_sweep(self, beside, title, limit)

    def describe(self) -> str:
        """One line with direction, criterion, best layer and its interval, controls, n and model."""
        first = ", first token only" if self.first_token_only else ""
        tried = f"of {len(self.layers)} tried"
        head = f"{self.direction} by {self.by}{first}: best layer {self.best} ({tried}) {self.best_interval}"
        if len(self.nulls):
            claim = self.comparison
            head += f", p={claim.p:.2g} against {claim.n_nulls} controls at their best layers"
        return f"{head}, model={self.fingerprint.label}"

    @property
    def _best(self) -> int:
        kept = None if self.kept is None else self.kept.tolist()
        return choose_layer(self.values.tolist(), self.direction, kept, self.sense)

    def _gap(self, beside: "LayerSweep") -> dict[str, list[float]]:
        """Columns with the other sweep's means and the differences."""
        words = {"score": "by", "direction": "direction"}
        same = {word: (getattr(self, k), getattr(beside, k, getattr(self, k))) for word, k in words.items()}
        layers = (self.layers.tolist(), getattr(beside, "layers", self.layers).tolist())
        check_beside(self, beside, **same, **{"set of layers": layers})
        return difference_columns(self.values, beside.values, paired=same_prompts(self, beside))

    @property
    def _rates(self) -> bool:
        return self.by == PAYLOAD_RATE


def no_nulls(values: Float[Tensor, "layer example"]) -> Float[Tensor, "control layer example"]:
    """The field ``nulls`` of a sweep without controls."""
    return torch.empty(0, *values.shape, dtype=values.dtype)
