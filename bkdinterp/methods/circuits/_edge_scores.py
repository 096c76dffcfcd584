"""`EdgeScores`: effects of direct paths between units, per example. No forwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, SiteError
from bkdinterp.methods.attribution._hover_effects import hover_tables
from bkdinterp.methods.attribution._unit_effects import Effects
from bkdinterp.methods.circuits._mib_json import mib_values
from bkdinterp.model import Architecture
from bkdinterp.plotting import hover_map, labelled_map
from bkdinterp.reprs import LIMIT, cut
from bkdinterp.results import check_beside, same_length
from bkdinterp.sites import Component, Site
from bkdinterp.values import shown

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

LOGITS, ARROW = "logits", " -> "
Edge = tuple[str, str]


def before(sender: Site, receiver: Site, *, parallel: bool) -> bool:
    """Whether the sender writes to the residual stream before the receiver reads it."""
    same = sender.layer == receiver.layer
    into_mlp = sender.head is not None and receiver.component is Component.mlp_out
    return sender.layer < receiver.layer or (same and into_mlp and not parallel)


def in_order(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Units as a forward pass reaches them: by layer, heads before the MLP."""
    return tuple(sorted(sites, key=lambda s: (s.layer, s.component.rank, s.head or 0)))


@dataclass(frozen=True, eq=False, repr=False)
class EdgeScores(Effects):
    """Effects of edges, per example ``[sender receiver example]``; the last receiver is the logits, and what is no edge is NaN.

    An edge is a pair of names, such as ``("L5H2", "L9.mlp_out")`` or ``("L9.mlp_out", "logits")``. The other fields are as in
    `HeadScores`.

    Attributes:
        units: senders, and with the logits receivers, in the order of a forward pass.
    """

    unit: ClassVar[str] = "edge"

    effects: Float[Tensor, "sender receiver example"]
    units: tuple[str, ...]

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names of the receivers."""
        return (*self.units, LOGITS)

    def top_k(self, k: int) -> tuple[Edge, ...]:
        """The ``k`` edges that matter most, strongest first; for the sign see `order`.

        Raises:
            SiteError: ``k`` is outside 1..number of edges.
        """
        return tuple(map(self._edge, self.order(k)))

    def significant(self, level: float | int = 0.05) -> tuple[Edge, ...]:
        """The edges whose effect differs from 0, strongest first, corrected for the number of edges; possibly empty.

        Raises:
            BkdinterpError: ``level`` is outside 0 to 1.
        """
        return tuple(map(self._edge, self.differing(level)))

    def plot(
        self, *, title: str | None = None, ax: Any = None, limit: float | int | None = None
    ) -> "matplotlib.figure.Figure":
        """Map of the mean effects, sender by receiver; a dot marks edges that may have none.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: the colour scale is [-limit, limit]; use the same for figures to compare.
        """
        sure = set(self.differing())
        doubtful = [divmod(i, len(self.receivers)) for i in self.order() if i not in sure]
        return labelled_map(
            self.acie,
            columns=self.receivers,
            rows=self.units,
            title=title or f"{self._caption('edge')}\n{len(sure)} of {self.n_scored} edges differ from 0",
            label=self._label,
            xlabel="receiver",
            ylabel="sender",
            dotted=doubtful,
            dotted_label="may be 0",
            missing_label="no edge",
            limit=limit,
            ax=ax,
        )

    def hover(
        self,
        *,
        beside: "EdgeScores | None" = None,
        title: str | None = None,
        limit: float | int | None = None,
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each edge says its row of `to_frame`. What is no edge is grey.

        Args:
            beside: other scores of the same units, e.g. the twin's: both maps and their difference on one scale.
            title: replaces the default title.
            limit: the colour scale is [-limit, limit]; use the same for figures to compare.

        Raises:
            BkdinterpError: plotly is missing, or ``beside`` has another kind, metric or other units.
        """
        return hover_map(
            hover_tables(self, beside),
            row="sender",
            column="receiver",
            rows=self.units,
            columns=self.receivers,
            name=("edge",),
            title=title or self._caption("edge", beside),
            label=self._label,
            xlabel="receiver",
            ylabel="sender",
            limit=limit,
        )

    def to_mib(self, architecture: Architecture, k: int) -> dict[str, Any]:
        """The ``k`` strongest edges as the JSON values of MIB's and EAP-IG's graphs, with their mean effects as scores.

        An edge into a head enters its queries, keys and values together, so all three have its score. Every sender has an edge
        from the input, which was not measured (score 0): readers drop nodes that nothing reaches.

        Args:
            architecture: of the model, e.g. ``model.architecture``.
            k: number of edges.

        Raises:
            SiteError: ``k`` is outside 1..number of edges.
        """
        acie = self.acie.flatten().tolist()
        scores: dict[tuple[Site, Site | None], float] = {}
        for i in self.order(k):
            sender, receiver = self._edge(i)
            scores[Site.parse(sender), None if receiver == LOGITS else Site.parse(receiver)] = acie[i]
        sites = {site for edge in scores for site in edge if site is not None}
        return mib_values(sites, architecture, scores)

    def _edge(self, index: int) -> Edge:
        sender, receiver = divmod(index, len(self.receivers))
        return self.units[sender], self.receivers[receiver]

    def _index(self, unit: Any) -> int:
        listed = isinstance(unit, tuple | list)
        ends = unit.split(ARROW) if isinstance(unit, str) else list(unit) if listed else []
        known = len(ends) == 2 and ends[0] in self.units and ends[1] in self.receivers
        index = (
            self.units.index(ends[0]) * len(self.receivers) + self.receivers.index(ends[1]) if known else -1
        )
        if not known or self.acie.flatten()[index].isnan():
            raise SiteError(
                f"{shown(unit)} is no edge here: a sender comes before its receiver, as in ('{self.units[0]}', '{LOGITS}'). The "
                f"units are {cut(', '.join(self.units), LIMIT)}."
            )
        return index

    def _name(self, index: int) -> str:
        return ARROW.join(self._edge(index))

    def _place(self, index: int) -> dict[str, Any]:
        sender, receiver = self._edge(index)
        return {"edge": self._name(index), "sender": sender, "receiver": receiver}

    def _shape(self) -> str:
        return f"{self.n_scored} edges between {len(self.units)} units and the logits"

    def _gap(self, beside: Any) -> dict[str, list[float]]:
        check_beside(self, beside, units=(self.units, getattr(beside, "units", None)))
        return super()._gap(beside)

    def _validate(self) -> None:
        same_length(units=len(self.units), effects=self.effects.shape[0], receivers=self.effects.shape[1] - 1)
        sites = list(map(Site.parse, self.units))
        if not sites or len(set(sites)) < len(sites) or in_order(sites) != tuple(sites):
            raise ArtefactError("units must be different, at least one, and in the order of a forward pass.")
