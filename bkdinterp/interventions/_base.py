"""Intervention, the abstract role, and Stack, its composition."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import Any

from bkdinterp.interventions._edit import Edit, check_conflicts
from bkdinterp.reprs import short_repr
from bkdinterp.sites import HeadId, HeadSet, Site

Sites = HeadSet | HeadId | Site | str | Iterable[HeadId | Site | str | tuple[int, int]]


class Intervention(ABC):
    """Something that lowers to edits. ``a + b`` composes where order cannot matter; ``a.then(b)`` states an order."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # @dataclass would put its own repr, with whole tensors in it, over the inherited one.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Intervention.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return short_repr(self) if is_dataclass(self) else f"<{type(self).__name__}>"

    @abstractmethod
    def lower(self) -> tuple[Edit, ...]:
        """The edits, in the order in which they act."""

    def __add__(self, other: "Intervention") -> "Stack":
        if not isinstance(other, Intervention):
            return NotImplemented
        return Stack((*_items(self), *_items(other)))

    def then(self, other: "Intervention") -> "Stack":
        """Both, ``self`` first where they meet (affine composition)."""
        return Stack((self, other), ordered=True)


@dataclass(frozen=True, eq=False)
class Stack(Intervention):
    """Several interventions at once; ``Stack()`` changes nothing.

    Raises:
        SiteConflictError: two items claim the same activation at overlapping tokens, at least one replaces it, and
            no order is stated.
    """

    items: tuple[Intervention, ...] = ()
    ordered: bool = False

    def __post_init__(self) -> None:
        if self.ordered:
            return
        lowered = [item.lower() for item in self.items]
        for i, first in enumerate(lowered):
            for second in lowered[i + 1 :]:
                check_conflicts(first, second)

    def lower(self) -> tuple[Edit, ...]:
        """All items' edits, first item first."""
        return tuple(edit for item in self.items for edit in item.lower())

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        joint = " then " if self.ordered else " + "
        return joint.join(map(str, self.items)) or "unedited"


def _items(intervention: Intervention) -> tuple[Intervention, ...]:
    if isinstance(intervention, Stack) and not intervention.ordered:
        return intervention.items
    return (intervention,)


def as_sites(sites: Sites) -> tuple[Site, ...]:
    """Any spelling of heads or sites to a tuple of distinct sites, order kept.

    Raises:
        SiteError: text that parses as neither a site nor a head.
    """
    if isinstance(sites, HeadSet):
        return sites.sites
    if isinstance(sites, HeadId | Site):
        return (Site.parse(sites),)
    if isinstance(sites, str):
        sites = [part for part in sites.replace(",", " ").split() if part]
    return tuple(dict.fromkeys(Site.parse(HeadId.parse(s) if isinstance(s, tuple) else s) for s in sites))
