"""Primitives with directions: replace a module by its principal directions, add a vector, subtract heads' outputs."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.interventions._edit import BASE, Edit, From, Read, check_value
from bkdinterp.interventions._intervention import Intervention
from bkdinterp.sites import Component, HeadSet, Site, Where, WhereLike
from bkdinterp.values import as_number, as_text, shown

_LARGEST_FACTOR = 1e6  # swamps the rest of a float32 residual stream; at 1e19 the next norm overflows and all prompts look alike
INPUT_OF = {Component.mlp_out: Component.mlp_in, Component.attn_out: Component.attn_in}


@dataclass(frozen=True, eq=False, repr=False)
class PCPReplace(Intervention):
    """Replace a module by ``h -> A h``, ``A = sum_i factors_i e_i e_i^T`` (Lamparth & Reuel, Eq. 1).

    ``h`` is the module's own input (after its norm). There is no bias, and the mean is not added back. An attention
    module replaced in this way does not mix tokens.

    Args:
        site: an ``mlp_out`` or ``attn_out`` site.
        directions: orthonormal principal directions ``[rank d_model]``.
        factors: scaling factors ``[rank]``, of either sign, with absolute values of at most 1e6.
        fitted_on: ``Fingerprint.model`` of the directions; methods refuse the edit on another model. None allows any.
    """

    if TYPE_CHECKING:
        site: Site | str
        directions: Float[Tensor, "rank d_model"]
        factors: Float[Tensor, " rank"]
        where: WhereLike = field(default=Where("all", generated=True), kw_only=True)
        fitted_on: str | None = field(default=None, kw_only=True)
    else:  # checked below, with messages of our own
        site: Any
        directions: Any
        factors: Any
        where: Any = field(default=Where("all", generated=True), kw_only=True)
        fitted_on: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        if self._site.component not in INPUT_OF:
            raise SiteError(f"PCPReplace works on mlp_out or attn_out, not on {self._site}.")
        for name in ("directions", "factors"):
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                raise SiteError(
                    f"PCPReplace.{name} must be a tensor; got {shown(value)} ({type(value).__name__})."
                )
        if self.fitted_on is not None:
            object.__setattr__(self, "fitted_on", as_text(self.fitted_on, "fitted_on", error=SiteError))
        if self.directions.ndim != 2 or self.factors.shape != self.directions.shape[:1]:
            raise SiteError(
                "PCPReplace needs directions [rank d_model] and factors [rank]; "
                f"got {tuple(self.directions.shape)} and {tuple(self.factors.shape)}."
            )
        if not bool(self.directions.isfinite().all()):
            raise SiteError(f"PCPReplace at {self.site}: the directions hold NaN or infinity.")
        if not bool((self.factors.abs() <= _LARGEST_FACTOR).all()):  # also catches NaN
            raise SiteError(
                f"PCPReplace at {self.site}: factors {self.factors.tolist()} must be finite and at most "
                f"{_LARGEST_FACTOR:g} in size."
            )

    @property
    def _site(self) -> Site:
        return self.site  # type: ignore[return-value]

    def lower(self) -> tuple[Edit, ...]:
        """One replacing edit with ``U = E S`` and ``V = E``."""
        e = self.directions.T
        return (
            Edit(
                self._site,
                Where.of(self.where),
                keep=0,
                read=INPUT_OF[self._site.component],
                U=e * self.factors,
                V=e,
            ),
        )

    def __str__(self) -> str:
        return f"PCPReplace({self.site}, rank {self.factors.shape[0]})"


@dataclass(frozen=True, eq=False, repr=False)
class Steer(Intervention):
    """Add ``coeff * vector`` to a site.

    Args:
        site: where to add.
        vector: ``[d]``, or one per example ``[example d]``.
        coeff: multiplies the vector.

    Raises:
        SiteError: the vector is not a finite tensor of these shapes, or the coefficient is not a finite number.
    """

    if TYPE_CHECKING:
        site: Site | str
        vector: Tensor
        coeff: float | int = 1.0
        where: WhereLike = field(default=Where("last"), kw_only=True)
    else:  # checked below, with messages of our own
        site: Any
        vector: Any
        coeff: Any = 1.0
        where: Any = field(default=Where("last"), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        object.__setattr__(self, "coeff", as_number(self.coeff, "Steer.coeff", error=SiteError))
        check_value(self.vector, f"Steer at {self.site}: the vector")
        if self.vector.ndim not in (1, 2, 3):
            raise SiteError(
                f"Steer at {self.site}: the vector must be [d] or [example d]; got {tuple(self.vector.shape)}."
            )

    def lower(self) -> tuple[Edit, ...]:
        """One edit that adds."""
        return (Edit(self.site, Where.of(self.where), keep=1, value=self.coeff * self.vector),)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"Steer({self.site}, coeff={self.coeff:g} @ {self.where})"


@dataclass(frozen=True, eq=False, repr=False)
class CachedAblate(Intervention):
    """The papers' head ablation: subtract, at ``attn_proj``, the heads' outputs of an unedited pass.

    Within one layer this equals ``ZeroAblate(heads)``; across layers it does not, because ablating a lower layer
    changes what the upper heads would have written (BkdAttr's code; docs/papers.md, Deviations). Costs one more forward per
    set of prompts.
    """

    if TYPE_CHECKING:
        heads: HeadSet | str
        where: WhereLike = field(default=Where("last"), kw_only=True)
    else:  # checked below, with messages of our own
        heads: Any
        where: Any = field(default=Where("last"), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", HeadSet.of(self.heads))
        object.__setattr__(self, "where", Where.of(self.where))
        if not len(HeadSet.of(self.heads)):
            raise SiteError("CachedAblate needs at least one head; use Stack() to change nothing.")
        if Where.of(self.where).generated:
            raise SiteError(
                "CachedAblate works on prompt tokens only (the papers edit the prefill); drop generated=True."
            )

    def lower(self) -> tuple[Edit, ...]:
        """One edit per layer that adds a value from the unedited run on the same prompts."""
        out = []
        for layer, heads in HeadSet.of(self.heads).by_layer().items():
            site = Site(layer, Component.attn_proj)
            read = Read(site, Where.of(self.where), heads=tuple(heads))
            out.append(Edit(site, Where.of(self.where), keep=1, value=From(BASE, read, scale=-1.0)))
        return tuple(out)

    def __str__(self) -> str:
        return f"CachedAblate({len(HeadSet.of(self.heads))} heads @ {self.where})"
