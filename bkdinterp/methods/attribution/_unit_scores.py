"""Results of attribution: `HeadScores`, `LayerScores` (MLPs, attentions, residual streams) and `NeuronScores`."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteError
from bkdinterp.methods.attribution._hover_effects import hover_heads, hover_layers, hover_neurons
from bkdinterp.methods.attribution._unit_effects import DIFFERENCE, Effects
from bkdinterp.plotting import bar_intervals, ends, heatmap, layer_bars, panels
from bkdinterp.sites import Component, HeadId, HeadSet, Site, SiteSet

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

INTERVALS = "simultaneous 95 % intervals"
SomeHeads = HeadSet | HeadId | str | Iterable[HeadId | str | tuple[int, int]]
Marked = SomeHeads | Mapping[str, SomeHeads]


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Effects):
    """Effects of single heads, per example ``[layer head example]``; NaN for layers that were not scored.

    The other fields are those of all scores: ``base`` (metric of the unedited prompts), ``metric``, ``direction``,
    ``source``, ``n_source`` (number of prompts averaged in a patched value), ``where``, ``source_where``.
    """

    unit: ClassVar[str] = "head"

    effects: Float[Tensor, "layer head example"]

    @property
    def grid(self) -> tuple[int, int]:
        """(n_layers, n_heads)."""
        return self.effects.shape[0], self.effects.shape[1]

    def top_k(self, k: int) -> HeadSet:
        """The ``k`` heads that matter most, strongest first; for the sign see `order`.

        Raises:
            SiteError: ``k`` is outside 1..number of scored heads.
        """
        return HeadSet(tuple(self._head(i) for i in self.order(k)), self.grid)

    def significant(self, level: float | int = 0.05) -> HeadSet:
        """The heads whose effect differs from 0, strongest first; possibly empty.

        Corrected for the number of heads: the probability of any false one is at most ``level`` (`p_adjusted`).

        Raises:
            BkdinterpError: ``level`` is outside 0 to 1.
        """
        return HeadSet(tuple(self._head(i) for i in self.differing(level)), self.grid)

    def plot(
        self,
        *,
        top: int = 8,
        mark: Marked = (),
        beside: "HeadScores | None" = None,
        title: str | None = None,
        ax: Any = None,
        limit: float | int | None = None,
    ) -> "matplotlib.figure.Figure":
        """Heatmap of the ACIE, layer x head; with ``beside``, both maps and their difference on one scale.

        Args:
            top: number of strongest heads outlined in black, with a dotted line if not `significant`; 0 for none.
            mark: heads to outline in green, e.g. the organism's in the twin's map; or a mapping, label -> heads.
            beside: other scores, e.g. the twin's; black boxes mark this result's heads in all three panels.
            title: replaces the default title.
            ax: matplotlib axes to draw into, a list of three with ``beside``; None makes a figure.
            limit: the colour scale is [-limit, limit]; use the same for figures to compare.

        Raises:
            BkdinterpError: ``beside`` has another kind, metric or grid, or as `bkdinterp.plotting.heatmap`.
        """
        strongest = list(self.top_k(min(top, self.n_scored))) if top else []
        sure = set(self.significant()) if top else set()
        doubtful = [head for head in strongest if head not in sure]
        text = self._caption("head", beside)
        if top and beside is None:
            text += f"\n{len(sure)} of {self.n_scored} heads differ from 0"
        grids: Any = self.acie
        owner = ""
        if beside is not None:
            gap = torch.tensor(self._gap(beside)["difference"]).reshape(self.grid)
            own, other = self._panel_names(beside)
            grids, owner = (
                {own: self.acie, other: beside.acie, DIFFERENCE: gap},
                " of the first",
            )
        named: Any = mark if isinstance(mark, Mapping) else {"marked heads": mark}
        marks: dict[str, Any] = {f"the {len(strongest)} strongest{owner}": strongest} | {
            words: HeadSet.of(heads, self.grid).heads for words, heads in named.items()
        }
        return heatmap(
            grids,
            title=title or text,
            label=self._label,
            marks=marks,
            dotted=doubtful,
            dotted_label="may be 0",
            missing_label="not scored",
            limit=limit,
            ax=ax,
        )

    def hover(
        self,
        *,
        beside: "HeadScores | None" = None,
        title: str | None = None,
        limit: float | int | None = None,
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each head says its row of `to_frame`. Heads that were not scored are grey.

        Args:
            beside: other scores, e.g. the twin's: both maps and their difference on one scale.
            title: replaces the default title.
            limit: the colour scale is [-limit, limit]; use the same for figures to compare.

        Raises:
            BkdinterpError: plotly is missing, or ``beside`` has another kind, metric or grid.
        """
        return hover_heads(self, beside, title, limit)

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


class SiteEffects(Effects):
    """Effects of units that are sites."""

    def top_k(self, k: int) -> SiteSet:
        """The sites of the ``k`` units that matter most, strongest first; for the sign see `order`.

        Raises:
            SiteError: ``k`` is outside 1..number of scored units.
        """
        return SiteSet(self._site(i) for i in self.order(k))

    def significant(self, level: float | int = 0.05) -> tuple[Site, ...]:
        """The sites of the units whose effect differs from 0, strongest first; possibly empty.

        Corrected for the number of units: the probability of any false one is at most ``level`` (`p_adjusted`).

        Raises:
            BkdinterpError: ``level`` is outside 0 to 1.
        """
        return tuple(self._site(i) for i in self.differing(level))

    @abstractmethod
    def _site(self, index: int) -> Site: ...

    def _name(self, index: int) -> str:
        return str(self._site(index))


@dataclass(frozen=True, eq=False, repr=False)
class LayerScores(SiteEffects):
    """Effects of one activation per layer, per example ``[layer example]``; NaN for layers that were not scored.

    ``component`` says which activation: ``mlp_out``, ``attn_out`` or ``resid_post``. The other fields are as in
    `HeadScores`.
    """

    unit: ClassVar[str] = "layer"

    effects: Float[Tensor, "layer example"]
    component: Component

    def plot(
        self,
        *,
        beside: "LayerScores | None" = None,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Bars of the ACIE of each layer with simultaneous intervals; with ``beside``, both and their difference on one scale.

        Args:
            beside: other scores, e.g. the twin's or those of another component.
            title: replaces the default title.
            ax: matplotlib axes to draw into, a list of three with ``beside``; None makes a figure.
            limit: ends (low, high) of the value axis.

        Raises:
            BkdinterpError: ``beside`` has another kind, metric or number of layers.
        """
        text = title or self._title(beside)

        def bars(at: list[int], columns: Any, axes: Any, **words: Any) -> Any:
            words |= {"xlabel": f"layer (whiskers: {INTERVALS})", "ylabel": self._label}
            return layer_bars(at, *columns, ylim=ends(limit), ax=axes, **words)

        layers = sorted(self.order())
        if beside is None:
            return bars(layers, self._columns(layers), ax, title=text)
        gap = self._gap(beside)
        own, other = self._panel_names(beside)
        theirs = sorted(beside.order())
        both = sorted(set(layers) & set(theirs))
        differences = [[gap[k][i] for i in both] for k in ("difference", "difference_low", "difference_high")]
        draws = {
            own: lambda axes: bars(layers, self._columns(layers), axes),
            other: lambda axes: bars(theirs, beside._columns(theirs), axes),
        }
        if both:
            draws[DIFFERENCE] = lambda axes: bars(both, differences, axes)
        return panels(draws, title=text, width=7.0, height=2.4, across=False, ax=ax)

    def hover(
        self,
        *,
        beside: "LayerScores | None" = None,
        title: str | None = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each layer says its row of `to_frame`.

        Args:
            beside: other scores, e.g. the twin's or those of another component: both and their difference on one scale.
            title: replaces the default title.
            limit: ends (low, high) of the value axis.

        Raises:
            BkdinterpError: plotly is missing, or ``beside`` has another kind, metric or number of layers.
        """
        return hover_layers(self, beside, title, limit)

    def _title(self, beside: "LayerScores | None") -> str:
        mixed = beside is not None and beside.component != self.component
        return self._caption("layer" if mixed else f"layer's {self.component}", beside)

    def _index(self, unit: int | Site | str) -> int:
        site = Site(unit, self.component) if isinstance(unit, int) else Site.parse(unit)
        if site != Site(site.layer, self.component) or site.layer >= self.effects.shape[0]:
            last = self.effects.shape[0] - 1
            raise SiteError(f"{site}: these are scores of {self.component} in layers 0 to {last}.")
        return site.layer

    def _site(self, index: int) -> Site:
        return Site(index, self.component)

    def _place(self, index: int) -> dict[str, Any]:
        return {"site": self._name(index), "layer": index}

    def _shape(self) -> str:
        return f"{self.component} of {self.n_scored} layers"


@dataclass(frozen=True, eq=False, repr=False)
class NeuronScores(SiteEffects):
    """Effects of single MLP neurons of one ``layer``, per example ``[d_mlp example]``; NaN for neurons not scored.

    The other fields are as in `HeadScores`.
    """

    unit: ClassVar[str] = "neuron"

    effects: Float[Tensor, "d_mlp example"]
    layer: int

    def plot(
        self,
        *,
        k: int = 20,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Bars with simultaneous intervals for the ``k`` strongest neurons.

        Args:
            k: number of neurons.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        indices = self.order(min(k, self.n_scored))
        return bar_intervals(
            [self._name(i) for i in indices],
            *self._columns(indices),
            xlabel=f"{self._label}, {INTERVALS}",
            title=title or self._caption("neuron") + f"; the first {len(indices)} of {self.n_scored}",
            xlim=ends(limit),
            ax=ax,
        )

    def hover(
        self, *, title: str | None = None, limit: tuple[float | int, float | int] | None = None
    ) -> "plotly.graph_objects.Figure":
        """A point per scored neuron by plotly: at the pointer it says its row of `to_frame`; grey ones may have no effect.

        Args:
            title: replaces the default title.
            limit: ends (low, high) of the value axis.

        Raises:
            BkdinterpError: plotly is missing.
        """
        return hover_neurons(self, title, limit)

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

    def _place(self, index: int) -> dict[str, Any]:
        return {"neuron": self._name(index), "layer": self.layer, "index": index}

    def _shape(self) -> str:
        return f"{self.n_scored} neurons of layer {self.layer}"
