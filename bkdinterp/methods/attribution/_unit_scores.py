"""What attribution returns: `HeadScores`, `LayerScores` (MLPs, attentions, residual streams), `NeuronScores`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.methods.attribution._unit_effects import Effects
from bkdinterp.plotting import bar_intervals, curves, heatmap
from bkdinterp.sites import Component, HeadId, HeadSet, Site, SiteSet

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Effects):
    """Effects of single heads, per example ``[layer head example]``; NaN for layers that were not asked for.

    The other fields are those of every kind of scores: ``base`` (metric of the unedited prompts), ``metric``,
    ``direction``, ``source``, ``n_source`` (prompts behind a patched value), ``where``, ``source_where``.
    """

    unit: ClassVar[str] = "head"

    effects: Float[Tensor, "layer head example"]

    @property
    def grid(self) -> tuple[int, int]:
        """(n_layers, n_heads)."""
        return self.effects.shape[0], self.effects.shape[1]

    def top_k(self, k: int) -> HeadSet:
        """The ``k`` heads that matter most, first the strongest: signed, see `order`.

        Raises:
            SiteError: ``k`` outside 1..number of scored heads.
        """
        return HeadSet(tuple(self._head(i) for i in self.order(k)), self.grid)

    def significant(self, level: float | int = 0.05) -> HeadSet:
        """The heads whose effect differs from 0, first the strongest; possibly none.

        Corrected for the number of heads: the chance of any false one is at most ``level`` (`p_adjusted`).

        Raises:
            BkdinterpError: ``level`` outside 0 to 1.
        """
        return HeadSet(tuple(self._head(i) for i in self.differing(level)), self.grid)

    def plot(self, *, marks: int = 8, limit: float | None = None) -> "matplotlib.figure.Figure":
        """Heatmap layer x head of the ACIE.

        Args:
            marks: so many of the strongest heads are outlined; dotted: not `significant`.
            limit: the colour scale is [-limit, limit]; give the same to compare figures.
        """
        top = list(self.top_k(min(marks, self.n_scored))) if marks else []
        sure = set(self.significant()) if marks else set()
        doubtful = [head for head in top if head not in sure]
        title = self._caption("head")
        if marks:
            boxes = f"boxes: the {len(top)} strongest" + (", dotted: may be 0" if doubtful else "")
            title += f"\n{len(sure)} of {self.n_scored} differ from 0; {boxes}"
        label = f"ACIE ({self.metric})"
        return heatmap(self.acie, title=title, label=label, marks=top, dotted=doubtful, limit=limit)

    def _head(self, index: int) -> HeadId:
        return HeadId(*divmod(index, self.grid[1]))

    def _index(self, unit: HeadId | str | tuple[int, int]) -> int:
        head = HeadId.parse(unit)
        HeadSet((head,), self.grid)
        return head.layer * self.grid[1] + head.head

    def _name(self, index: int) -> str:
        return str(self._head(index))

    def _place(self, index: int) -> dict[str, Any]:
        head = self._head(index)
        return {"head": str(head), "layer": head.layer, "index": head.head}

    def _shape(self) -> str:
        layers, heads = self.grid
        some = "" if self.n_scored == layers * heads else f"{self.n_scored} heads of "
        return f"{some}{layers} x {heads}"


@dataclass(frozen=True, eq=False, repr=False)
class LayerScores(Effects):
    """Effects of one activation per layer, per example ``[layer example]``; NaN for layers that were not asked for.

    ``component`` says which activation: ``mlp_out``, ``attn_out`` or ``resid_post``. The other fields are as in
    `HeadScores`.
    """

    unit: ClassVar[str] = "layer"

    effects: Float[Tensor, "layer example"]
    component: Component

    def top_k(self, k: int) -> SiteSet:
        """The sites of the ``k`` layers that matter most, first the strongest: signed, see `order`.

        Raises:
            SiteError: ``k`` outside 1..number of scored layers.
        """
        return SiteSet(Site(i, self.component) for i in self.order(k))

    def significant(self, level: float | int = 0.05) -> tuple[Site, ...]:
        """The layers whose effect differs from 0, first the strongest; possibly none.

        Corrected for the number of layers: the chance of any false one is at most ``level`` (`p_adjusted`).

        Raises:
            BkdinterpError: ``level`` outside 0 to 1.
        """
        return tuple(Site(i, self.component) for i in self.differing(level))

    def plot(self) -> "matplotlib.figure.Figure":
        """ACIE over layers with simultaneous intervals."""
        layers = sorted(self.order())
        return curves(
            layers,
            {str(self.component): self._columns(layers)},
            xlabel="layer",
            ylabel=f"ACIE ({self.metric})",
            title=self._caption(f"layer's {self.component}"),
        )

    def _index(self, unit: int | Site | str) -> int:
        site = Site(unit, self.component) if isinstance(unit, int) else Site.parse(unit)
        if site != Site(site.layer, self.component) or site.layer >= self.effects.shape[0]:
            last = self.effects.shape[0] - 1
            raise SiteError(f"{site}: these are scores of {self.component} in layers 0 to {last}.")
        return site.layer

    def _name(self, index: int) -> str:
        return str(Site(index, self.component))

    def _place(self, index: int) -> dict[str, Any]:
        return {"site": self._name(index), "layer": index}

    def _shape(self) -> str:
        return f"{self.component} of {self.n_scored} layers"


@dataclass(frozen=True, eq=False, repr=False)
class NeuronScores(Effects):
    """Effects of the single MLP neurons of one ``layer``, per example ``[d_mlp example]``; NaN if not asked for.

    The other fields are as in `HeadScores`.
    """

    unit: ClassVar[str] = "neuron"

    effects: Float[Tensor, "d_mlp example"]
    layer: int

    def top_k(self, k: int) -> SiteSet:
        """The sites of the ``k`` neurons that matter most, first the strongest: signed, see `order`.

        Raises:
            SiteError: ``k`` outside 1..number of scored neurons.
        """
        return SiteSet(self._site(i) for i in self.order(k))

    def significant(self, level: float | int = 0.05) -> tuple[Site, ...]:
        """The neurons whose effect differs from 0, first the strongest; possibly none.

        Corrected for the number of neurons: the chance of any false one is at most ``level`` (`p_adjusted`).

        Raises:
            BkdinterpError: ``level`` outside 0 to 1.
        """
        return tuple(self._site(i) for i in self.differing(level))

    def plot(self, *, k: int = 20) -> "matplotlib.figure.Figure":
        """The ``k`` strongest neurons as bars with simultaneous intervals."""
        indices = self.order(min(k, self.n_scored))
        return bar_intervals(
            [self._name(i) for i in indices],
            *self._columns(indices),
            xlabel=f"ACIE ({self.metric})",
            title=self._caption("neuron") + f"; the first {len(indices)} of {self.n_scored}",
        )

    def _site(self, index: int) -> Site:
        return Site(self.layer, Component.mlp_act, neuron=index)

    def _index(self, unit: int | Site | str) -> int:
        site = self._site(unit) if isinstance(unit, int) else Site.parse(unit)
        n = self.effects.shape[0]
        if site.layer != self.layer or site.neuron is None or site.neuron >= n:
            raise SiteError(
                f"{site}: these are scores of the neurons L{self.layer}N0 to L{self.layer}N{n - 1}."
            )
        return site.neuron

    def _name(self, index: int) -> str:
        return str(self._site(index))

    def _place(self, index: int) -> dict[str, Any]:
        return {"neuron": self._name(index), "layer": self.layer, "index": index}

    def _shape(self) -> str:
        return f"{self.n_scored} neurons of layer {self.layer}"
