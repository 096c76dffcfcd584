"""HeadSet: an ordered set of heads, with set algebra. No torch, no model."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from bkdinterp.errors import SiteError
from bkdinterp.reprs import LIMIT, cut
from bkdinterp.sites._site import HeadId, Site
from bkdinterp.values import as_integer, is_listing, shown


@dataclass(frozen=True)
class HeadSet:
    """An ordered set of heads without repetitions; keeps the given order, e.g. by score.

    ``grid`` is the model's (n_layers, n_heads), if known. Heads must lie in it, and `random_heads` needs it to draw. Set
    algebra (``| & -``) keeps the order of the left operand.

    Raises:
        SiteError: a head is outside ``grid``.
    """

    if TYPE_CHECKING:
        heads: tuple[HeadId, ...]
        grid: tuple[int, int] | None = None
    else:  # checked below, with our own messages
        heads: Any
        grid: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.heads, str):
            raise SiteError(
                f"HeadSet takes a tuple of heads; make one from text with HeadSet.of({self.heads!r})."
            )
        if not isinstance(self.heads, Iterable):
            raise SiteError(f"HeadSet takes a tuple of heads; got {shown(self.heads)}.")
        unique = tuple(dict.fromkeys(HeadId.parse(h) for h in self.heads))
        object.__setattr__(self, "heads", unique)
        if self.grid is not None:
            if not isinstance(self.grid, tuple | list) or len(self.grid) != 2:
                raise SiteError(f"grid must be (n_layers, n_heads); got {shown(self.grid)}.")
            grid = tuple(as_integer(n, "grid", low=1, error=SiteError) for n in self.grid)
            object.__setattr__(self, "grid", grid)
            for h in unique:
                if h.layer >= self.grid[0] or h.head >= self.grid[1]:
                    raise SiteError(
                        f"Head {h} is out of range: the model has {self.grid[0]} layers of {self.grid[1]} heads."
                    )

    @classmethod
    def of(
        cls,
        heads: "HeadSet | HeadId | str | Iterable[HeadId | str | tuple[int, int]]",
        grid: tuple[int, int] | None = None,
    ) -> Self:
        """Make one from ``"L1H2, L3H4"``, one head, a HeadSet, or any iterable of these."""
        if isinstance(heads, HeadSet):
            return cls(heads.heads, grid or heads.grid)
        if isinstance(heads, HeadId):
            return cls((heads,), grid)
        if isinstance(heads, str):
            heads = [part for part in re.split(r"[\s,;]+", heads) if part]
        if not is_listing(heads):
            raise SiteError(f"Cannot read {shown(heads)} as heads; write them like 'L1H2, L3H4'.")
        return cls(tuple(HeadId.parse(h) for h in heads), grid)

    def by_layer(self) -> dict[int, list[int]]:
        """Layer -> its heads, in ascending order of layers."""
        out: dict[int, list[int]] = {}
        for h in sorted(self.heads):
            out.setdefault(h.layer, []).append(h.head)
        return out

    @property
    def sites(self) -> tuple[Site, ...]:
        """The heads' slices of ``z``, in this set's order."""
        return tuple(h.site for h in self.heads)

    def __or__(self, other: "HeadSet") -> Self:
        return type(self)(self.heads + other.heads, self.grid or other.grid)

    def __and__(self, other: "HeadSet") -> Self:
        return type(self)(tuple(h for h in self.heads if h in set(other.heads)), self.grid)

    def __sub__(self, other: "HeadSet") -> Self:
        return type(self)(tuple(h for h in self.heads if h not in set(other.heads)), self.grid)

    def __contains__(self, head: object) -> bool:
        return (HeadId.parse(head) if isinstance(head, str | tuple) else head) in self.heads

    def __iter__(self) -> Iterator[HeadId]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadSet) and set(self.heads) == set(other.heads)

    def __hash__(self) -> int:
        return hash(frozenset(self.heads))

    def __str__(self) -> str:
        return ", ".join(map(str, self.heads))

    def __repr__(self) -> str:
        return f"HeadSet({cut(str(self), LIMIT)})"
