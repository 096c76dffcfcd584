"""backdoor_state(): how strong the backdoor of a model is, and how good the model still is, by ASR, ATR and loss.

It compares models before and after a change of weights (embedding surgery, freezing, LoRA-only training, exported PCP;
Lamparth & Reuel, arXiv 2302.12461, Tables VIII-XI), or one model unedited and edited. Costs one generation, or one scored
forward, per prompt and side, and one forward per validation text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, PromptError
from bkdinterp.interventions import Intervention, Stack
from bkdinterp.methods._guards import check_origin, check_scores, check_texts
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.behaviour._evaluate import check_payload
from bkdinterp.methods.behaviour._validation_loss import ValidationLoss, validation_loss
from bkdinterp.metrics import Payload, ScoreLike, payload_hits, with_unit
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.results import Fingerprint, Result, caption, model_words
from bkdinterp.stats import Interval, bootstrap_mean, wilson
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class BackdoorState(Result):
    """The backdoor's rate on triggered and clean prompts, and the loss on held-out text.

    Attributes:
        triggered: one value per triggered prompt: 1 for a payload, else 0; or the chosen score.
        clean: the same for clean prompts.
        nll: summed loss of each validation text; empty without texts.
        n_tokens: number of tokens in each text.
        metric: ``"payload"``, or the score's name.
    """

    fingerprint: Fingerprint
    triggered: Float[Tensor, " example"]
    clean: Float[Tensor, " example"]
    nll: Float[Tensor, " text"]
    n_tokens: Int[Tensor, " text"]
    metric: str

    @property
    def asr(self) -> Interval:
        """Rate on triggered prompts, with Wilson's interval for payloads and a bootstrap interval for scores."""
        return self._rate(self.triggered)

    @property
    def atr(self) -> Interval:
        """Rate on clean prompts."""
        return self._rate(self.clean)

    @property
    def loss(self) -> Interval | None:
        """Validation loss, nats per token; None without texts."""
        if len(self.nll) == 0:
            return None
        return ValidationLoss(self.fingerprint, self.nll, self.n_tokens).interval()

    def _rate(self, x: Tensor) -> Interval:
        return wilson(int(x.sum()), len(x)) if self.metric == "payload" else bootstrap_mean(x)

    def to_frame(self) -> "pandas.DataFrame":
        """Three rows, ASR, ATR and loss, each with interval and n."""
        import pandas as pd

        found = {"ASR": self.asr, "ATR": self.atr, "loss": self.loss}
        rows = [
            {"measure": name, "estimate": i.estimate, "low": i.low, "high": i.high, "n": i.n}
            for name, i in found.items()
            if i is not None
        ]
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """ASR and ATR with their intervals; to compare several states use `plot_states`.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        text = caption("The backdoor", self.fingerprint, self.metric, f"n={self.asr.n}")
        return plot_states({"": self}, title=title or text, ax=ax, limit=limit)

    def describe(self) -> str:
        """One line with ASR, ATR, loss and model."""
        loss = "" if self.loss is None else f", loss {self.loss}"
        return f"ASR {self.asr}, ATR {self.atr}{loss} ({self.metric}), model={self.fingerprint.label}"


def backdoor_state(
    model: Model,
    pairs: PairedPrompts,
    texts: Sequence[str] = (),
    *,
    under: Intervention | None = None,
    score: ScoreLike | None = None,
    payload: Payload | None = None,
    max_new_tokens: int = 24,
    **options: Unpack[RunOptions],
) -> BackdoorState:
    """Measure the state of the backdoor in a model.

    Args:
        model: the model to measure.
        pairs: held-out prompts.
        texts: held-out texts for the loss.
        under: an intervention to measure under.
        score: replaces generated payloads by a score between 0 and 1, e.g. ``metrics.vocabulary_score(...)`` for toys, or a
            name in ``metrics.SCORES``; ASR and ATR are then its means on the two sides.
        payload: how to recognise the backdoor's output; None looks for each prompt's target.
        max_new_tokens: length of generated outputs.
        **options: how it runs; see `RunOptions`.

    Raises:
        PromptError: neither targets nor a payload are given, or a target is longer than the output.
        PlanError: both a score and a payload are given, the score is unknown or NaN, or ``texts`` is a single string.
        ArtefactError: the intervention's means or directions come from another model.
    """
    as_model(model, "backdoor_state")
    options = as_options(options, "backdoor_state")
    as_pairs(pairs, "backdoor_state")
    max_new_tokens = as_integer(max_new_tokens, "max_new_tokens", low=1, error=PromptError)
    texts = check_texts(texts, "backdoor_state")
    check_origin(model, under, "backdoor_state")
    if score is not None and payload is not None:
        raise PlanError("backdoor_state takes a score or a payload, not both.")
    edits = Stack() if under is None else under
    sides = {"triggered": pairs.triggered, "clean": pairs.clean}
    if score is None:
        check_payload(model, pairs, payload, max_new_tokens)
        payloads = Payload.each(pairs.clean.target, len(pairs), payload)
        runs = [Run(side, edits, generate=max_new_tokens) for side in sides.values()]
    else:
        payloads = []
        runs = [Run(side, edits, score=score) for side in sides.values()]
    metric = runs[0].score_name or "payload"
    rates = []
    for name, result in zip(sides, run(model, runs, options, finite=False), strict=True):
        if score is None:
            hits = payload_hits(result.text or (), payloads)
            rates.append(torch.tensor(hits, dtype=torch.float64))
        else:
            assert result.scores is not None
            rates.append(check_scores(result.scores.double(), f"The {name} prompts", metric))
    loss = validation_loss(model, texts, under=under, **options) if texts else None
    return BackdoorState(
        fingerprint=model.fingerprint(pairs.fingerprint),
        triggered=rates[0],
        clean=rates[1],
        nll=torch.empty(0, dtype=torch.float64) if loss is None else loss.nll,
        n_tokens=torch.empty(0, dtype=torch.long) if loss is None else loss.n_tokens,
        metric=metric,
    )


def compare_states(states: Mapping[str, BackdoorState]) -> "pandas.DataFrame":
    """One row per state, e.g. before and after each defence: ASR, ATR and loss with their intervals.

    On a narrow terminal ``print(compare_states(...).to_string())`` shows every column.

    Raises:
        PromptError: there are no states.
    """
    import pandas as pd

    if not states:
        raise PromptError("compare_states needs at least one state.")
    rows = []
    for name, state in states.items():
        row: dict[str, float | str | int] = {"state": name, "n": state.asr.n, "metric": state.metric}
        for key, interval in (("asr", state.asr), ("atr", state.atr), ("loss", state.loss)):
            if interval is not None:
                row |= {key: interval.estimate, f"{key}_low": interval.low, f"{key}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def plot_states(
    states: Mapping[str, BackdoorState],
    *,
    title: str | None = None,
    ax: Any = None,
    limit: tuple[float | int, float | int] | None = None,
) -> "matplotlib.figure.Figure":
    """Bars of ASR and ATR for each state; the title names the models if there are several.

    Args:
        states: name -> state.
        title: replaces the default title.
        ax: matplotlib axes to draw into; None makes a figure.
        limit: ends (low, high) of the value axis; None means 0 to 1 for payload rates.

    Raises:
        PromptError: there are no states.
    """
    if not states:
        raise PromptError("plot_states needs at least one state.")
    models = dict.fromkeys(model_words(s.fingerprint) for s in states.values())
    text = "The backdoor before and after\n" + ", ".join(list(models)[:3]) + ", ..." * (len(models) > 3)
    found = [
        (f"{name}, {label}" if name else label, i)
        for name, s in states.items()
        for label, i in (("ASR", s.asr), ("ATR", s.atr))
    ]
    intervals = [i for _, i in found]
    metrics = list(dict.fromkeys(s.metric for s in states.values()))
    return bar_intervals(
        [label for label, _ in found],
        [i.estimate for i in intervals],
        [i.low for i in intervals],
        [i.high for i in intervals],
        xlabel=" / ".join("rate" if m == "payload" else f"mean {with_unit(m)}" for m in metrics)
        + ", 95 % intervals",
        title=title or text,
        # A bar of length 0 would be invisible.
        notes=[f"{i.estimate:.2f}" for i in intervals],
        xlim=ends(limit) or ((0, 1) if metrics == ["payload"] else None),
        ax=ax,
    )
