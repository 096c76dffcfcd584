"""Components, sites, single heads and their spelling (``"L12.mlp_out"``, ``"L12H7"``). No torch, no model."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from bkdinterp.errors import SiteError
from bkdinterp.reprs import LIMIT, cut
from bkdinterp.values import as_integer, shown


class Component(StrEnum):
    """The activations of a block, declared in the order in which a forward pass computes them.

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
        """Position in the forward pass of a block, counted from 0."""
        return _RANK[self]

    def __str__(self) -> str:
        return self.value


_RANK = {component: i for i, component in enumerate(Component)}


@dataclass(frozen=True)
class Site:
    """One activation of a block, or one unit of it: a ``head`` of ``z`` or a ``neuron`` of ``mlp_act``.

    Raises:
        SiteError: negative numbers, an unknown component, a head on a component other than ``z``, or a neuron on one other
            than ``mlp_act``.
    """

    if TYPE_CHECKING:
        layer: int
        component: Component
        head: int | None = None
        neuron: int | None = None
    else:  # checked below, with our own messages
        layer: Any
        component: Any
        head: Any = None
        neuron: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.component, Component):
            object.__setattr__(self, "component", _component(self.component))
        for name in ("layer", "head", "neuron"):
            value = getattr(self, name)
            # Fast path: sweeps make thousands of sites, nearly all from plain ints.
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
                f"{self.component.value!r} with neuron={self.neuron}: only 'mlp_act' has neurons."
            )

    @classmethod
    def parse(cls, text: "str | Site | HeadId") -> Self:
        """A site from ``"L12.mlp_out"``, ``"L12H7"``, ``"L12N345"`` or ``"L12.z"``; also accepts sites and heads."""
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
        """Sort key: the point of the forward pass at which the activation is computed."""
        return (self.layer, self.component.rank)

    def overlaps(self, other: "Site") -> bool:
        """Whether both share some of their numbers: ``z`` of L3 overlaps ``z`` of L3H1."""
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
        SiteError: the text does not parse, or a number is negative.
    """

    if TYPE_CHECKING:
        layer: int
        head: int
    else:  # checked below, with our own messages
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
        """A head from ``"L12H7"``, ``(12, 7)`` or a HeadId."""
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


class SiteSet(tuple[Site, ...]):
    """A tuple of sites that prints as their names: ``L3.mlp_out, L1.mlp_out``."""

    def __str__(self) -> str:
        return ", ".join(map(str, self))

    def __repr__(self) -> str:
        return f"SiteSet({cut(str(self), LIMIT)})"
