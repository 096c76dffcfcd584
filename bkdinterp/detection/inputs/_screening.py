"""A threshold from clean prompts, and what it lets through and catches: for any detector of prompts. No forwards here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.model import Model
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.results import Fingerprint, Result, caption, digest_of, within
from bkdinterp.stats import Interval, auroc, wilson
from bkdinterp.stats._sample import as_sample
from bkdinterp.values import as_number

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

TRIGGERED = "triggered"


@runtime_checkable
class InputDetector(Protocol):
    """What scores prompts: `Strip`, `Onion`, or one's own."""

    model: Model
    name: str

    def scores(self, texts: Sequence[str], *, folder: str | Path | None = None) -> Float[Tensor, " prompt"]:
        """One number per prompt, higher for more suspicious ones."""
        ...


def threshold_at(clean: Any, false_alarms: float | int) -> float:
    """The score that a new clean prompt exceeds with probability at most ``false_alarms``, whatever the scores' distribution.

    The ceil((n + 1)(1 - rate))-th smallest of n clean scores; infinite where n is too small to promise that rate.

    Raises:
        BkdinterpError: no score, NaN, or a rate outside 0 to 1.
    """
    values = sorted(as_sample(clean, "threshold_at").tolist())
    rate = as_number(false_alarms, "false_alarms", low=0, high=1)
    rank = math.ceil((len(values) + 1) * (1 - rate) - 1e-9)
    return math.inf if rank > len(values) else values[max(rank, 1) - 1]


@dataclass(frozen=True, eq=False, repr=False)
class InputScreening(Result):
    """Scores of clean prompts, which set the threshold, and of other prompts by kind.

    Attributes:
        detector: its name.
        calibration: scores of clean prompts.
        scores: kind -> scores, e.g. ``"clean"`` (others than those), ``"near-trigger"``, ``"triggered"``.
        false_alarms: the rate that the threshold is set for.
    """

    fingerprint: Fingerprint
    detector: str
    calibration: Float[Tensor, " clean"]
    scores: dict[str, Float[Tensor, " _"]]
    false_alarms: float

    def _validate(self) -> None:
        if not self.scores or not len(self.calibration) or not all(map(len, self.scores.values())):
            raise ArtefactError("there are no scores in it.")
        within(0, 1, false_alarms=self.false_alarms)
        within(None, None, calibration=self.calibration, **self.scores)

    @property
    def threshold(self) -> float:
        """Above it a prompt is stopped."""
        return threshold_at(self.calibration, self.false_alarms)

    def rate(self, kind: str) -> Interval:
        """Share of the prompts of a kind that is stopped.

        Raises:
            BkdinterpError: an unknown kind.
        """
        if kind not in self.scores:
            raise BkdinterpError(f"Unknown kind {kind!r}; there are {', '.join(self.scores)}.")
        found = self.scores[kind]
        return wilson(int((found > self.threshold).sum()), len(found))

    def auroc(self, kind: str = TRIGGERED) -> Interval:
        """Of prompts of a kind against those that set the threshold; it depends on no threshold.

        Raises:
            BkdinterpError: an unknown kind.
        """
        self.rate(kind)
        pooled = torch.cat([self.calibration, self.scores[kind]])
        return auroc(pooled, torch.arange(len(pooled)) >= len(self.calibration))

    def to_frame(self) -> "pandas.DataFrame":
        """One row per kind: share stopped with interval, and AUROC."""
        import pandas as pd

        rows = []
        for kind in self.scores:
            rate, area = self.rate(kind), self.auroc(kind)
            rows.append(
                {"prompts": kind, "stopped": rate.estimate, "low": rate.low, "high": rate.high, "n": rate.n}
            )
            rows[-1] |= {"auroc": area.estimate, "auroc_low": area.low, "auroc_high": area.high}
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Share of each kind that is stopped, beside the rate that the threshold is set for.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        rates = {kind: self.rate(kind) for kind in self.scores}
        return bar_intervals(
            [f"{kind} (n={r.n})" for kind, r in rates.items()],
            [r.estimate for r in rates.values()],
            [r.low for r in rates.values()],
            [r.high for r in rates.values()],
            xlabel="share of prompts stopped (with 95 % intervals)",
            title=title
            or caption(
                f"Prompts stopped by {self.detector}",
                self.fingerprint,
                f"threshold from {len(self.calibration)} clean prompts",
            ),
            reference=self.false_alarms,
            reference_label="false alarms asked for",
            xlim=ends(limit) or (0, 1),
            ax=ax,
        )

    def describe(self) -> str:
        """Detector, rates and model."""
        rates = ", ".join(f"{kind} {self.rate(kind)}" for kind in self.scores)
        return f"{self.detector}, stopped: {rates}; set for {self.false_alarms:g}, model={self.fingerprint.label}"


def screen_inputs(
    detector: InputDetector,
    calibration: Sequence[str],
    kinds: Mapping[str, Sequence[str]],
    *,
    false_alarms: float | int = 0.05,
    folder: str | Path | None = None,
) -> InputScreening:
    """Score clean prompts for the threshold, then prompts of each kind. Cost: the detector's for all of them.

    Args:
        detector: `Strip`, `Onion`, or an object of that kind.
        calibration: clean prompts; 19 are the fewest that can promise 5 % false alarms.
        kinds: name -> prompts; give other clean ones too, so that the false alarms are measured.
        false_alarms: rate that the threshold is set for.
        folder: finished forward passes are kept there and taken up again.

    Raises:
        BkdinterpError: no kind, or a rate that so few clean prompts cannot promise.
        PromptError: prompts that the detector cannot score.
    """
    rate = as_number(false_alarms, "false_alarms", low=0, high=1)
    n = len(calibration)
    if not kinds or math.isinf(threshold_at([0.0] * max(1, n), rate)):
        raise BkdinterpError(
            f"{len(kinds)} kinds and {n} clean prompts: give a kind, and {math.ceil(1 / max(rate, 1e-9)) - 1} clean ones or "
            f"more to promise a rate of {rate:g}."
        )
    own = detector.scores(calibration, folder=folder)
    found = {kind: detector.scores(texts, folder=folder) for kind, texts in kinds.items()}
    data = digest_of([list(calibration), {k: list(v) for k, v in kinds.items()}])
    seed = getattr(detector, "seed", None)
    return InputScreening(detector.model.fingerprint(data, seed=seed), detector.name, own, found, rate)
