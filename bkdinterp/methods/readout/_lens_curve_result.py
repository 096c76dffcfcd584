"""LensCurve: probability and rank of the target's first token after every layer, by kind of prompts. No forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.results import (
    Fingerprint,
    Result,
    check_beside,
    difference_columns,
    same_length,
    same_prompts,
    within,
)
from bkdinterp.sites import Component
from bkdinterp.stats import Interval, Simultaneous, bootstrap_mean, median_interval, simultaneous
from bkdinterp.values import as_choice, as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import plotly.graph_objects

KINDS = ("both", "probability", "rank")


@dataclass(frozen=True, eq=False, repr=False)
class LensCurve(Result):
    """How likely the target's first token is after every layer, on the same examples in each set of prompts.

    Attributes:
        log_probabilities: log of the probability that the lens gives to each target's first token, nats
            ``[set layer example]``.
        ranks: its rank among all tokens, 1 for the most likely ``[set layer example]``.
        sets: names of the sets of prompts, ``("clean", "triggered")`` for pairs.
        layers: the layers that were read.
        component: what was read of them: ``resid_post``, ``attn_out`` or ``mlp_out``.
        target_ids: first token of each example's target, by set ``[set example]``.
        tokens: token id -> its text.
    """

    schema_version: ClassVar[int] = 1

    fingerprint: Fingerprint
    log_probabilities: Float[Tensor, "set layer example"]
    ranks: Int[Tensor, "set layer example"]
    sets: tuple[str, ...]
    layers: tuple[int, ...]
    component: Component
    target_ids: Int[Tensor, "set example"]
    tokens: dict[str, str]

    def _validate(self) -> None:
        same_length(sets=len(self.sets), log_probabilities=len(self.log_probabilities))
        same_length(layers=len(self.layers), log_probabilities=self.log_probabilities.shape[1])
        if 0 in self.ranks.shape:
            raise ArtefactError("there are no ranks in it.")
        within(None, 0.01, log_probabilities=self.log_probabilities)
        within(1, None, ranks=self.ranks)
        within(0, None, layers=self.layers)
        if missing := sorted(
            set(self.target_ids.flatten().tolist()) - {int(i) for i in self.tokens if i.isdecimal()}
        ):
            raise ArtefactError(f"token {missing[0]} has no text.")

    @property
    def n(self) -> int:
        """Number of examples in each set."""
        return self.ranks.shape[-1]

    @property
    def probabilities(self) -> Float[Tensor, "set layer example"]:
        """Probability of each target's first token."""
        return self.log_probabilities.double().exp().clamp(max=1.0)

    def probability(self, prompts: str, layer: int, *, seed: int = 0) -> Interval:
        """Mean probability after one layer on one set, with its bootstrap interval over examples, within 0 to 1.

        Raises:
            PlanError: there is no such set, or the layer was not read.
        """
        found = bootstrap_mean(self.probabilities[self._set(prompts), self._layer(layer)], seed=seed)
        low, high = max(0.0, found.low), min(1.0, found.high)
        return Interval(found.estimate, low, high, found.n, found.method, found.level)

    def rank(self, prompts: str, layer: int) -> Interval:
        """Median rank after one layer on one set, with its interval (see `bkdinterp.stats.median_interval`).

        Raises:
            PlanError: there is no such set, or the layer was not read.
        """
        return median_interval(self.ranks[self._set(prompts), self._layer(layer)].double())

    def first_layer(self, prompts: str = "triggered", *, rank: int = 1) -> int | None:
        """The first layer from which on the median rank stays at most ``rank``; None if it does not at the last layer.

        Raises:
            PlanError: there is no such set.
            BkdinterpError: the rank is not at least 1.
        """
        rank = as_integer(rank, "rank", low=1)
        found = None
        for layer in sorted(self.layers, reverse=True):
            if self.rank(prompts, layer).estimate > rank:
                break
            found = layer
        return found

    def difference(self, of: str = "triggered", minus: str = "clean", *, level: float = 0.95) -> Simultaneous:
        """Mean difference in probability between two sets, by layer in the order of ``layers``, paired by example.

        The intervals are simultaneous for all layers, so the largest may be picked.

        Raises:
            PlanError: there is no such set.
            BkdinterpError: ``level`` is outside (0, 1).
        """
        one, two = self.probabilities[self._set(of)], self.probabilities[self._set(minus)]
        return simultaneous(one - two, level=level)

    def to_frame(self, *, beside: "LensCurve | None" = None) -> "pandas.DataFrame":
        """One row per set and layer: mean probability with interval, median rank with interval, n.

        Each interval is for its layer alone; for differences between sets see `difference`.

        Args:
            beside: another curve, e.g. the twin's; adds columns ``beside`` (its mean probability), ``difference`` and, if
                both are on the same prompts, the ends of the difference's simultaneous interval.

        Raises:
            BkdinterpError: ``beside`` has other sets, layers or another component.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for name in self.sets:
            for layer in self.layers:
                p, r = self.probability(name, layer), self.rank(name, layer)
                rows.append(
                    {"name": f"L{layer}.{self.component}", "layer": layer, "prompts": name}
                    | {"probability": p.estimate, "low": p.low, "high": p.high}
                    | {"rank": r.estimate, "rank_low": r.low, "rank_high": r.high, "n": self.n}
                )
        frame = pd.DataFrame(rows)
        if beside is None:
            return frame
        self._check(beside)
        own, other = self.probabilities.flatten(0, 1), beside.probabilities.flatten(0, 1)
        return frame.assign(**difference_columns(own, other, paired=same_prompts(self, beside)))

    def plot(
        self,
        kind: str | None = None,
        *,
        beside: "LensCurve | None" = None,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Figure with a curve over layers for every set of prompts, each point with its interval.

        Args:
            kind: ``"probability"``, ``"rank"`` (a logarithmic axis with 1 at the top) or ``"both"``, one panel each. None
                draws both, and with ``beside`` or one pair of axes the probability.
            beside: another curve, e.g. the twin's, in a panel of its own on the same scale.
            title: replaces the default title.
            ax: matplotlib axes to draw into, a list for two panels; None makes a figure.
            limit: ends (low, high) of the axis of probability (default 0 to 1) or of ranks.

        Raises:
            BkdinterpError: the kind is unknown, both kinds are asked for with ``beside``, or ``beside`` has other sets, layers
                or another component.
        """
        from bkdinterp.methods.readout._lens_figures import plot_curve

        single = ax is not None and not isinstance(ax, Sequence) and not hasattr(ax, "__len__")
        kind = as_choice(kind or ("probability" if beside is not None or single else "both"), "kind", KINDS)
        if beside is not None:
            self._check(beside)
        return plot_curve(self, kind, beside, title, ax, limit)

    def hover(
        self,
        *,
        beside: "LensCurve | None" = None,
        title: str | None = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "plotly.graph_objects.Figure":
        """Curves of the probability by plotly: at the pointer each point says its row of `to_frame`, its rank with it.

        Args:
            beside: another curve, e.g. the twin's, in a panel of its own on the same scale.
            title: replaces the default title.
            limit: ends (low, high) of the axis of probability; default: 0 to 1.

        Raises:
            BkdinterpError: plotly is missing, or ``beside`` has other sets, layers or another component.
        """
        from bkdinterp.methods.readout._lens_figures import hover_curve

        return hover_curve(self, beside, title, limit)

    def describe(self) -> str:
        """One line with component, layers, n, the last layer's probability and rank in each set, and the model."""
        last = max(self.layers)
        parts = [
            f"{name} p={self.probability(name, last).estimate:.2g} rank {self.rank(name, last).estimate:g}"
            for name in self.sets
        ]
        head = f"{self.component} of {len(self.layers)} layers, n={self.n}; at L{last}: {', '.join(parts)}"
        return f"{head}; model={self.fingerprint.label}"

    def _check(self, beside: "LensCurve") -> None:
        keys = {"component": "component", "set of layers": "layers", "set of prompts": "sets"}
        same = {words: (getattr(self, k), getattr(beside, k, getattr(self, k))) for words, k in keys.items()}
        check_beside(self, beside, **same)

    def _set(self, name: str) -> int:
        return self.sets.index(as_choice(name, "prompts", self.sets, error=PlanError))

    def _layer(self, layer: int) -> int:
        layer = as_integer(layer, "layer", error=PlanError)
        if layer not in self.layers:
            raise PlanError(f"Layer {layer} was not read; there are {', '.join(map(str, self.layers))}.")
        return self.layers.index(layer)
