"""validation_loss(): mean negative log-likelihood per token of held-out text, unedited or under an edit.

Every text is scored from its second word on, given the first. An edit with ``where="all", generated=True`` acts on the first
word and on all later ones. Costs one forward per batch of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PromptError
from bkdinterp.interventions import Intervention, Stack
from bkdinterp.methods._guards import check_origin, check_texts
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import curves, ends
from bkdinterp.prompts import Prompts
from bkdinterp.results import Fingerprint, Result, caption
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class ValidationLoss(Result):
    """Loss of every text.

    Attributes:
        nll: summed negative log-likelihood of each text's tokens after the first word, nats.
        n_tokens: number of these tokens.
    """

    row_name: ClassVar[tuple[str, ...]] = ("text",)

    fingerprint: Fingerprint
    nll: Float[Tensor, " example"]
    n_tokens: Int[Tensor, " example"]

    @property
    def mean(self) -> float:
        """Loss in nats per token, with equal weight for all tokens."""
        return float(self.nll.sum() / self.n_tokens.sum())

    def interval(self, *, seed: int = 0, n_resamples: int = 2000, level: float = 0.95) -> Interval:
        """The mean with its bootstrap interval over texts."""
        generator = torch.Generator().manual_seed(seed)
        n = len(self.nll)
        picks = torch.randint(n, (n_resamples, n), generator=generator)
        means = self.nll.double()[picks].sum(1) / self.n_tokens[picks].sum(1)
        tail = (1 - level) / 2
        low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        return Interval(self.mean, min(low, self.mean), max(high, self.mean), n, "bootstrap", level)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per text: its number, loss per token and number of tokens."""
        import pandas as pd

        loss, n_tokens = (self.nll / self.n_tokens).tolist(), self.n_tokens.tolist()
        return pd.DataFrame({"text": range(len(loss)), "loss": loss, "n_tokens": n_tokens})

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Sorted losses of the texts, and their mean with its interval.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        loss = (self.nll / self.n_tokens).sort().values
        mean = self.interval()
        return curves(
            range(1, len(loss) + 1),
            {"one text": (loss, None, None)},
            xlabel="text, sorted",
            ylabel="loss (nats per token)",
            title=title or caption("Loss of each held-out text", self.fingerprint, f"n={len(loss)}"),
            null=(mean.low, mean.high),
            null_label="mean of all tokens, 95 %",
            ylim=ends(limit),
            ax=ax,
        )

    def describe(self) -> str:
        """One line with mean, interval and model."""
        return f"{self.interval()} nats per token, {int(self.n_tokens.sum())} tokens, model={self.fingerprint.label}"


def validation_loss(
    model: Model,
    texts: Sequence[str],
    *,
    under: Intervention | None = None,
    **options: Unpack[RunOptions],
) -> ValidationLoss:
    """Measure the loss of held-out texts, as raw text without a chat template.

    Args:
        model: any model.
        texts: texts of at least two words, separated by a space.
        under: an intervention to measure under.
        **options: how it runs; see `RunOptions`.

    Raises:
        PromptError: there are no texts, or one has no second word.
        PlanError: ``texts`` is a single string.
        ArtefactError: the intervention's means or directions come from another model.
    """
    as_model(model, "validation_loss")
    options = as_options(options, "validation_loss")
    texts = check_texts(texts, "validation_loss")
    check_origin(model, under, "validation_loss")
    split = [text.strip().partition(" ") for text in texts]
    for i, (_, _, rest) in enumerate(split):
        if not rest.strip():
            raise PromptError(f"validation_loss: text {i}, {texts[i][:40]!r}, needs at least two words.")
    # In tokenizers that mark word starts by a space, the space belongs to the second word's token.
    spaced = [f" {rest}" for _, _, rest in split]
    prompts = Prompts.of([first for first, _, _ in split], target=spaced)
    builder = replace(model.builder.raw(), end_token=False)
    asked = Run(prompts, Stack() if under is None else under, score="sum_logprob", builder=builder)
    (result,) = run(model, [asked], options)
    assert result.scores is not None
    counts = [len(builder.target_ids("", target)) for target in spaced]
    return ValidationLoss(
        model.fingerprint(prompts.fingerprint), -result.scores.double(), torch.tensor(counts)
    )
