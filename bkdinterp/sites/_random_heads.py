"""random_heads(): seeded random sets of heads, the null for a claim about a set. No torch, no model."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, product
from math import comb, prod
from typing import Literal, Self

from bkdinterp.errors import SiteError
from bkdinterp.sites._head_set import HeadSet
from bkdinterp.sites._site import HeadId
from bkdinterp.values import as_choice, as_flag, as_integer, shown


def random_heads(
    *,
    like: HeadSet,
    n: int,
    seed: int,
    exclude_like: bool = True,
    match: Literal["layer", "any"] | str = "layer",
) -> list[HeadSet]:
    """``n`` different random head sets of the size of ``like``: the null for a claim about ``like``.

    Heads of late layers change the output more, whatever they carry. So the null has as many heads per layer as ``like``.

    Args:
        like: the set under test; heads are drawn from its ``grid``.
        n: number of sets, all different from each other and from ``like``.
        seed: seed of the draw.
        exclude_like: do not draw the heads under test. With ``match="layer"`` this holds only while a layer has other
            heads: if ``like`` has 5 of 9, the other 4 and one of the 5 are drawn, which only makes the null harder to beat.
        match: ``"layer"`` draws as many heads in each layer as ``like``; ``"any"`` draws from all layers, which is an easier
            null if ``like`` is in late layers.

    Raises:
        SiteError: ``like`` is empty or has no grid, ``match`` is unknown, or there are fewer than ``n`` different sets.
    """
    n, seed = as_integer(n, "n", low=0, error=SiteError), as_integer(seed, "seed", error=SiteError)
    match = as_choice(match, "match", ("layer", "any"), error=SiteError)
    exclude_like = as_flag(exclude_like, "exclude_like", error=SiteError)
    if not isinstance(like, HeadSet):
        raise SiteError(
            f"random_heads needs like=, a HeadSet; got {shown(like)}. Make one with HeadSet.of(heads, grid=...)"
            "; for a vector use random_directions."
        )
    if like.grid is None:
        raise SiteError(
            "random_heads needs like.grid = (n_layers, n_heads); build it with HeadSet.of(heads, grid=...)."
        )
    if not len(like):
        raise SiteError("random_heads(like=...) is an empty set; there is nothing to compare with.")
    if match == "any":
        pool = [HeadId(i, j) for i in range(like.grid[0]) for j in range(like.grid[1])]
        pool = [h for h in pool if not (exclude_like and h in like)]
        if len(pool) < len(like):
            raise SiteError(
                f"Cannot draw {len(like)} heads from the {len(pool)} left; pass exclude_like=False or fewer heads."
            )
        parts = [_Part((), tuple(pool), len(like))]
    else:
        parts = [
            _Part.of_layer(layer, heads, like.grid[1], exclude_like)
            for layer, heads in like.by_layer().items()
        ]
    # ``like`` itself is one of the possible draws, unless every draw has other heads.
    possible = prod(part.count for part in parts) - all(part.may_be(like) for part in parts)
    if possible < n:
        where = "of as many heads per layer" if match == "layer" else f"of {len(like)} heads"
        fix = "fewer sets, or match='any' to draw from all layers" if match == "layer" else "fewer sets"
        raise SiteError(
            f"There are only {possible} sets {where} that differ from {_listed(like)}, not {n}; ask for {fix}"
            f"{', or pass exclude_like=False.' if exclude_like else '.'}"
        )
    return _different(parts, like, n, random.Random(seed), possible)


@dataclass(frozen=True)
class _Part:
    """A draw of ``k`` heads: all of ``first`` and the rest from ``pool``."""

    first: tuple[HeadId, ...]
    pool: tuple[HeadId, ...]
    k: int

    @classmethod
    def of_layer(cls, layer: int, heads: list[int], n_heads: int, exclude: bool) -> Self:
        own = tuple(HeadId(layer, j) for j in heads)
        others = tuple(HeadId(layer, j) for j in range(n_heads) if j not in heads)
        if not exclude:
            return cls((), tuple(sorted(own + others)), len(own))
        return cls((), others, len(own)) if len(others) >= len(own) else cls(others, own, len(own))

    @property
    def count(self) -> int:
        """Number of possible draws."""
        return comb(len(self.pool), self.k - len(self.first))

    def may_be(self, like: HeadSet) -> bool:
        """Whether a draw can be a subset of ``like``."""
        return all(h in like for h in self.first) and sum(h in like for h in self.pool) >= self.k - len(
            self.first
        )

    def draw(self, rng: random.Random) -> tuple[HeadId, ...]:
        return self.first + tuple(rng.sample(self.pool, self.k - len(self.first)))

    def all(self) -> Iterator[tuple[HeadId, ...]]:
        return (self.first + rest for rest in combinations(self.pool, self.k - len(self.first)))


def _different(parts: list[_Part], like: HeadSet, n: int, rng: random.Random, possible: int) -> list[HeadSet]:
    """``n`` distinct sets, none equal to ``like``."""
    if possible <= 2 * n:
        everything = (
            HeadSet(tuple(chain(*chosen)), like.grid) for chosen in product(*(p.all() for p in parts))
        )
        return rng.sample([s for s in everything if s != like], n)
    found: dict[HeadSet, None] = {}
    while len(found) < n:
        drawn = HeadSet(tuple(chain(*(part.draw(rng) for part in parts))), like.grid)
        if drawn != like:
            found.setdefault(drawn)
    return list(found)


def _listed(heads: HeadSet) -> str:
    text = str(heads)
    return text if len(text) <= 60 else f"{text[:57]}..."
