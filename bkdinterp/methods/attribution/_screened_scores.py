"""`ScreenedScores`: a screen of all heads, attentions, MLPs or neurons of some layers. No forwards."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError, SiteError
from bkdinterp.methods.attribution._linear_effects import Units
from bkdinterp.methods.attribution._screened_effects import ScreenedEffects
from bkdinterp.methods.attribution._unit_scores import SiteEffects
from bkdinterp.results import check_beside
from bkdinterp.sites import Site


@dataclass(frozen=True, eq=False, repr=False)
class ScreenedScores(ScreenedEffects, SiteEffects):
    """Effects of all units of one kind, flat ``[unit example]``: exact where ``verified``, linear estimates elsewhere.

    ``top_k``, ``significant``, table and repr name verified units only. Intervals and p-values are corrected for all units, the
    estimated ones included, since the verified were chosen among them. The other fields are as in `HeadScores`.

    Attributes:
        kind: ``"heads"``, ``"attentions"``, ``"mlps"`` or ``"neurons"``.
        layers: the layers, ascending; a unit's index counts layer by layer.
        verified: units whose effects are exact.
        estimates: mean over examples of each unit's linear estimate, plain and with the norms' scales frozen.
        sampled: indices of the verified units that were drawn at random to audit the rest.
    """

    unit: ClassVar[str] = "unit"

    effects: Float[Tensor, "unit example"]
    kind: str
    layers: tuple[int, ...]
    verified: Bool[Tensor, " unit"]
    estimates: Float[Tensor, "2 unit"]
    sampled: Int[Tensor, " sample"]

    def _gap(self, beside: Any) -> dict[str, list[float]]:
        for name in ("kind", "layers"):
            check_beside(self, beside, **{name: (getattr(self, name), getattr(beside, name, None))})
        return super()._gap(beside)

    @property
    def _one(self) -> str:
        return self.kind[:-1]

    @property
    def _units(self) -> Units:
        return Units(self.kind, self.layers, len(self.verified) // len(self.layers))

    def _site(self, index: int) -> Site:
        return self._units.site(index)

    def _index(self, unit: Site | str) -> int:
        site = Site.parse(unit)
        index = self._units.index(site)
        if index is None:
            raise SiteError(f"{site}: these are {self.kind} of layers {', '.join(map(str, self.layers))}.")
        return index

    def _place(self, index: int) -> dict[str, Any]:
        site = self._site(index)
        return {"site": str(site), "layer": site.layer}

    def _shape(self) -> str:
        return f"{len(self.verified):,} {self.kind}, {self.n_scored:,} of them verified"

    def _validate(self) -> None:
        n = self.effects.shape[0]
        if not self.layers or n % len(self.layers):
            raise BkdinterpError(f"{n} units do not fill {len(self.layers)} layers.")
        super()._validate()
