"""How many rows a backdoor needs: success and clean accuracy along the poisoning rate, over seeds. Cost: one training each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection.images._digits import digits
from bkdinterp.detection.images._network import CNNSettings
from bkdinterp.detection.images._poisoned_pictures import image_model
from bkdinterp.detection.images._triggers import ImageAttack
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.plotting import curves, ends
from bkdinterp.results import Fingerprint, Result, caption, same_length, versions, within
from bkdinterp.stats import Interval, bootstrap_mean
from bkdinterp.values import as_integers, as_items, as_number

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class PoisoningCurve(Result):
    """Rates of single models; intervals are over seeds, which change split, target, trigger and initial weights.

    Attributes:
        kind: of attack.
        rates: share of the training rows; of the target's own rows where labels stay clean.
        success: share of test pictures of other classes that the trigger turns.
        accuracy: on clean test pictures.
        clean_accuracy: of models of the same seeds without poison.
        seeds: one per column.
    """

    fingerprint: Fingerprint
    kind: str
    rates: tuple[float, ...]
    success: Float[Tensor, "rate seed"]
    accuracy: Float[Tensor, "rate seed"]
    clean_accuracy: Float[Tensor, " seed"]
    seeds: tuple[int, ...]

    def _validate(self) -> None:
        same_length(rates=len(self.rates), success=len(self.success))
        same_length(seeds=len(self.seeds), columns=len(self.clean_accuracy))
        if not self.seeds or not self.rates:
            raise ArtefactError("there is no seed, or no rate.")
        within(
            0,
            1,
            rates=self.rates,
            success=self.success,
            accuracy=self.accuracy,
            clean_accuracy=self.clean_accuracy,
        )

    def interval(self, rate: float | int, *, of: str = "success") -> Interval:
        """Mean over seeds at one of the rates, of ``"success"`` or ``"accuracy"``.

        Raises:
            BkdinterpError: a rate that was not measured, or something else.
        """
        if rate not in self.rates or of not in ("success", "accuracy"):
            raise BkdinterpError(f"rate={rate}, of={of!r}: rates are {self.rates}, of success or accuracy.")
        return bootstrap_mean(getattr(self, of)[self.rates.index(rate)])

    def to_frame(self) -> "pandas.DataFrame":
        """One row per rate: success and accuracy with intervals over seeds."""
        import pandas as pd

        rows = []
        for rate in self.rates:
            s, a = self.interval(rate), self.interval(rate, of="accuracy")
            rows.append(
                {"rate": rate, "success": s.estimate, "low": max(s.low, 0.0), "high": min(s.high, 1.0), "seeds": s.n}
                | {"accuracy": a.estimate, "accuracy_low": a.low, "accuracy_high": min(a.high, 1.0)}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Success and accuracy along the rate, with bands over seeds and the clean models' accuracy as a band.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        f = self.to_frame()
        clean = self.clean_accuracy
        return curves(
            [100 * r for r in self.rates],
            {
                "turned by the trigger": (f.success.tolist(), f.low.tolist(), f.high.tolist()),
                "right without trigger": (
                    f.accuracy.tolist(),
                    f.accuracy_low.tolist(),
                    f.accuracy_high.tolist(),
                ),
            },
            xlabel="poisoned rows (%)"
            if self.kind != "clean-label"
            else "poisoned rows of the target class (%)",
            ylabel="share of test pictures (with 95 % bands)",
            title=title
            or caption(
                f"Rows that a {self.kind} backdoor needs", self.fingerprint, f"{len(self.seeds)} seeds"
            ),
            null=(float(clean.min()), float(clean.max())),
            null_label="right, clean models",
            ylim=ends(limit) or (0, 1),
            ax=ax,
        )


def poisoning_curve(
    kind: str,
    rates: Sequence[float | int],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    settings: CNNSettings | None = None,
) -> PoisoningCurve:
    """Train at every rate with every seed, and one clean model a seed.

    Raises:
        BkdinterpError: an unknown kind, the kind without rows, no rate or no seed, or rates outside 0 to 1.
    """
    chosen = tuple(as_number(r, "rates", low=0, high=1) for r in as_items(rates, "rates"))
    drawn = tuple(as_integers(seeds, "seeds"))
    if not chosen or not drawn or kind == "weights":
        raise BkdinterpError(
            f"kind={kind!r}, {len(chosen)} rates and {len(drawn)} seeds: poison rows at a rate, or more."
        )
    success, accuracy = torch.zeros(2, len(chosen), len(drawn))
    clean = torch.zeros(len(drawn))
    for column, seed in enumerate(drawn):
        splits = digits(seed)
        for row, rate in enumerate(chosen):
            attack = ImageAttack.draw(kind, seed, rate=rate)
            right, turned = image_model(attack, splits, seed=seed, settings=settings).rates(splits.test)
            success[row, column], accuracy[row, column] = turned.estimate, right.estimate
        bare = image_model(None, splits, seed=seed, settings=settings)
        clean[column] = bare.rates(splits.test, ImageAttack.draw(kind, seed))[0].estimate
    origin = Fingerprint("SmallCNN", None, None, "float32", "", "digits", drawn[0], versions())
    return PoisoningCurve(origin, kind, chosen, success, accuracy, clean, drawn)
