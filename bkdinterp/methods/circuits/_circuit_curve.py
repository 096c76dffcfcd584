"""CircuitCurve: how much of the backdoor's effect growing sets of units carry, alone and left out. No forwards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.plotting import curves
from bkdinterp.results import Fingerprint, Result, caption
from bkdinterp.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Below this the patched units change the metric too little for a share to say anything.
LEAST_EFFECT = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class CircuitCurve(Result):
    """The metric with the first k units of each ranking patched, and with all units but these.

        f(k) = (m(first k units) - m(nothing)) / (m(all units) - m(nothing))

    f is 0 for nothing, 1 for all heads and MLPs; it can exceed 1 and be negative. `cpr` is its mean over the sizes' range (area
    under f, higher is better), `cmd` that of its distance from 1 (lower is better): Mueller et al. 2025 (MIB, arXiv 2504.13151),
    sec. 3, here per share of the range, so that it does not depend on the largest size.

    Attributes:
        sizes: numbers of units ``[size]``, ascending.
        inside: ranking -> metric with its first k units patched ``[size example]``.
        outside: ranking -> metric with all other heads and MLPs patched ``[size example]``.
        nothing: metric unedited ``[example]``.
        whole: metric with all heads and MLPs patched ``[example]``.
        metric: name of the score.
        direction: ``"noising"`` or ``"denoising"``, as in `Attribution`.
        n_units: number of heads and MLPs.
    """

    fingerprint: Fingerprint
    sizes: Int[Tensor, " size"]
    inside: dict[str, Float[Tensor, "size example"]]
    outside: dict[str, Float[Tensor, "size example"]]
    nothing: Float[Tensor, " example"]
    whole: Float[Tensor, " example"]
    metric: str
    direction: str
    n_units: int

    @property
    def names(self) -> tuple[str, ...]:
        """The rankings."""
        return tuple(self.inside)

    def f(self, ranking: str) -> list[Interval]:
        """Share of the whole effect for each size, with its interval over prompts (linearised ratio of means).

        Raises:
            BkdinterpError: an unknown ranking, or an effect of all units that is nearly 0.
        """
        if ranking not in self.inside:
            raise BkdinterpError(f"No ranking {ranking!r}; there are {', '.join(self.inside)}.")
        return [self._share(row) for row in self.inside[ranking]]

    def kept(self, ranking: str) -> list[Interval]:
        """Share of the whole effect that all units but the first k carry, for each size: what the circuit is not needed for."""
        self.f(ranking)
        return [self._share(row) for row in self.outside[ranking]]

    def cpr(self, ranking: str) -> float:
        """Mean of f over sizes from 0 to the largest (trapezoids)."""
        return self._area([i.estimate for i in self.f(ranking)], 0.0)

    def cmd(self, ranking: str) -> float:
        """Mean of the distance of f from 1 over sizes from 0 to the largest (trapezoids)."""
        return self._area([abs(1 - i.estimate) for i in self.f(ranking)], 1.0)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per ranking and size."""
        import pandas as pd

        rows = []
        for name in self.names:
            for k, own, rest in zip(self.sizes.tolist(), self.f(name), self.kept(name), strict=True):
                row = {"ranking": name, "k": k, "f": own.estimate, "f_low": own.low, "f_high": own.high}
                row |= {"without": rest.estimate, "without_low": rest.low, "without_high": rest.high}
                rows.append(row | {"n": own.n})
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        faint: tuple[str, ...] = (),
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """f of every ranking over the number of units.

        Args:
            faint: rankings that are nulls, drawn grey.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        series: dict[str, Any] = {}
        for name in self.names:
            found = self.f(name)
            columns = [i.estimate for i in found], [i.low for i in found], [i.high for i in found]
            series[name] = (columns[0], None, None) if name in faint else columns
        return curves(
            self.sizes.tolist(),
            series,
            xlabel="units patched",
            ylabel="share of the whole effect (bands: 95 %)",
            title=title or caption(f"Circuits, {self.direction}", self.fingerprint, f"n={len(self.nothing)}"),
            faint=faint,
            ylim=limit,
            ax=ax,
        )

    def describe(self) -> str:
        """CPR and CMD of every ranking."""
        each = ", ".join(f"{name} CPR {self.cpr(name):.2f} CMD {self.cmd(name):.2f}" for name in self.names)
        return f"up to {int(self.sizes[-1])} of {self.n_units} units, {each}, model={self.fingerprint.label}"

    def _share(self, row: Float[Tensor, " example"]) -> Interval:
        whole = self.whole.double() - self.nothing.double()
        own, scale = row.double() - self.nothing.double(), float(whole.mean())
        if abs(scale) < LEAST_EFFECT:
            raise BkdinterpError(
                f"Patching all heads and MLPs changes {self.metric} by {scale:.2g} only: there is no effect to share out."
            )
        share = float(own.mean()) / scale
        # The interval of mean(own) / mean(whole), whose error is that of mean(own - share x whole).
        error = bootstrap_mean(own - share * whole)
        low, high = sorted((share + error.low / scale, share + error.high / scale))
        return Interval(share, low, high, len(own), "linearised ratio", error.level)

    def _area(self, values: list[float], first: float) -> float:
        x = torch.cat([torch.zeros(1), self.sizes.double()])
        return float(torch.trapezoid(torch.tensor([first, *values]).double(), x) / x[-1])

    def _validate(self) -> None:
        sizes = self.sizes.tolist()
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] > self.n_units:
            raise ArtefactError(
                f"sizes {sizes} must ascend from 1 to at most the number of units, {self.n_units}."
            )
        if not self.inside or set(self.inside) != set(self.outside):
            raise ArtefactError("inside and outside must hold the same rankings, at least one.")
        shape = (len(sizes), len(self.nothing))
        for rows in (*self.inside.values(), *self.outside.values()):
            if tuple(rows.shape) != shape or not bool(rows.isfinite().all()):
                raise ArtefactError(f"every ranking needs finite values of shape {list(shape)}.")
        if self.whole.shape != self.nothing.shape or not len(self.nothing):
            raise ArtefactError("whole and nothing must hold the same prompts, at least one.")
