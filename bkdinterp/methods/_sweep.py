"""sweep_layers(): where does the vector work best? The layer is chosen on one split and reported on another.

The papers pick the best layer on the test data (papers.md 4, 7.1f); here the reported rates come from prompts that
the choice never saw. Cost: one generation (or one scored forward) per layer and selection prompt, then one
``evaluate`` on the held-out prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import Run, execute
from bkdinterp.errors import ArtefactError, PlanError, PromptError, SiteError
from bkdinterp.methods._evaluate import check_payload
from bkdinterp.methods._vector import BackdoorVector
from bkdinterp.metrics import Payload, payload_hits
from bkdinterp.model import Model
from bkdinterp.plotting import curves
from bkdinterp.prompts import PairedPrompts
from bkdinterp.results import Fingerprint, Result
from bkdinterp.stats import bootstrap_mean, wilson

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Direction = Literal["add", "subtract"]


@dataclass(frozen=True, eq=False, repr=False)
class LayerSweep(Result):
    """Effect of one vector at each layer, on the selection split.

    Attributes:
        layers: that were tried ``[layer]``.
        values: per example ``[layer example]``: payload found (0 or 1), or the score of the target.
        base: the same without the vector ``[example]``.
        coeff: multiplied the vector.
        by: what ``values`` are; direction: add (on clean prompts) or subtract (on triggered ones).
    """

    fingerprint: Fingerprint
    layers: Int[Tensor, " layer"]
    values: Float[Tensor, "layer example"]
    base: Float[Tensor, " example"]
    by: str
    direction: str
    coeff: float

    def _validate(self) -> None:
        whole = torch.cat([self.values, self.base[None]])
        if 0 in self.values.shape or not bool(whole.isfinite().all()):
            raise ArtefactError("values and base must be finite numbers, at least one of each layer.")
        if self.by == "payload_rate" and not bool(((whole == 0) | (whole == 1)).all()):
            raise ArtefactError("payloads are 0 or 1.")

    @property
    def best(self) -> int:
        """The layer with the largest mean when adding, the smallest when subtracting (first of equals)."""
        means = self.values.mean(-1)
        return int(self.layers[(means if self.direction == "add" else -means).argmax()])

    def to_frame(self) -> "pandas.DataFrame":
        """One row per layer: mean and its interval, n."""
        import pandas as pd

        rows = [
            {"layer": int(i), "mean": e, "low": lo, "high": hi, "n": self.values.shape[1]}
            for i, (e, lo, hi) in self._intervals()
        ]
        return pd.DataFrame(rows)

    def plot(self) -> "matplotlib.figure.Figure":
        """Curve over layers with its interval; the band is the unedited model."""
        points = self._intervals()
        series = {self.direction: tuple([p[1][k] for p in points] for k in range(3))}
        base = self._interval(self.base)
        rate = self.by == "payload_rate"
        return curves(
            [i for i, _ in points],
            series,  # type: ignore[arg-type]
            xlabel="layer",
            ylabel="payload rate" if rate else f"{self.by} of the target",
            title=f"Vector at one layer ({self.direction}, selection split, n={self.values.shape[1]})",
            null=(base[1], base[2]),
            null_label="unedited",
            ylim=(-0.03, 1.03) if rate else None,
        )

    def describe(self) -> str:
        """Direction, criterion, best layer, n and model."""
        head = f"{self.direction} by {self.by}: best layer {self.best} of {len(self.layers)}"
        return f"{head}, n={self.values.shape[1]}, model={self.fingerprint.label}"

    def _intervals(self) -> list[tuple[int, tuple[float, float, float]]]:
        return [(int(i), self._interval(row)) for i, row in zip(self.layers, self.values, strict=True)]

    def _interval(self, row: Tensor) -> tuple[float, float, float]:
        ci = wilson(int(row.sum()), len(row)) if self.by == "payload_rate" else bootstrap_mean(row)
        return ci.estimate, ci.low, ci.high


def sweep_layers(
    model: Model,
    vector: BackdoorVector,
    selection: PairedPrompts,
    *,
    direction: Direction = "add",
    layers: Sequence[int] | None = None,
    by: str = "payload_rate",
    coeff: float = 1.0,
    payload: Payload | None = None,
    max_new_tokens: int = 24,
    budget: int = 2**30,
    folder: str | Path | None = None,
) -> LayerSweep:
    """Try the vector at every layer on the selection split.

    Args:
        model: the suspect.
        vector: what to add or subtract.
        selection: prompts for choosing; report on others (``evaluate(..., under=vector.add(sweep.best))``).
        direction: ``"add"`` works on clean prompts, ``"subtract"`` on triggered ones.
        layers: only these; None for all.
        by: ``"payload_rate"`` generates (the papers); any name in ``metrics.SCORES``, e.g. ``"first_token_logodds"``,
            scores the target instead, which costs one forward.
        coeff: multiplies the vector.
        payload: how to recognise the output; None looks for the target.
        max_new_tokens: when generating.
        budget: bytes for one batch.
        folder: finished work is kept there and taken up again; one folder serves many calls.

    Raises:
        PromptError: pairs without targets, or a target longer than ``max_new_tokens`` and no payload.
        SiteError: a layer out of range, or no layer.
        PlanError: an unknown score.
    """
    if direction not in ("add", "subtract"):
        raise PlanError(f"Unknown direction {direction!r}; choose 'add' or 'subtract'.")
    if selection.clean.target is None:
        raise PromptError("sweep_layers needs pairs with targets.")
    if by == "payload_rate":
        check_payload(model, selection, payload, max_new_tokens)
    chosen = list(range(model.architecture.n_layers)) if layers is None else list(layers)
    if not chosen:
        raise SiteError("sweep_layers needs at least one layer.")
    prompts = selection.clean if direction == "add" else selection.triggered
    act = vector.add if direction == "add" else vector.subtract
    edits = [None, *(act(layer, coeff=coeff) for layer in chosen)]
    kind = {"generate": max_new_tokens} if by == "payload_rate" else {"score": by}
    runs = [Run(prompts, **({} if e is None else {"edits": e}), **kind) for e in edits]  # type: ignore[arg-type]
    rows = []
    for result in execute(model, runs, budget=budget, folder=folder):
        if by == "payload_rate":
            assert result.text is not None
            payloads = [payload or Payload(t) for t in selection.clean.target]
            rows.append(torch.tensor(payload_hits(result.text, payloads), dtype=torch.float64))
        else:
            assert result.scores is not None
            rows.append(result.scores.double())
    return LayerSweep(
        model.fingerprint(selection.fingerprint),
        torch.tensor(chosen),
        torch.stack(rows[1:]),
        rows[0],
        by,
        direction,
        coeff,
    )
