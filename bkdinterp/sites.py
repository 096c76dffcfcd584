"""Addresses inside a transformer: components, sites, heads, and token positions. No torch, no model.

A `Site` names one activation (layer + component, and a head for ``z`` or a neuron for ``mlp_act``);
a `HeadId` is the short form for heads and parses ``"L12H7"``; a `Where` says at which tokens.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, combinations, product
from math import comb, prod
from typing import TYPE_CHECKING, Any, Literal, Self

from bkdinterp.errors import SiteError
from bkdinterp.reprs import LIMIT, cut
from bkdinterp.values import as_choice, as_flag, as_integer, is_listing, shown


class Component(StrEnum):
    """Which activation of a block. Declared in the order in which one forward pass computes them.

    ``attn_in`` and ``mlp_in`` come after the norm; ``z`` is the per-head input of the attention output
    projection; ``attn_proj`` is that projection's output (the papers' injection point); ``attn_out`` and
    ``mlp_out`` are what is added to the residual stream; ``mlp_act`` are the MLP neurons.
    """

    resid_pre = "resid_pre"
    attn_in = "attn_in"
    z = "z"
    attn_proj = "attn_proj"
    attn_out = "attn_out"
    resid_mid = "resid_mid"
    mlp_in = "mlp_in"
    mlp_act = "mlp_act"
    mlp_out = "mlp_out"
    resid_post = "resid_post"

    @property
    def rank(self) -> int:
        """Position inside the forward pass of one block, 0 first."""
        return _RANK[self]

    def __str__(self) -> str:
        return self.value


_RANK = {component: i for i, component in enumerate(Component)}


@dataclass(frozen=True)
class Site:
    """One activation of one block, or one unit of it: a ``head`` of ``z``, a ``neuron`` of ``mlp_act``.

    Raises:
        SiteError: negative numbers, unknown component, a head on another component than ``z``, or a neuron on
            another than ``mlp_act``.
    """

    if TYPE_CHECKING:
        layer: int
        component: Component
        head: int | None = None
        neuron: int | None = None
    else:  # checked below, with messages of our own
        layer: Any
        component: Any
        head: Any = None
        neuron: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.component, Component):
            object.__setattr__(self, "component", _component(self.component))
        for name in ("layer", "head", "neuron"):
            value = getattr(self, name)
            # Sweeps make sites by the thousand, nearly all of plain ints.
            if (value is None and name != "layer") or (type(value) is int and value >= 0):
                continue
            what = f"{self.component.value} site: {name}"
            object.__setattr__(self, name, as_integer(value, what, low=0, error=SiteError))
        if self.head is not None and self.component is not Component.z:
            raise SiteError(
                f"{self.component.value!r} with head={self.head}: only 'z' (the input of the output projection) is divided "
                "into heads; slicing any other component would cut residual channels, not heads."
            )
        if self.neuron is not None and self.component is not Component.mlp_act:
            raise SiteError(
                f"{self.component.value!r} with neuron={self.neuron}: neurons are channels of "
                "'mlp_act', of no other component."
            )

    @classmethod
    def parse(cls, text: "str | Site | HeadId") -> Self:
        """``"L12.mlp_out"``, ``"L12H7"``, ``"L12N345"`` or ``"L12.z"`` to a site; sites and heads pass through."""
        if isinstance(text, HeadId):
            return cls(text.layer, Component.z, text.head)
        if isinstance(text, Site):
            return cls(text.layer, text.component, text.head, text.neuron)
        if not isinstance(text, str):
            raise SiteError(f"Cannot read {shown(text)} as a site; write it like 'L12.mlp_out' or 'L12H7'.")
        match = re.fullmatch(r"L(\d+)\.([a-z_]+)", text.strip())
        if match:
            return cls(int(match[1]), _component(match[2]))
        match = re.fullmatch(r"[Ll](\d+)[Nn](\d+)", text.strip())
        if match:
            return cls(int(match[1]), Component.mlp_act, neuron=int(match[2]))
        head = HeadId.parse(text)
        return cls(head.layer, Component.z, head.head)

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the moment in the forward pass at which the activation exists."""
        return (self.layer, self.component.rank)

    def overlaps(self, other: "Site") -> bool:
        """Whether both name (partly) the same numbers: ``z`` of L3 overlaps ``z`` of L3H1."""
        same = self.layer == other.layer and self.component is other.component
        # A component is divided into heads or into neurons, never both.
        mine, theirs = (self.head, self.neuron), (other.head, other.neuron)
        whole = (None, None)
        return same and (whole in (mine, theirs) or mine == theirs)

    def __str__(self) -> str:
        if self.head is not None:
            return f"L{self.layer}H{self.head}"
        if self.neuron is not None:
            return f"L{self.layer}N{self.neuron}"
        return f"L{self.layer}.{self.component}"

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"


def _component(name: Any) -> Component:
    try:
        return Component(name)
    except ValueError:
        raise SiteError(f"Unknown component {shown(name)}; choose one of {', '.join(Component)}.") from None


@dataclass(frozen=True, order=True)
class HeadId:
    """One attention head, written ``L12H7`` (both counted from 0).

    Raises:
        SiteError: text that does not parse, or negative numbers.
    """

    if TYPE_CHECKING:
        layer: int
        head: int
    else:  # checked below, with messages of our own
        layer: Any
        head: Any

    def __post_init__(self) -> None:
        for name in ("layer", "head"):
            value = getattr(self, name)
            if type(value) is not int:
                object.__setattr__(self, name, as_integer(value, f"head: {name}", error=SiteError))
        if self.layer < 0 or self.head < 0:
            raise SiteError(f"L{self.layer}H{self.head}: layers and heads count from 0.")

    @classmethod
    def parse(cls, text: "str | HeadId | tuple[int, int]") -> Self:
        """``"L12H7"``, ``(12, 7)`` or a HeadId."""
        if isinstance(text, HeadId):
            return cls(text.layer, text.head)
        if isinstance(text, tuple) and len(text) == 2:
            return cls(*text)
        if isinstance(text, Site) and text.head is not None:
            return cls(text.layer, text.head)
        if not isinstance(text, str):
            raise SiteError(f"Cannot read {shown(text)} as a head; write it like 'L12H7' or (12, 7).")
        match = re.fullmatch(r"[Ll](\d+)[Hh](\d+)", text.strip())
        if match is None:
            raise SiteError(f"Cannot read {shown(text)} as a head; write it like 'L12H7'.")
        return cls(int(match[1]), int(match[2]))

    @property
    def site(self) -> Site:
        """The head's slice of ``z``."""
        return Site(self.layer, Component.z, self.head)

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    def __repr__(self) -> str:
        return f"HeadId({str(self)!r})"


@dataclass(frozen=True)
class HeadSet:
    """An ordered set of heads without repetitions; the order given (e.g. by score) is kept.

    ``grid`` is (n_layers, n_heads) of the model where known: it bounds the heads and lets
    `random_heads` draw. Set algebra (``| & -``) keeps the left operand's order.

    Raises:
        SiteError: a head outside ``grid``.
    """

    if TYPE_CHECKING:
        heads: tuple[HeadId, ...]
        grid: tuple[int, int] | None = None
    else:  # checked below, with messages of our own
        heads: Any
        grid: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.heads, str):
            raise SiteError(
                f"HeadSet takes a tuple of heads; of text, make one with HeadSet.of({self.heads!r})."
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
        """From ``"L1H2, L3H4"``, one head, a HeadSet, or any iterable of these."""
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
        """Layer -> its heads, layers ascending."""
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


class SiteSet(tuple[Site, ...]):
    """Sites in the order given, a tuple that prints as their names: ``L3.mlp_out, L1.mlp_out``."""

    def __str__(self) -> str:
        return ", ".join(map(str, self))

    def __repr__(self) -> str:
        return f"SiteSet({cut(str(self), LIMIT)})"


def random_heads(
    *,
    like: HeadSet,
    n: int,
    seed: int,
    exclude_like: bool = True,
    match: Literal["layer", "any"] | str = "layer",
) -> list[HeadSet]:
    """``n`` different seeded random head sets of the same size as ``like``: the null for a claim about ``like``.

    Heads of late layers move the output more, whatever they carry, so the null has as many heads in each layer as ``like``.

    Args:
        like: the set under test; its ``grid`` says what can be drawn.
        n: how many sets, all different from each other and from ``like``.
        seed: of the draw.
        exclude_like: keep the heads under test out. With ``match="layer"`` as far as a layer has others: where ``like`` holds
            5 of 9, the 4 others and one of the 5 are drawn, which makes the null harder to beat, never easier.
        match: ``"layer"``: as many heads in each layer as ``like``; ``"any"``: from all layers, an easier null where ``like``
            lies in late ones.

    Raises:
        SiteError: ``like`` is empty or has no grid, an unknown ``match``, or there are not ``n`` different sets.
    """
    n, seed = as_integer(n, "n", low=0, error=SiteError), as_integer(seed, "seed", error=SiteError)
    match = as_choice(match, "match", ("layer", "any"), error=SiteError)
    exclude_like = as_flag(exclude_like, "exclude_like", error=SiteError)
    if not isinstance(like, HeadSet):
        raise SiteError(
            f"random_heads needs like=, a HeadSet; got {shown(like)}. Make one with HeadSet.of(heads, grid=...)"
            "; for a vector take random_directions."
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
    # One of the possible draws is ``like`` itself, unless other heads are always among them.
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
        """Whether one of the draws is a part of ``like``."""
        return all(h in like for h in self.first) and sum(h in like for h in self.pool) >= self.k - len(
            self.first
        )

    def draw(self, rng: random.Random) -> tuple[HeadId, ...]:
        return self.first + tuple(rng.sample(self.pool, self.k - len(self.first)))

    def all(self) -> Iterator[tuple[HeadId, ...]]:
        return (self.first + rest for rest in combinations(self.pool, self.k - len(self.first)))


def _different(parts: list[_Part], like: HeadSet, n: int, rng: random.Random, possible: int) -> list[HeadSet]:
    """``n`` sets, none of them twice or equal to ``like``."""
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


@dataclass(frozen=True)
class Where:
    """At which tokens of a row.

    Args:
        prompt: ``"last"`` (last prompt token, template included), ``"trigger"`` (tokens of the trigger's spans),
            ``"all"``, ``"none"``, or indices into the prompt (negative ones count from its end; padding never counts).
        generated: also every token after the last prompt token: target tokens when scoring, decode steps
            when generating.

    Raises:
        SiteError: an unknown word, no index, or a repeated index.
    """

    if TYPE_CHECKING:
        prompt: Literal["last", "trigger", "all", "none"] | tuple[int, ...] = "last"
        generated: bool = False
    else:  # checked below, with messages of our own
        prompt: Any = "last"
        generated: Any = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "generated", as_flag(self.generated, "generated", error=SiteError))
        if isinstance(self.prompt, str):
            if self.prompt not in ("last", "trigger", "all", "none"):
                raise SiteError(
                    f"Unknown position {self.prompt!r}; choose last, trigger, all, none or a tuple of indices."
                )
            if self.prompt == "none" and not self.generated:
                raise SiteError("Where('none') without generated=True selects no token.")
        else:
            if not is_listing(self.prompt):
                raise SiteError(
                    f"Position {shown(self.prompt)} is none of last, trigger, all, none or a tuple of indices; of one index "
                    "make (i,)."
                )
            indices = tuple(as_integer(i, "a position index", error=SiteError) for i in self.prompt)
            object.__setattr__(self, "prompt", indices)
            if not self.prompt or len(set(self.prompt)) != len(self.prompt):
                raise SiteError(f"Position indices must be distinct and at least one; got {self.prompt!r}.")

    @classmethod
    def of(cls, where: "Where | str | Iterable[int]") -> Self:
        """A Where from a Where, a word, or indices."""
        if isinstance(where, Where):
            return cls(where.prompt, where.generated)
        return cls(where)  # type: ignore[arg-type]

    @property
    def single(self) -> bool:
        """Whether exactly one token of each row is selected."""
        return not self.generated and (
            self.prompt == "last" or (isinstance(self.prompt, tuple) and len(self.prompt) == 1)
        )

    def may_overlap(self, other: "Where") -> bool:
        """Whether some row could have a token in both; True when it depends on the prompt."""
        if self.generated and other.generated:
            return True
        a, b = _as_last(self.prompt), _as_last(other.prompt)
        if "none" in (a, b):
            return False
        if isinstance(a, tuple) and isinstance(b, tuple):
            mixed_signs = any((i < 0) != (j < 0) for i in a for j in b)
            return mixed_signs or bool(set(a) & set(b))
        return True

    def __str__(self) -> str:
        name = self.prompt if isinstance(self.prompt, str) else ",".join(map(str, self.prompt))
        return f"{name}+generated" if self.generated else name


def _as_last(prompt: str | tuple[int, ...]) -> str | tuple[int, ...]:
    return (-1,) if prompt == "last" else prompt


WhereLike = Where | str | tuple[int, ...]
"""How users may write positions; ``Where.of`` reads all of them."""
