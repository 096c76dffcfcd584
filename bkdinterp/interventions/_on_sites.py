"""Shared by the primitives on whole sites: their fields, and the look-up of a site's value."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.interventions._edit import check_value
from bkdinterp.interventions._intervention import Intervention, Sites, as_sites
from bkdinterp.sites import Site, Where, WhereLike


@runtime_checkable
class SiteValues(Protocol):
    """A mapping from site to tensor: ``Means``, ``Activations``, or a plain dict."""

    def __getitem__(self, site: Site, /) -> Tensor:
        """The site's value."""
        ...


def lookup(values: Any, site: Site, who: str, collector: str) -> Tensor:
    """A site's value, looked up by the site or its name.

    Raises:
        SiteError: there is no value, or it is not a tensor of finite numbers.
    """
    for key in (site, str(site)):  # a plain dict may have names as keys
        try:
            value = values[key]
        except (KeyError, AttributeError, TypeError, IndexError):
            continue
        check_value(value, f"{who}: the value of {site}")
        return value
    raise SiteError(
        f"{who}: no value for {site}; collect it first, e.g. {collector.format(repr(str(site)))}."
    ) from None


@dataclass(frozen=True, eq=False, repr=False)
class OnSites(Intervention):
    """Shared fields of the edits that replace or read whole sites."""

    if TYPE_CHECKING:
        sites: Sites
        where: WhereLike = field(default=Where("last"), kw_only=True)
    else:  # checked below, with messages of our own
        sites: Any
        where: Any = field(default=Where("last"), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", as_sites(self.sites))
        object.__setattr__(self, "where", Where.of(self.where))
        if not self.sites:
            raise SiteError(f"{type(self).__name__} needs at least one site; use Stack() to change nothing.")

    def _each(self) -> tuple[Site, ...]:
        return self.sites  # type: ignore[return-value]

    def __str__(self) -> str:
        names = [str(s) for s in self._each()]
        few = ", ".join(names[:3]) + (f", ... ({len(names)} sites)" if len(names) > 3 else "")
        return f"{type(self).__name__}({few} @ {self.where})"
