"""Result of `Attribution.positions`: the effect of patching the residual stream, by layer and position. No forwards."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, SiteError
from bkdinterp.methods.attribution._hover_effects import hover_positions
from bkdinterp.methods.attribution._unit_effects import strongest_sign
from bkdinterp.metrics import with_unit
from bkdinterp.plotting import labelled_map, visible
from bkdinterp.results import Fingerprint, Result, caption, same_length
from bkdinterp.sites import Component, Site
from bkdinterp.stats import Interval, adjusted_p, bootstrap_mean, simultaneous
from bkdinterp.values import as_choice, as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import plotly.graph_objects


@dataclass(frozen=True, eq=False, repr=False)
class PositionScores(Result):
    """Effects of the residual stream after each layer (``resid_post``) at each position, per example.

    Attributes:
        effects: change of the metric; NaN for layers that were not scored, and where a prompt lacks the position (a trigger
            at the text's end has nothing after it). So each position has its own n.
        base: metric of the unedited prompts.
        metric: name of the metric (log-probabilities are in nats).
        sense: which values show the backdoor (see ``bk.Score``): ``"higher"``, ``"lower"`` or ``"distance"``.
        direction: ``"noising"`` (clean prompts were edited) or ``"denoising"`` (triggered prompts were).
        positions: names of the positions, in the order of a prompt; see `Attribution.positions`.
        texts: the token at each position, "" if it differs between prompts or there are several.
    """

    fingerprint: Fingerprint
    effects: Float[Tensor, "layer position example"]
    base: Float[Tensor, " example"]
    metric: str
    sense: str
    direction: str
    positions: tuple[str, ...]
    texts: tuple[str, ...]

    def _validate(self) -> None:
        same_length(positions=len(self.positions), texts=len(self.texts), effects=self.effects.shape[1])
        if 0 in self.effects.shape or len(set(self.positions)) < len(self.positions):
            raise ArtefactError("there are no effects, or two positions with one name.")
        whole = self._scored[:, None, None] & self._there
        if not bool((self.effects.isfinite() == whole).all()) or not bool(self._there.any(1).all()):
            raise ArtefactError("a position was scored in some layers and not in others, or on no prompt.")

    @property
    def acie(self) -> Float[Tensor, "layer position"]:
        """Average causal indirect effect: the mean over the examples that have the position."""
        return self.effects.nanmean(dim=-1)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.effects.shape[-1]

    @property
    def counts(self) -> dict[str, int]:
        """Position -> number of examples that have it."""
        return dict(zip(self.positions, self._there.sum(1).tolist(), strict=True))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were scored."""
        return tuple(self._scored.nonzero().flatten().tolist())

    def interval(self, layer: int, position: str, *, seed: int = 0) -> Interval:
        """Bootstrap interval over examples of one cell's ACIE, for a cell that was named beforehand.

        For cells chosen because their effects are large, use the table's, or compute this on new prompts.

        Raises:
            SiteError: the layer was not scored.
            BkdinterpError: there is no such position.
        """
        layer = as_integer(layer, "layer", error=SiteError)
        if layer not in self.layers:
            raise SiteError(f"Layer {layer} was not scored; there are {', '.join(map(str, self.layers))}.")
        k = self.positions.index(as_choice(position, "position", self.positions))
        return bootstrap_mean(self.effects[layer, k][self._there[k]], seed=seed)

    @property
    def p_adjusted(self) -> Float[Tensor, "layer position"]:
        """Two-sided p-value for an effect of 0 for each cell, corrected for all cells.

        Step-down max-T over sign flips within a position, times the number of positions. With n examples it is at least
        2**(1 - n) times that number, so with fewer than 9 or so none can reach .05.
        """
        return self._cells["p"]

    def order(self) -> list[tuple[int, str]]:
        """All scored cells (layer, position), strongest first; for the sign see `HeadScores.order`."""
        key = strongest_sign(self.sense, self.direction) * self.acie.flatten()
        ranked = key.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True).tolist()
        n = len(self.positions)
        return [(i // n, self.positions[i % n]) for i in ranked[: len(self.layers) * n]]

    def to_frame(self) -> "pandas.DataFrame":
        """One row per position and layer: its token, site, acie, simultaneous interval, adjusted p, std, n.

        All intervals together cover with probability .95: max-t over the layers of a position, and Bonferroni over the
        positions, which have different prompts. ``std`` is the standard deviation over examples.
        """
        import pandas as pd

        acie, std = self.acie.tolist(), self._std.tolist()
        cells = {name: values.tolist() for name, values in self._cells.items()}
        rows: list[dict[str, Any]] = []
        for k, (position, n) in enumerate(self.counts.items()):
            for layer in self.layers:
                row = {"position": position, "token": self.texts[k], "layer": layer}
                row |= {"site": str(Site(layer, Component.resid_post)), "acie": acie[layer][k]}
                row |= {"low": cells["low"][layer][k], "high": cells["high"][layer][k]}
                rows.append(row | {"p_adjusted": cells["p"][layer][k], "std": std[layer][k], "n": n})
        return pd.DataFrame(rows)

    def plot(
        self, *, title: str | None = None, ax: Any = None, limit: float | int | None = None
    ) -> "matplotlib.figure.Figure":
        """Map of the ACIE, layers down and positions along; small dots: may be 0 (adjusted p above .05).

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: the colour scale is [-limit, limit]; use the same for figures to compare.

        Raises:
            BkdinterpError: as `bkdinterp.plotting.labelled_map`.
        """
        doubtful = (self.p_adjusted > 0.05).nonzero().tolist()
        return labelled_map(
            self.acie,
            columns=list(self._labels.values()),
            title=title or self._title,
            label=f"ACIE ({with_unit(self.metric)})",
            xlabel="position",
            ylabel="layer",
            dotted=[(i, k) for i, k in doubtful],
            dotted_label="may be 0",
            missing_label="not scored",
            limit=limit,
            ax=ax,
        )

    def hover(
        self, *, title: str | None = None, limit: float | int | None = None
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each cell says its row of `to_frame`. Layers that were not scored are grey.

        Args:
            title: replaces the default title.
            limit: the colour scale is [-limit, limit]; use the same for figures to compare.

        Raises:
            BkdinterpError: plotly is missing, or ``limit <= 0``.
        """
        return hover_positions(self, title, limit)

    def describe(self) -> str:
        """One line: sizes, metric, direction, the three strongest cells with intervals, and the model."""
        best = []
        for layer, position in self.order()[:3]:
            k = self.positions.index(position)
            low, high = float(self._cells["low"][layer, k]), float(self._cells["high"][layer, k])
            best.append(f"L{layer} {position} {float(self.acie[layer, k]):+.3f} [{low:+.2f}, {high:+.2f}]")
        head = f"{len(self.layers)} layers x {len(self.positions)} positions, n={self.n}, {self.metric}, {self.direction}"
        return f"{head}: {', '.join(best)} (simultaneous 95 %); model={self.fingerprint.label}"

    @property
    def _title(self) -> str:
        n = f"n={self.n}" if min(self.counts.values()) == self.n else f"n={self.n} (fewer where said)"
        what = "Causal effect of the residual stream by position"
        return caption(what, self.fingerprint, self.direction, "source: pair", n)

    @property
    def _labels(self) -> dict[str, str]:
        """Position -> its label in a figure, with its token, and n where some prompts lack it."""
        found = {}
        for (position, n), text in zip(self.counts.items(), self.texts, strict=True):
            few = f" (n={n})" if n < self.n else ""
            found[position] = f"{position}{f' {visible(text)}' if text else ''}{few}"
        return found

    @cached_property
    def _scored(self) -> Bool[Tensor, " layer"]:
        return ~self.effects.isnan().flatten(1).all(1)

    @cached_property
    def _there(self) -> Bool[Tensor, "position example"]:
        """Which examples have each position."""
        return ~self.effects.isnan().all(0)

    @property
    def _std(self) -> Float[Tensor, "layer position"]:
        out = torch.full_like(self.acie, torch.nan)
        for k, there in enumerate(self._there):
            if int(there.sum()) > 1:
                out[:, k] = self.effects[:, k][:, there].std(-1)
        return out

    @cached_property
    def _cells(self) -> dict[str, Float[Tensor, "layer position"]]:
        """Ends of the simultaneous intervals and adjusted p-values."""
        n = len(self.positions)
        out = {name: torch.full(self.effects.shape[:2], torch.nan).double() for name in ("low", "high", "p")}
        for k, there in enumerate(self._there):
            own = self.effects[:, k][:, there]
            found = simultaneous(own, level=1 - 0.05 / n)
            out["low"][:, k], out["high"][:, k] = torch.from_numpy(found.low), torch.from_numpy(found.high)
            out["p"][:, k] = (n * torch.from_numpy(adjusted_p(own))).clamp(max=1)
        return out
