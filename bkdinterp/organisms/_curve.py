"""TrainingCurve: metrics against the training step, and the recorder that collects them. No forwards of its own."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from bkdinterp.errors import BkdinterpError
from bkdinterp.model._identity import weights_id
from bkdinterp.plotting import curves, ends
from bkdinterp.results import Fingerprint, Result, caption, same_length, versions
from bkdinterp.results._files import write_text
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Measure = Callable[[PreTrainedModel], Mapping[str, float] | Mapping[str, Interval]]


@dataclass(frozen=True, eq=False, repr=False)
class TrainingCurve(Result):
    """Metrics measured during a fine-tune, against the step.

    Attributes:
        steps: number of optimiser steps before each measurement; 0 is before the first step.
        values: metric -> its value at each measurement.
        settings: what was frozen, or LoRA; for titles.
    """

    fingerprint: Fingerprint
    steps: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    settings: str

    def _validate(self) -> None:
        for name, values in self.values.items():
            same_length(steps=len(self.steps), **{name: len(values)})

    def to_frame(self) -> "pandas.DataFrame":
        """One row per measurement, one column per metric."""
        import pandas as pd

        return pd.DataFrame({"step": self.steps, **self.values})

    def plot(
        self,
        *,
        metrics: Sequence[str] | None = None,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Metrics against the step; without intervals.

        Args:
            metrics: which; by default all that stay within 0 and 1 (rates share an axis, a loss does not), and where none
                does, the first.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.

        Raises:
            BkdinterpError: nothing was measured, or a metric was not measured.
        """
        if not self.steps:
            raise BkdinterpError("Nothing was measured: give fine_tune a measure=.")
        rates = [k for k, v in self.values.items() if all(0 <= x <= 1 for x in v)]
        chosen = list(metrics or rates or list(self.values)[:1])
        unknown = [k for k in chosen if k not in self.values]
        if unknown:
            raise BkdinterpError(f"No metric {', '.join(unknown)}; there is {', '.join(self.values)}.")
        return curves(
            self.steps,
            {k: (self.values[k], None, None) for k in chosen},
            xlabel="optimiser step",
            ylabel=chosen[0] if len(chosen) == 1 else "rate" if set(chosen) <= set(rates) else "metric",
            title=title or caption("During the fine-tune", self.fingerprint, self.settings),
            ylim=ends(limit) or ((0, 1) if set(chosen) <= set(rates) else None),
            ax=ax,
        )

    def describe(self) -> str:
        """Metrics with their last values."""
        last = ", ".join(f"{name} {v[-1]:.3f}" for name, v in self.values.items() if v)
        return f"{self.settings}, {len(self.steps)} measurements to step {self.steps[-1] if self.steps else 0}: {last}"


def _number(name: str, value: Any) -> float:
    try:
        return float(getattr(value, "estimate", value))  # for an Interval, its estimate
    except (TypeError, ValueError, RuntimeError):
        raise BkdinterpError(
            f"measure= gave {value!r} as {name!r}; it must give name -> number (or Interval)."
        ) from None


class CurveRecorder:
    """Collects measurements and saves them beside the checkpoint."""

    def __init__(self, model: Any, measure: Measure | None, checkpoint: str | Path | None, done: int) -> None:
        self._model, self._measure = model, measure
        self._file = None if checkpoint is None else Path(checkpoint).with_suffix(".curve.json")
        self._rows: list[dict[str, float]] = []
        if done and self._file is not None and self._file.exists():
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self._rows = [row for row in known if row["step"] <= done]

    def add(self, step: int) -> None:
        """Measure now."""
        if self._measure is None:
            return
        self._model.eval()
        with torch.no_grad():
            values = {name: _number(name, v) for name, v in self._measure(self._model).items()}
        self._rows.append({"step": step, **values})

    def save(self) -> None:
        """Write the measurements atomically."""
        if self._file is not None:
            write_text(self._file, json.dumps(self._rows) + "\n")

    def last(self) -> str:
        """The newest values, for the log."""
        if not self._rows:
            return ""
        return "".join(f" {k} {v:.3f}" for k, v in self._rows[-1].items() if k != "step")

    def result(self, base: PreTrainedModel, tuned: Any, what: str, seed: int) -> TrainingCurve:
        """All measurements as a result, named by the base and the weights that came out."""
        # By the base alone, the fine-tunes on poisoned and on clean rows would have one name.
        name = str(getattr(base.config, "name_or_path", "") or type(base).__name__)
        weights = f"@{weights_id(tuned)}" if self._rows else ""
        names = [k for k in (self._rows[0] if self._rows else {}) if k != "step"]
        return TrainingCurve(
            fingerprint=Fingerprint(
                model=name + weights,
                revision=None,
                adapter=None,
                dtype=str(next(base.parameters()).dtype).removeprefix("torch."),
                template="",
                data="",
                seed=seed,
                versions=versions(),
            ),
            steps=tuple(int(row["step"]) for row in self._rows),
            values={k: tuple(row.get(k, math.nan) for row in self._rows) for k in names},
            settings=what,
        )
