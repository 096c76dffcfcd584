"""ProbeScores: what probes of every layer say about every layer (BkdAttr's ICLA). Costs no forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.results import Fingerprint, Result
from bkdinterp.stats import Interval, p_value, wilson

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False)
class ProbeScores(Result):
    """Predictions on the test examples; first layer axis: trained on, second: tested on.

    Accuracies, intervals and p-values derive from the predictions. The intervals take the ``n_test`` prompts
    for independent, although they come in pairs.

    Attributes:
        predicted: True = called triggered.
        labels: True = is triggered.
        pair: index of each test example's pair in the pairs given.
        random_accuracy: on the same examples, of the random directions of each layer.
        n_train: prompts (both kinds) that each probe was fitted on.
        classifier: ``"logistic"``, ``"svm"`` or ``"mlp"``.
        paper: whether the paper's protocol was followed.
        generation_prompt: whether the last prompt token belongs to the chat template's assistant header.
        trained_on: origin of the probe; differs from ``fingerprint`` after ``FittedProbe.on(other model)``.
    """

    predicted: Bool[Tensor, "layer layer example"]
    labels: Bool[Tensor, " example"]
    pair: Int[Tensor, " example"]
    random_accuracy: Float[Tensor, "layer n_random"]
    n_train: int
    classifier: str
    paper: bool
    generation_prompt: bool
    trained_on: Fingerprint

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.predicted.shape[0]

    @property
    def n_test(self) -> int:
        """Number of test prompts, clean and triggered ones together."""
        return len(self.labels)

    @property
    def chance(self) -> float:
        """Accuracy of always giving the commoner answer: .5, except for the paper's unbalanced test set."""
        share = float(self.labels.double().mean())
        return max(share, 1 - share)

    @property
    def accuracy(self) -> Float[Tensor, "layer layer"]:
        """ICLA: share of test prompts that the probe of layer i gets right on the features of layer k."""
        right = self.predicted == self.labels
        return reduce(right.double(), "train test example -> train test", "mean")

    @property
    def in_layer(self) -> tuple[Interval, ...]:
        """Accuracy of each layer's probe on its own layer, with Wilson intervals: the diagonal of ICLA."""
        right = (self.labels == self.predicted.diagonal().T).sum(1)
        return tuple(wilson(int(n), self.n_test) for n in right)

    @property
    def p_value(self) -> Float[Tensor, " layer"]:
        """Of the diagonal: share of random directions that do at least as well; not corrected for L tests."""
        own = self.accuracy.diagonal().tolist()
        return torch.tensor(
            [p_value(a, null) for a, null in zip(own, self.random_accuracy, strict=True)], dtype=torch.float64
        )

    @property
    def random_best(self) -> Float[Tensor, " layer"]:
        """Highest accuracy of a random direction."""
        return self.random_accuracy.max(1).values

    @property
    def random_median(self) -> Float[Tensor, " layer"]:
        """Median accuracy of the random directions."""
        return self.random_accuracy.median(1).values

    def to_frame(self, kind: str = "icla") -> "pandas.DataFrame":
        """One row per train layer x test layer; ``kind="in_layer"``: one per layer, with p-value and null.

        Raises:
            BkdinterpError: an unknown kind.
        """
        import pandas

        _check_kind(kind)
        if kind == "in_layer":
            frame = pandas.DataFrame([{"layer": i, **_columns(e)} for i, e in enumerate(self.in_layer)])
            return frame.assign(
                p_value=self.p_value.numpy(),
                random_median=self.random_median.numpy(),
                random_best=self.random_best.numpy(),
            )
        # One interval per number of right calls: scipy takes its time, and the L x L cells repeat themselves.
        right = (self.predicted == self.labels).sum(2)
        intervals = {int(n): _columns(wilson(int(n), self.n_test)) for n in right.unique()}
        return pandas.DataFrame(
            [
                {"train_layer": train, "test_layer": test, **intervals[n]}
                for train, row in enumerate(right.tolist())
                for test, n in enumerate(row)
            ]
        )

    def plot(self, kind: str = "icla") -> "matplotlib.figure.Figure":
        """The L x L matrix, or (``"in_layer"``) the diagonal with intervals beside random directions.

        Raises:
            BkdinterpError: matplotlib is missing, or an unknown kind.
        """
        from bkdinterp import plotting

        _check_kind(kind)
        if kind == "icla":
            return plotting.matrix(self.accuracy, title=self._title("Probe transfer between layers"))
        own = self.in_layer
        probe = ([e.estimate for e in own], [e.low for e in own], [e.high for e in own])
        levels = torch.tensor([0.025, 0.5, 0.975], dtype=self.random_accuracy.dtype)
        low, middle, high = torch.quantile(self.random_accuracy, levels, dim=1)
        best = self.random_best
        n_random = self.random_accuracy.shape[1]
        return plotting.curves(
            list(range(self.n_layers)),
            {
                f"{self.classifier} probe": probe,
                "random directions": (middle, low, high),
                f"best of {n_random:,}": (best, best, best),
            },
            xlabel="layer",
            ylabel="accuracy (bands: 95 %)",
            title=self._title("Probe of each layer"),
            ylim=(0.0, 1.0),
        )

    def describe(self) -> str:
        """One line for the repr."""
        own, here, origin = self.in_layer, self.fingerprint.model, self.trained_on.model
        best = max(range(self.n_layers), key=lambda i: own[i].estimate)
        e, null = own[best], float(self.random_best[best])
        return (
            f"{self.n_layers} x {self.n_layers} layers, {self.classifier}{' (paper)' if self.paper else ''}, "
            f"n_train={self.n_train}, n_test={self.n_test}, "
            f"in-layer max {e.estimate:.2f} [{e.low:.2f}, {e.high:.2f}] at layer {best} "
            f"(best random direction {null:.2f}), model={here}"
            + (f", trained on {origin}" if here != origin else "")
        )

    def _title(self, text: str) -> str:
        name = self.fingerprint.model.split("@")[0].split("/")[-1]
        return f"{text}\n{name}, {self.n_test} test prompts"


def _columns(interval: Interval) -> dict[str, float]:
    return {
        "accuracy": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }


def _check_kind(kind: str) -> None:
    if kind not in ("icla", "in_layer"):
        raise BkdinterpError(f"Unknown kind {kind!r}; choose 'icla' or 'in_layer'.")
