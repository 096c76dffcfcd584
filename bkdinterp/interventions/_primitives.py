"""The six primitives, a non-affine escape hatch, and the papers' cached head ablation.

Each is one frozen class whose ``lower`` returns edits (design: "The edit"). To add one, write such a class.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.interventions._base import Intervention, Sites, as_sites
from bkdinterp.interventions._edit import BASE, Edit, From, Read, RunLike
from bkdinterp.sites import Component, HeadSet, Site, Where, WhereLike


@runtime_checkable
class SiteValues(Protocol):
    """A mapping from site to tensor: ``Means``, ``Activations``, or a plain dict."""

    def __getitem__(self, site: Site, /) -> Tensor:
        """The site's value."""
        ...


def _lookup(values: SiteValues, site: Site) -> Tensor:
    for key in (site, str(site)):  # a plain dict may go by names
        try:
            return values[key]  # type: ignore[index]
        except (KeyError, AttributeError):
            continue
    raise SiteError(
        f"No value for {site}; collect it first, e.g. Means.collect(model, prompts, {str(site)!r})."
    ) from None


@dataclass(frozen=True, eq=False)
class _OnSites(Intervention):
    """Shared fields of the edits that replace or read whole sites."""

    sites: Sites
    where: WhereLike = field(default=Where("last"), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", as_sites(self.sites))
        object.__setattr__(self, "where", Where.of(self.where))
        if not self.sites:
            raise SiteError(f"{type(self).__name__} needs at least one site; use Stack() to change nothing.")

    def _each(self) -> tuple[Site, ...]:
        return self.sites  # type: ignore[return-value]

    def __str__(self) -> str:
        names = [str(s) for s in self._each()]
        shown = ", ".join(names[:3]) + (f", ... ({len(names)} sites)" if len(names) > 3 else "")
        return f"{type(self).__name__}({shown} @ {self.where})"


@dataclass(frozen=True, eq=False)
class ZeroAblate(_OnSites):
    """Set the activation to zero. On heads (``z``) this is the exact form of the papers' head ablation."""

    def lower(self) -> tuple[Edit, ...]:
        """One replacing edit per site."""
        return tuple(Edit(site, Where.of(self.where), keep=0) for site in self._each())


@dataclass(frozen=True, eq=False)
class MeanAblate(_OnSites):
    """Replace the activation by a mean ``[d]`` (Lamparth & Reuel, section III; use ``Means.collect``)."""

    means: SiteValues = field(default_factory=dict)  # type: ignore[assignment]

    def lower(self) -> tuple[Edit, ...]:
        """One replacing edit per site; raises SiteError for a site without a mean."""
        out = []
        for site in self._each():
            value = _lookup(self.means, site)
            if value.ndim != 1:
                raise SiteError(f"MeanAblate needs a mean of shape [d] for {site}; got {tuple(value.shape)}.")
            if not bool(value.isfinite().all()):
                raise SiteError(f"MeanAblate at {site}: the mean holds NaN or infinity.")
            out.append(Edit(site, Where.of(self.where), keep=0, value=value))
        return tuple(out)


@dataclass(frozen=True, eq=False)
class ResampleAblate(_OnSites):
    """Replace each example's activation by another example's, chosen by a seeded derangement.

    Args:
        sites: what to replace.
        activations: site -> ``[example d]`` or ``[example pos d]``, one row per example of the run.
        seed: of the derangement (no example keeps its own activation).
    """

    activations: SiteValues = field(default_factory=dict)  # type: ignore[assignment]
    seed: int = field(default=0, kw_only=True)

    def lower(self) -> tuple[Edit, ...]:
        """One replacing edit per site; the same derangement for all sites."""
        out = []
        for site in self._each():
            value = _lookup(self.activations, site)
            if value.ndim < 2 or value.shape[0] < 2:
                raise SiteError(
                    f"ResampleAblate needs at least two examples for {site}; got shape {tuple(value.shape)}."
                )
            out.append(
                Edit(
                    site,
                    Where.of(self.where),
                    keep=0,
                    value=value[derangement(value.shape[0], seed=self.seed)],
                )
            )
        return tuple(out)


def derangement(n: int, *, seed: int) -> Tensor:
    """A seeded permutation of ``range(n)`` (n >= 2) without fixed points: each example takes its successor in a random cycle."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = torch.empty(n, dtype=torch.long)
    out[order] = order.roll(1)
    return out


@dataclass(frozen=True, eq=False)
class Patch(_OnSites):
    """Replace the activation by another run's (causal patching).

    Args:
        sites: what to replace.
        source: site -> ``[d]``, ``[example d]`` or ``[example pos d]``; or a ``Run``, whose activation at the same
            sites and tokens is computed in the same plan.
    """

    source: SiteValues | RunLike = field(default_factory=dict)  # type: ignore[assignment]

    def lower(self) -> tuple[Edit, ...]:
        """One replacing edit per site."""
        if hasattr(self.source, "prompts"):
            run: RunLike = self.source  # type: ignore[assignment]
            return tuple(
                Edit(s, Where.of(self.where), keep=0, value=From(run, Read(s, Where.of(self.where))))
                for s in self._each()
            )
        values: SiteValues = self.source  # type: ignore[assignment]
        return tuple(Edit(s, Where.of(self.where), keep=0, value=_lookup(values, s)) for s in self._each())


_LARGEST_FACTOR = (
    1e6  # drowns the rest of a float32 stream; by 1e19 the next norm overflows and every prompt reads alike
)
INPUT_OF = {Component.mlp_out: Component.mlp_in, Component.attn_out: Component.attn_in}


@dataclass(frozen=True, eq=False)
class PCPReplace(Intervention):
    """Replace a module by ``h -> A h``, ``A = sum_i factors_i e_i e_i^T`` (Lamparth & Reuel, Eq. 1).

    ``h`` is the module's own input (after its norm); no bias, the mean is not added back. An attention module
    replaced this way mixes no tokens.

    Args:
        site: an ``mlp_out`` or ``attn_out`` site.
        directions: orthonormal principal directions ``[rank d_model]``.
        factors: scaling factors ``[rank]``, signs allowed, at most 1e6 in size.
        fitted_on: the ``Fingerprint.model`` of the directions; methods refuse the edit on another. None: on any model.
    """

    site: Site | str
    directions: Float[Tensor, "rank d_model"]
    factors: Float[Tensor, " rank"]
    where: WhereLike = field(default=Where("all", generated=True), kw_only=True)
    fitted_on: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        if self._site.component not in INPUT_OF:
            raise SiteError(f"PCPReplace works on mlp_out or attn_out, not on {self._site}.")
        if self.directions.ndim != 2 or self.factors.shape != self.directions.shape[:1]:
            raise SiteError(
                "PCPReplace needs directions [rank d_model] and factors [rank]; "
                f"got {tuple(self.directions.shape)} and {tuple(self.factors.shape)}."
            )
        if not bool(self.directions.isfinite().all()):
            raise SiteError(f"PCPReplace at {self.site}: the directions hold NaN or infinity.")
        if not bool((self.factors.abs() <= _LARGEST_FACTOR).all()):  # NaN is not smaller either
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


@dataclass(frozen=True, eq=False)
class Steer(Intervention):
    """Add ``coeff * vector`` to a site.

    Args:
        site: where to add.
        vector: ``[d]``, or one per example ``[example d]``.
        coeff: multiplies the vector.
    """

    site: Site | str
    vector: Tensor
    coeff: float = 1.0
    where: WhereLike = field(default=Where("last"), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        if not self.vector.isfinite().all():
            raise SiteError(f"Steer at {self.site}: the vector holds NaN or infinity.")

    def lower(self) -> tuple[Edit, ...]:
        """One adding edit."""
        return (Edit(self.site, Where.of(self.where), keep=1, value=self.coeff * self.vector),)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"Steer({self.site}, coeff={self.coeff:g} @ {self.where})"


@dataclass(frozen=True, eq=False)
class CachedAblate(Intervention):
    """The papers' head ablation: subtract, at ``attn_proj``, what the heads wrote in an unedited pass.

    Within one layer this equals ``ZeroAblate(heads)``; across layers it does not, because ablating a lower layer
    changes what the upper heads would have written (BkdAttr code; papers.md deviations). Costs one more forward per
    set of prompts.
    """

    heads: HeadSet | str
    where: WhereLike = field(default=Where("last"), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", HeadSet.of(self.heads))
        object.__setattr__(self, "where", Where.of(self.where))
        if Where.of(self.where).generated:
            raise SiteError(
                "CachedAblate works on prompt tokens only (the papers edit the prefill); drop generated=True."
            )

    def lower(self) -> tuple[Edit, ...]:
        """One adding edit per layer, valued by the unedited run on the same prompts."""
        out = []
        for layer, heads in HeadSet.of(self.heads).by_layer().items():
            site = Site(layer, Component.attn_proj)
            read = Read(site, Where.of(self.where), heads=tuple(heads))
            out.append(Edit(site, Where.of(self.where), keep=1, value=From(BASE, read, scale=-1.0)))
        return tuple(out)

    def __str__(self) -> str:
        return f"CachedAblate({len(HeadSet.of(self.heads))} heads @ {self.where})"


@dataclass(frozen=True, eq=False)
class Apply(_OnSites):
    """Any function of the selected activations, ``[token d] -> [token d]``; for what is not affine.

    ``fn`` must be a plain module-level function (lambdas and decorated functions do not survive the wire).
    """

    fn: Callable[[Tensor], Tensor] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fn is None:
            raise SiteError("Apply needs fn=, a function of the selected activations.")

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site."""
        return tuple(Edit(site, Where.of(self.where), fn=self.fn) for site in self._each())
