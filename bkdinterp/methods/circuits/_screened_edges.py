"""`ScreenedEdges`: linear estimates of all direct paths, exact effects of the best, and an audit of the rest. No forwards."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.methods.attribution._screened_effects import ScreenedEffects
from bkdinterp.methods.circuits._edge_scores import EdgeScores


# A screen draws estimates against exact effects, and has no second result beside it.
@dataclass(frozen=True, eq=False, repr=False)
class ScreenedEdges(ScreenedEffects, EdgeScores):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Effects of all edges, ``[sender receiver example]``: exact where ``verified``, linear estimates elsewhere.

    ``top_k``, ``significant``, ``to_mib``, table and repr name verified edges only. Intervals and p-values are corrected for all
    edges, the estimated ones included, since the verified were chosen among them. What is no edge is NaN and counts nowhere. The
    other fields are as in `EdgeScores`.

    Attributes:
        verified: edges whose effects are exact.
        estimates: mean over examples of each edge's linear estimate, plain and with the norms' scales frozen.
        sampled: flat indices of the verified edges that were drawn at random to audit the rest.
    """

    effects: Float[Tensor, "sender receiver example"]
    units: tuple[str, ...]
    verified: Bool[Tensor, "sender receiver"]
    estimates: Float[Tensor, "2 sender receiver"]
    sampled: Int[Tensor, " sample"]

    def _shape(self) -> str:
        between = f"{self.n_estimated:,} edges between {len(self.units)} units and the logits"
        return f"{between}, {self.n_scored:,} of them verified"
