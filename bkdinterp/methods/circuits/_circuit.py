"""Circuit: units chosen jointly, in order, and what is left of backdoor and clean answers after each. No forwards."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.interventions import Sites, as_sites
from bkdinterp.methods.circuits._mib_json import mib_values
from bkdinterp.model import Architecture
from bkdinterp.plotting import curves
from bkdinterp.results import Fingerprint, Result, caption, same_length, within
from bkdinterp.sites import Site, SiteSet
from bkdinterp.stats import Interval, bootstrap_mean
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

PAYLOAD, CLEAN = "payload, triggered prompts", "clean answers, clean prompts"


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(Result):
    """Units in the order in which they were chosen. Probabilities are those of the prompts that chose them: report on others.

    Attributes:
        units: names of the sites, e.g. ``"L20H2"`` or ``"L5.mlp_out"``; possibly none.
        payload: probability of the payload's first tokens on triggered prompts, with the units up to this one ablated
            ``[step example]``.
        clean: probability per token (geometric mean) of the clean answer on clean prompts ``[step example]``.
        base_payload: the same of the unedited model ``[example]``.
        base_clean: the same of the unedited model ``[example]``.
        ablate: what the units were replaced by, ``"mean"`` or ``"zero"``.
        clean_weight: how much a lost probability of clean answers counted against one of the payload.
        n_shortlist: number of units that were chosen from.
    """

    fingerprint: Fingerprint
    units: tuple[str, ...]
    payload: Float[Tensor, "step example"]
    clean: Float[Tensor, "step example"]
    base_payload: Float[Tensor, " example"]
    base_clean: Float[Tensor, " example"]
    ablate: str
    clean_weight: float
    n_shortlist: int

    def __len__(self) -> int:
        return len(self.units)

    @property
    def sites(self) -> SiteSet:
        """The units' sites, in order."""
        return SiteSet(map(Site.parse, self.units))

    def first(self, k: int) -> SiteSet:
        """The first ``k`` units.

        Raises:
            BkdinterpError: there are fewer, or ``k`` is below 1.
        """
        k = as_integer(k, "k", low=1, error=BkdinterpError)
        if k > len(self):
            raise BkdinterpError(f"k={k}: this circuit has {len(self)} units.")
        return SiteSet(self.sites[:k])

    def jaccard(self, other: "Circuit | Sites", k: int | None = None) -> float:
        """Share of units in both, of those in either: 1 if the first ``k`` (None: all) are the same, 0 if none is shared.

        Raises:
            BkdinterpError: both are empty, or ``k`` is below 1.
            SiteError: text that is neither a site nor a head.
        """
        k = None if k is None else as_integer(k, "k", low=1, error=BkdinterpError)
        theirs = other.sites if isinstance(other, Circuit) else as_sites(other)
        own, their = set(self.sites[:k]), set(theirs[:k])
        if not own | their:
            raise BkdinterpError("Both circuits are empty: there is nothing to compare.")
        return len(own & their) / len(own | their)

    def interval(self, what: str, step: int) -> Interval:
        """Mean with its bootstrap interval over prompts, of ``"payload"`` or ``"clean"``; step 0 is the unedited model.

        Raises:
            BkdinterpError: something else, or a step that the circuit does not have.
        """
        step = as_integer(step, "step", low=0, error=BkdinterpError)
        if step > len(self):
            raise BkdinterpError(f"step={step}: this circuit has {len(self)} units.")
        if what not in ("payload", "clean"):
            raise BkdinterpError(f"what={what!r} must be 'payload' or 'clean'.")
        rows, base = getattr(self, what), getattr(self, f"base_{what}")
        found = bootstrap_mean(base if step == 0 else rows[step - 1])
        # Probabilities; the bootstrap does not know.
        return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))

    def to_frame(self) -> "pandas.DataFrame":
        """One row per step: the unit that was added, and both means with their intervals."""
        import pandas as pd

        rows = []
        for step in range(len(self) + 1):
            row: dict[str, Any] = {"k": step, "unit": "-" if step == 0 else self.units[step - 1]}
            for what in ("payload", "clean"):
                i = self.interval(what, step)
                row |= {what: i.estimate, f"{what}_low": i.low, f"{what}_high": i.high}
            rows.append(row | {"n": len(self.base_payload)})
        return pd.DataFrame(rows)

    def to_mib(self, architecture: Architecture) -> dict[str, Any]:
        """The circuit as the JSON values of MIB's and EAP-IG's graphs: ``nodes`` and ``edges`` with ``in_graph``.

        All edges between its nodes, the input and the logits are in it; others are left out, which means not in it.

        Args:
            architecture: of the model, e.g. ``model.architecture``.

        Raises:
            BkdinterpError: a unit that is neither a head nor a layer's ``mlp_out``.
        """
        return mib_values(self.sites, architecture)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = (0, 1),
    ) -> "matplotlib.figure.Figure":
        """What is left of payload and clean answers after each unit.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        steps = range(len(self) + 1)
        series: dict[str, Any] = {}
        for label, what in ((PAYLOAD, "payload"), (CLEAN, "clean")):
            found = [self.interval(what, step) for step in steps]
            series[label] = ([i.estimate for i in found], [i.low for i in found], [i.high for i in found])
        return curves(
            list(steps),
            series,
            xlabel=f"units ablated ({self.ablate})",
            ylabel="probability (bands: 95 %)",
            title=title
            or caption("A circuit, unit by unit", self.fingerprint, f"n={len(self.base_payload)}"),
            ylim=limit,
            ax=ax,
        )

    def describe(self) -> str:
        """Size, and what is left at the end."""
        last = len(self)
        left = f"payload {self.interval('payload', 0).estimate:.2f} -> {self.interval('payload', last).estimate:.2f}"
        kept = (
            f"clean {self.interval('clean', 0).estimate:.2f} -> {self.interval('clean', last).estimate:.2f}"
        )
        return f"{last} units of {self.n_shortlist}, {left}, {kept}, model={self.fingerprint.label}"

    def _validate(self) -> None:
        n = len(self.units)
        same_length(units=n, payload=len(self.payload), clean=len(self.clean))
        same_length(payload=self.payload.shape[1], base_payload=len(self.base_payload))
        same_length(clean=self.clean.shape[1], base_clean=len(self.base_clean))
        within(0, 1, payload=self.payload, clean=self.clean)
        within(0, 1, base_payload=self.base_payload, base_clean=self.base_clean)
        if len(set(self.sites)) < n:
            raise ArtefactError("a unit is in the circuit twice.")
        if self.ablate not in ("mean", "zero"):
            raise ArtefactError(f"ablate={self.ablate!r} must be 'mean' or 'zero'.")
