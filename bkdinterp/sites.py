"""Addresses inside a transformer: components, sites, heads, and token positions. No torch, no model.

A `Site` names one activation (layer + component, and a head for ``z`` or a neuron for ``mlp_act``);
a `HeadId` is the short form for heads and parses ``"L12H7"``; a `Where` says at which tokens.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral
from typing import Literal, Self

from bkdinterp.errors import SiteError
from bkdinterp.reprs import LIMIT, cut


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

    layer: int
    component: Component
    head: int | None = None
    neuron: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.component, Component):
            object.__setattr__(self, "component", _component(self.component))
        for name, value in (("layer", self.layer), ("head", self.head), ("neuron", self.neuron)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, Integral) or value < 0
            ):
                raise SiteError(
                    f"{name}={value!r} of a {self.component.value} site: whole numbers from 0 on."
                )
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


def _component(name: str) -> Component:
    try:
        return Component(name)
    except ValueError:
        raise SiteError(f"Unknown component {name!r}; choose one of {', '.join(Component)}.") from None


@dataclass(frozen=True, order=True)
class HeadId:
    """One attention head, written ``L12H7`` (both counted from 0).

    Raises:
        SiteError: text that does not parse, or negative numbers.
    """

    layer: int
    head: int

    def __post_init__(self) -> None:
        if self.layer < 0 or self.head < 0:
            raise SiteError(f"L{self.layer}H{self.head}: layers and heads count from 0.")

    @classmethod
    def parse(cls, text: "str | HeadId | tuple[int, int]") -> Self:
        """``"L12H7"``, ``(12, 7)`` or a HeadId."""
        if isinstance(text, HeadId):
            return cls(text.layer, text.head)
        if isinstance(text, tuple):
            return cls(*text)
        match = re.fullmatch(r"[Ll](\d+)[Hh](\d+)", text.strip())
        if match is None:
            raise SiteError(f"Cannot read {text!r} as a head; write it like 'L12H7'.")
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

    heads: tuple[HeadId, ...]
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.heads, str):
            raise SiteError(
                f"HeadSet takes a tuple of heads; of text, make one with HeadSet.of({self.heads!r})."
            )
        unique = tuple(dict.fromkeys(HeadId.parse(h) for h in self.heads))
        object.__setattr__(self, "heads", unique)
        if self.grid is not None:
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


def random_heads(*, like: HeadSet, n: int, seed: int, exclude_like: bool = True) -> list[HeadSet]:
    """``n`` seeded random head sets of the same size as ``like``: the null for a claim about ``like``.

    Args:
        like: the set under test; its ``grid`` says what can be drawn.
        n: how many sets.
        seed: of the draw.
        exclude_like: never draw the heads under test.

    Raises:
        SiteError: ``like`` has no grid, or the grid has too few other heads.
    """
    if like.grid is None:
        raise SiteError(
            "random_heads needs like.grid = (n_layers, n_heads); build it with HeadSet.of(heads, grid=...)."
        )
    pool = [HeadId(i, j) for i in range(like.grid[0]) for j in range(like.grid[1])]
    pool = [h for h in pool if not (exclude_like and h in like)]
    if len(pool) < len(like):
        raise SiteError(
            f"Cannot draw {len(like)} heads from the {len(pool)} left; pass exclude_like=False or fewer heads."
        )
    rng = random.Random(seed)
    return [HeadSet(tuple(rng.sample(pool, len(like))), like.grid) for _ in range(n)]


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

    prompt: Literal["last", "trigger", "all", "none"] | tuple[int, ...] = "last"
    generated: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str):
            if self.prompt not in ("last", "trigger", "all", "none"):
                raise SiteError(
                    f"Unknown position {self.prompt!r}; choose last, trigger, all, none or a tuple of indices."
                )
            if self.prompt == "none" and not self.generated:
                raise SiteError("Where('none') without generated=True selects no token.")
        else:
            object.__setattr__(self, "prompt", tuple(int(i) for i in self.prompt))
            if not self.prompt or len(set(self.prompt)) != len(self.prompt):
                raise SiteError(f"Position indices must be distinct and at least one; got {self.prompt!r}.")

    @classmethod
    def of(cls, where: "Where | str | Iterable[int]") -> Self:
        """A Where from a Where, a word, or indices."""
        if isinstance(where, Where):
            return cls(where.prompt, where.generated)
        return cls(where if isinstance(where, str) else tuple(where))  # type: ignore[arg-type]

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
