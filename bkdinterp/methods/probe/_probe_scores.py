"""ProbeScores: predictions of every layer's probe on every layer (BkdAttr's ICLA). Costs no forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.results import Fingerprint, Result, check_beside, difference_columns, same_prompts
from bkdinterp.stats import Comparison, Interval, clustered_ends, clustered_rate, p_value

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import plotly.graph_objects


@dataclass(frozen=True, eq=False)
class ProbeScores(Result):
    """Predictions on the test examples; the first layer axis is the trained layer, the second the tested one.

    Accuracies, intervals and p-values are computed from the predictions. Report `chosen_layer`, which is chosen on the
    validation prompts. `chosen` is its accuracy on the test prompts, which had no part in the choice. `comparison`
    compares it with random directions whose layer is chosen in the same way. The largest test accuracy over all layers
    beats chance even on noise. In intervals, n is the number of pairs, because the two prompts of a pair may be correlated.

    With ``paper=True`` these guarantees do not hold: about half of the paper's test prompts are also validation prompts, and
    the partners of most are in training.

    Attributes:
        predicted: predicted labels; True means triggered.
        labels: true labels; True means triggered.
        pair: index of each test example's pair in the given pairs.
        random_accuracy: accuracy of each layer's random directions on the same examples.
        validation_right: right calls of each layer's probe on the fit's validation prompts, also after ``FittedProbe.on``.
        random_validation: accuracy of the random directions on these.
        directions: how the random directions were drawn: ``"isotropic"`` or ``"covariance"``.
        n_train: number of prompts (of both kinds) that each probe was fitted on.
        classifier: ``"logistic"``, ``"svm"`` or ``"mlp"``.
        paper: whether the paper's protocol was followed.
        generation_prompt: whether the last prompt token belongs to the chat template's assistant header.
        trained_on: origin of the probe; differs from ``fingerprint`` after ``FittedProbe.on`` with another model.
    """

    schema_version: ClassVar[int] = 2

    predicted: Bool[Tensor, "layer layer example"]
    labels: Bool[Tensor, " example"]
    pair: Int[Tensor, " example"]
    random_accuracy: Float[Tensor, "layer n_random"]
    validation_right: Bool[Tensor, "layer validation_row"]
    random_validation: Float[Tensor, "layer n_random"]
    directions: str
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
        """Number of test prompts, clean and triggered together."""
        return len(self.labels)

    @property
    def chance(self) -> float:
        """Accuracy of always predicting the commoner label: .5, except for the paper's unbalanced test set."""
        share = float(self.labels.double().mean())
        return max(share, 1 - share)

    @property
    def accuracy(self) -> Float[Tensor, "layer layer"]:
        """ICLA: share of test prompts that the probe of layer i classifies correctly on the features of layer k."""
        return reduce(self._right.double(), "train test example -> train test", "mean")

    @property
    def in_layer(self) -> tuple[Interval, ...]:
        """Accuracy of each layer's probe on its own layer, the diagonal of ICLA, with single intervals over pairs.

        Use them for a layer named beforehand. For the layer with the largest accuracy they are too optimistic; see `chosen`.
        """
        return tuple(clustered_rate(row, self.pair) for row in self._right.diagonal().T)

    @property
    def chosen_layer(self) -> int:
        """The layer whose probe is best on the validation prompts; the first if several are equal."""
        return _first_best(self.validation_right.double().mean(1, keepdim=True))[0]

    @property
    def chosen(self) -> Interval:
        """Test accuracy of the chosen layer's probe on its own layer; the test prompts had no part in the choice."""
        return clustered_rate(self._right[self.chosen_layer, self.chosen_layer], self.pair)

    @property
    def beats_chance(self) -> bool:
        """Whether the chosen layer's whole interval lies above `chance`; with our split at most 1 in 20 on noise."""
        return self.chosen.low > self.chance

    @property
    def comparison(self) -> Comparison:
        """Comparison of the chosen layer's accuracy with random directions, each at the layer that validation chose for it.

        Every null is a set of one random direction per layer, so it is chosen among as many layers as the probe.
        """
        chosen = torch.tensor(_first_best(self.random_validation))
        nulls = self.random_accuracy.gather(0, chosen[None])[0]
        own = self.accuracy[self.chosen_layer, self.chosen_layer]
        name = f"probe of layer {self.chosen_layer}"
        return Comparison.of(own, nulls, name=name, null_names=[f"direction {i}" for i in range(len(nulls))])

    @property
    def p_value(self) -> Float[Tensor, " layer"]:
        """p-values of the diagonal, for layers named beforehand: share of the layer's random directions at least as good."""
        own = self.accuracy.diagonal().tolist()
        return torch.tensor(
            [p_value(a, null) for a, null in zip(own, self.random_accuracy, strict=True)], dtype=torch.float64
        )

    @property
    def p_adjusted(self) -> Float[Tensor, " layer"]:
        """p-values of the diagonal, corrected for all layers: share of sets of directions whose BEST layer is as good."""
        best = self.random_accuracy.max(0).values
        own = self.accuracy.diagonal().tolist()
        return torch.tensor([p_value(a, best) for a in own], dtype=torch.float64)

    @property
    def random_best(self) -> Float[Tensor, " layer"]:
        """Highest accuracy of a random direction."""
        return self.random_accuracy.max(1).values

    @property
    def random_median(self) -> Float[Tensor, " layer"]:
        """Median accuracy of the random directions."""
        # `torch.median` takes the lower of the two in the middle.
        return self.random_accuracy.quantile(0.5, dim=1)

    def to_frame(self, kind: str = "icla", *, beside: "ProbeScores | None" = None) -> "pandas.DataFrame":
        """One row per train layer x test layer; ``kind="in_layer"``: one per layer, with p-values and null.

        There ``validation`` is the accuracy that chose the layer, ``p_adjusted`` is corrected for all layers.

        Args:
            kind: ``"icla"`` or ``"in_layer"``.
            beside: other scores, e.g. the twin's; adds columns ``beside`` (their accuracy) and ``difference``, and for
                ``"in_layer"`` the ends of the difference's simultaneous interval if both tested the same pairs.

        Raises:
            BkdinterpError: the kind is unknown, or ``beside`` has another number of layers.
        """
        if beside is not None:
            return self.to_frame(kind).assign(**self._gap(kind, beside))
        import pandas

        _check_kind(kind)
        if kind == "in_layer":
            frame = pandas.DataFrame([{"layer": i, **_columns(e)} for i, e in enumerate(self.in_layer)])
            return frame.assign(
                chosen=[i == self.chosen_layer for i in range(self.n_layers)],
                validation=self.validation_right.double().mean(1).numpy(),
                p_value=self.p_value.numpy(),
                p_adjusted=self.p_adjusted.numpy(),
                random_median=self.random_median.numpy(),
                random_best=self.random_best.numpy(),
            )
        right = rearrange(self._right, "train test example -> (train test) example")
        low, high = clustered_ends(right.numpy(force=True), self.pair.numpy(force=True))
        cells = [(i, k) for i in range(self.n_layers) for k in range(self.n_layers)]
        return pandas.DataFrame(
            {
                "train_layer": [i for i, _ in cells],
                "test_layer": [k for _, k in cells],
                "accuracy": self.accuracy.flatten().numpy(force=True),
                "low": low,
                "high": high,
                "n": self.n_test,
            }
        )

    def plot(
        self,
        kind: str = "icla",
        *,
        beside: "ProbeScores | None" = None,
        title: str | None = None,
        ax: Any = None,
        limit: Any = None,
    ) -> "matplotlib.figure.Figure":
        """Figure of the L x L matrix, or with ``"in_layer"`` of the diagonal with intervals and random directions.

        The layer chosen on validation is marked. The colours of the matrix are centred on `chance`.

        Args:
            kind: ``"icla"`` or ``"in_layer"``.
            beside: other scores, e.g. the twin's, drawn on the same scale.
            title: replaces the default title.
            ax: matplotlib axes to draw into, a list of two with ``beside``; None makes a figure.
            limit: for the matrix one number: colours run from chance - limit to chance + limit; for ``"in_layer"`` the ends
                (low, high) of the value axis.

        Raises:
            BkdinterpError: matplotlib is missing, the kind is unknown, or ``beside`` has another number of layers.
        """
        from bkdinterp.methods.probe import _probe_figures as figures

        _check_kind(kind)
        if beside is not None:
            self._gap(kind, beside)
        draw = figures.plot_matrix if kind == "icla" else figures.plot_in_layer
        return draw(self, beside, title, ax, limit)

    def hover(
        self,
        kind: str = "icla",
        *,
        beside: "ProbeScores | None" = None,
        title: str | None = None,
        limit: Any = None,
    ) -> "plotly.graph_objects.Figure":
        """`plot` by plotly: at the pointer each cell or point says its row of `to_frame`.

        Args:
            kind: ``"icla"`` or ``"in_layer"``.
            beside: other scores, e.g. the twin's, drawn on the same scale.
            title: replaces the default title.
            limit: as in `plot`.

        Raises:
            BkdinterpError: plotly is missing, the kind is unknown, or ``beside`` has another number of layers.
        """
        from bkdinterp.methods.probe import _probe_figures as figures

        _check_kind(kind)
        draw = figures.hover_matrix if kind == "icla" else figures.hover_in_layer
        return draw(self, beside, title, limit)

    def describe(self) -> str:
        """One line for the repr."""
        e, here, origin = self.chosen, self.fingerprint.label, self.trained_on.label
        claim = self.comparison
        return (
            f"{self.n_layers} x {self.n_layers} layers, {self.classifier}"
            f"{' (the paper: its validation and test prompts overlap)' if self.paper else ''}, "
            f"n_train={self.n_train}, n_test={self.n_test}, "
            f"layer {self.chosen_layer} (chosen on {self.validation_right.shape[1]} validation prompts) "
            f"{e.estimate:.2f} [{e.low:.2f}, {e.high:.2f}], chance {self.chance:.2f}, "
            f"p={claim.p:.2g} against {claim.n_nulls} {self.directions} directions chosen alike "
            f"(best {max(claim.null_estimates):.2f}), model={here}"
            + (f", trained on {origin}" if here != origin else "")
        )

    @property
    def _right(self) -> Bool[Tensor, "layer layer example"]:
        return self.predicted == self.labels

    def _gap(self, kind: str, beside: "ProbeScores") -> dict[str, list[float]]:
        """Columns with the other scores' accuracies and the differences."""
        check_beside(
            self, beside, **{"number of layers": (self.n_layers, getattr(beside, "n_layers", self.n_layers))}
        )
        if kind == "icla":
            other = beside.accuracy.flatten()
            return {"beside": other.tolist(), "difference": (self.accuracy.flatten() - other).tolist()}
        paired = same_prompts(self, beside) and torch.equal(self.pair.unique(), beside.pair.unique())
        return difference_columns(self._by_pair, beside._by_pair, paired=paired)

    @property
    def _by_pair(self) -> Float[Tensor, "layer pair"]:
        """Share of each pair's test prompts classified correctly by the layer's probe, scaled so that the mean is accuracy."""
        own, pairs = self._right.diagonal().T.double(), self.pair.unique()
        sums = torch.stack([own[:, self.pair == i].sum(1) for i in pairs], dim=1)
        return sums * (len(pairs) / self.n_test)


def _first_best(accuracy: Float[Tensor, "layer set"]) -> list[int]:
    """The first layer with the highest accuracy, for each column."""
    # Not argmax, which does not guarantee the first among equals.
    best = accuracy == accuracy.max(0).values
    return best.int().cumsum(0).eq(0).sum(0).tolist()


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
