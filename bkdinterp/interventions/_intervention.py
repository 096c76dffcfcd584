"""Intervention, the abstract base class, and Stack, the composition of several."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import SiteError
from bkdinterp.interventions._edit import Edit, check_conflicts
from bkdinterp.reprs import short_repr
from bkdinterp.sites import HeadId, HeadSet, Site
from bkdinterp.values import is_listing, shown

Sites = HeadSet | HeadId | Site | str | Iterable[HeadId | Site | str | tuple[int, int]]


class Intervention(ABC):
    """Anything that lowers to edits. ``a + b`` composes if the order cannot matter; ``a.then(b)`` states an order."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Otherwise @dataclass would replace the inherited repr by its own, which prints whole tensors.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = super(cls, cls).__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        if type(self).__str__ is not object.__str__:
            return str(self)
        return short_repr(self) if is_dataclass(self) else f"<{type(self).__name__}>"

    @abstractmethod
    def lower(self) -> tuple[Edit, ...]:
        """The edits, in the order in which they are applied."""

    def __add__(self, other: "Intervention") -> "Stack":
        if not isinstance(other, Intervention):
            return NotImplemented
        return Stack((*_items(self), *_items(other)))

    def then(self, other: "Intervention") -> "Stack":
        """Both interventions; where they overlap, ``self`` is applied first (affine composition)."""
        return Stack((self, other), ordered=True)


def lowered(intervention: Any) -> tuple[Edit, ...]:
    """The edits that an intervention lowers to, checked.

    Raises:
        SiteError: the value is not an intervention, or its ``lower`` does not return a tuple of edits.
    """
    if not isinstance(intervention, Intervention):
        raise SiteError(
            f"{shown(intervention)} ({type(intervention).__name__}) is not an intervention; give one, e.g. ZeroAblate('L1H2')."
        )
    edits = intervention.lower()
    if not isinstance(edits, tuple | list) or not all(isinstance(edit, Edit) for edit in edits):
        fix = "return (edit,), a tuple of one" if isinstance(edits, Edit) else "return a tuple of Edits"
        raise SiteError(f"{type(intervention).__name__}.lower() returned {shown(edits)}; {fix}.")
    return tuple(edits)


@dataclass(frozen=True, eq=False, repr=False)
class Stack(Intervention):
    """Several interventions at once; ``Stack()`` changes nothing.

    Raises:
        SiteError: an item is not an intervention.
        SiteConflictError: two items edit the same activation at overlapping tokens, at least one replaces it, and no
            order is stated.
    """

    if TYPE_CHECKING:
        items: tuple[Intervention, ...] = ()
        ordered: bool = False
    else:  # checked below, with our own messages
        items: Any = ()
        ordered: Any = False

    def __post_init__(self) -> None:
        if isinstance(self.ordered, Intervention) or isinstance(self.items, Intervention):
            raise SiteError("Stack takes a tuple of interventions: Stack((a, b)), or a + b.")
        if isinstance(self.items, str) or not isinstance(self.items, Iterable):
            raise SiteError(f"Stack takes a tuple of interventions; got {shown(self.items)}.")
        object.__setattr__(self, "items", tuple(self.items))
        for item in self.items:
            if not isinstance(item, Intervention):
                raise SiteError(f"Stack takes interventions; got {shown(item)} ({type(item).__name__}).")
        if self.ordered:
            return
        groups = [lowered(item) for item in self.items]
        for i, first in enumerate(groups):
            for second in groups[i + 1 :]:
                check_conflicts(first, second)

    def lower(self) -> tuple[Edit, ...]:
        """The edits of all items, in order."""
        return tuple(edit for item in self.items for edit in lowered(item))

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        joint = " then " if self.ordered else " + "
        return joint.join(map(str, self.items)) or "unedited"

    def __repr__(self) -> str:
        parts = [str(item) for item in self.items[:3]]
        parts += [f"... ({len(self)} items)"] * (len(self) > 3) + ["ordered"] * bool(self.ordered)
        return f"Stack({', '.join(parts)})"


def _items(intervention: Intervention) -> tuple[Intervention, ...]:
    if isinstance(intervention, Stack) and not intervention.ordered:
        return intervention.items
    return (intervention,)


def as_sites(sites: Sites) -> tuple[Site, ...]:
    """Convert any spelling of heads or sites to a tuple of distinct sites, in order.

    Raises:
        SiteError: text that is neither a site nor a head.
    """
    if isinstance(sites, HeadSet):
        return sites.sites
    if isinstance(sites, HeadId | Site):
        return (Site.parse(sites),)
    if isinstance(sites, str):
        sites = [part for part in sites.replace(",", " ").split() if part]
    if not is_listing(sites):
        raise SiteError(f"Cannot read {shown(sites)} as sites; write them like 'L12.mlp_out L3H4'.")
    return tuple(dict.fromkeys(Site.parse(HeadId.parse(s) if isinstance(s, tuple) else s) for s in sites))
