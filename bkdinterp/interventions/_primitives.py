"""The primitives on whole sites: zero, scale, mean, resample and patch; and Apply for any other function.

Each is one frozen class whose ``lower`` returns edits. To add a primitive, write such a class.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.interventions._edit import Edit, From, Read, RunLike
from bkdinterp.interventions._on_sites import OnSites, SiteValues, lookup
from bkdinterp.sites import Site, Where
from bkdinterp.values import as_integer, as_number, as_seed, shown


@dataclass(frozen=True, eq=False, repr=False)
class ZeroAblate(OnSites):
    """Set the activation to zero. On heads (``z``) this is the papers' head ablation, in exact form."""

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site that replaces the activation."""
        return tuple(Edit(site, Where.of(self.where), keep=0) for site in self._each())


@dataclass(frozen=True, eq=False, repr=False)
class Scale(OnSites):
    """Multiply the activation: ``x <- factor * x``. On heads (``z``) it weakens or amplifies what they write.

    A factor of 0 is `ZeroAblate`, 1 changes nothing, and a negative one reverses the direction.

    Args:
        sites: what to scale.
        factor: a finite number.

    Raises:
        SiteError: the factor is not a finite number.
    """

    if TYPE_CHECKING:
        factor: float | int
    else:  # checked below, with messages of our own
        factor: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factor", as_number(self.factor, "Scale.factor", error=SiteError))

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site that keeps ``factor`` of the activation."""
        return tuple(Edit(site, Where.of(self.where), keep=self.factor) for site in self._each())

    def __str__(self) -> str:
        return f"{super().__str__()[:-1]}, factor={self.factor:g})"


@dataclass(frozen=True, eq=False, repr=False)
class MeanAblate(OnSites):
    """Replace the activation by a mean ``[d]`` (Lamparth & Reuel, section III).

    Args:
        sites: what to replace.
        means: site -> ``[d]``, e.g. ``Means.collect(model, prompts, sites)``.

    Raises:
        SiteError: there are no means, or a site's mean is missing or not a finite ``[d]``.
    """

    if TYPE_CHECKING:
        means: SiteValues = field(default_factory=dict)  # type: ignore[assignment]
    else:
        means: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for site in self._each():
            self._mean(site)

    def _mean(self, site: Site) -> Tensor:
        value = lookup(self.means, site, "MeanAblate", "means=Means.collect(model, prompts, {})")
        if value.ndim != 1:
            raise SiteError(f"MeanAblate needs a mean of shape [d] for {site}; got {tuple(value.shape)}.")
        return value

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site that replaces the activation."""
        where = Where.of(self.where)
        return tuple(Edit(site, where, keep=0, value=self._mean(site)) for site in self._each())


@dataclass(frozen=True, eq=False, repr=False)
class ResampleAblate(OnSites):
    """Replace each example's activation by another example's, chosen by a seeded derangement.

    Args:
        sites: what to replace.
        activations: site -> ``[example d]`` or ``[example pos d]``, one row per example of the run.
        seed: seed of the derangement, in which no example keeps its own activation.

    Raises:
        SiteError: no activations, a site without activations, fewer than two examples, or NaN outside padding.
    """

    if TYPE_CHECKING:
        activations: SiteValues = field(default_factory=dict)  # type: ignore[assignment]
        seed: int = field(default=0, kw_only=True)
    else:
        activations: Any = None
        seed: Any = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", as_seed(self.seed, error=SiteError))
        for site in self._each():
            self._values(site)

    def _values(self, site: Site) -> Tensor:
        value = lookup(
            self.activations, site, "ResampleAblate", "activations=Activations.collect(model, prompts, {})"
        )
        if value.ndim < 2 or value.shape[0] < 2:
            raise SiteError(
                f"ResampleAblate needs at least two examples for {site}; got shape {tuple(value.shape)}."
            )
        return value

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site that replaces the activation; all sites share the derangement."""
        out = []
        for site in self._each():
            value = self._values(site)
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
    """A seeded permutation of ``range(n)`` without fixed points: each example takes the next one in a random cycle.

    Raises:
        SiteError: ``n`` is below 2, so that no such permutation exists.
    """
    n, seed = as_integer(n, "n", low=2, error=SiteError), as_seed(seed, error=SiteError)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = torch.empty(n, dtype=torch.long)
    out[order] = order.roll(1)
    return out


@dataclass(frozen=True, eq=False, repr=False)
class Patch(OnSites):
    """Replace the activation by another run's (causal patching).

    Args:
        sites: what to replace.
        source: site -> ``[d]``, ``[example d]`` or ``[example pos d]``; or a ``Run``, whose activation at the same
            sites and tokens is computed in the same plan.

    Raises:
        SiteError: no source, a site without a value, or a value with NaN outside padding.
    """

    if TYPE_CHECKING:
        source: SiteValues | RunLike = field(default_factory=dict)  # type: ignore[assignment]
    else:
        source: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.source, "prompts"):
            for site in self._each():
                self._value(site)

    def _value(self, site: Site) -> Tensor:
        return lookup(
            self.source, site, "Patch", "source=Run(prompts), or Activations.collect(model, prompts, {})"
        )

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site that replaces the activation."""
        where = Where.of(self.where)
        if hasattr(self.source, "prompts"):
            run: RunLike = self.source  # type: ignore[assignment]
            return tuple(Edit(s, where, keep=0, value=From(run, Read(s, where))) for s in self._each())
        return tuple(Edit(s, where, keep=0, value=self._value(s)) for s in self._each())


@dataclass(frozen=True, eq=False, repr=False)
class Apply(OnSites):
    """Apply any function of the selected activations, ``[token d] -> [token d]``; for edits that are not affine.

    ``fn`` must be a plain module-level function: lambdas and decorated functions cannot be sent to a server.
    """

    if TYPE_CHECKING:
        fn: Callable[[Tensor], Tensor] | None = field(default=None)
    else:
        fn: Any = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.fn):
            raise SiteError(f"Apply needs fn=, a function of the selected activations; got {shown(self.fn)}.")

    def lower(self) -> tuple[Edit, ...]:
        """One edit per site."""
        return tuple(Edit(site, Where.of(self.where), fn=self.fn) for site in self._each())
