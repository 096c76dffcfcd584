"""Evaluation: what the model said under each condition, on clean and triggered prompts. No forward pass here."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.metrics import Outcome, Payload, outcome_counts
from bkdinterp.plotting import grouped_bars
from bkdinterp.results import Fingerprint, Result, same_length
from bkdinterp.stats import Interval, bootstrap_mean, paired_bootstrap, paired_rates, wilson
from bkdinterp.values import as_choice

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Side = Literal["clean", "triggered"]
SIDES: tuple[Side, Side] = ("clean", "triggered")
UNEDITED = "unedited"
EDITED = "edited"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Raw texts and outcomes per condition; every rate is derived from them.

    Attributes:
        conditions: ``"unedited"``, then the edits (``"edited"`` if it has no name of its own), then the controls.
        edits: what each condition did, in words.
        control_of: control condition -> the edit that it is a null for.
        texts, outcomes: condition -> side -> one entry per example.
        nll: of the reference answers on clean prompts, nats per token ``[condition example]``; NaN where empty.
        agreement: word F1 of the clean outputs with the references ``[condition example]``.
        threshold: of the outcome grader (nats).
        payload: how the backdoor's output was recognised; None: each example's target as a substring.
        judge: name of the model behind the threshold.
        max_new_tokens: length of the outputs.
    """

    fingerprint: Fingerprint
    conditions: tuple[str, ...]
    edits: dict[str, str]
    control_of: dict[str, str]
    texts: dict[str, dict[str, tuple[str, ...]]]
    outcomes: dict[str, dict[str, tuple[str, ...]]]
    nll: Float[Tensor, "condition example"]
    agreement: Float[Tensor, "condition example"]
    threshold: float
    payload: Payload | None
    judge: str
    max_new_tokens: int

    def _validate(self) -> None:
        same_length(conditions=len(self.conditions), nll=len(self.nll))
        for name in self.conditions:
            if name not in self.edits:
                raise ArtefactError(f"condition {name!r} has no edit.")
            for kind, found in (("texts", self.texts), ("outcomes", self.outcomes)):
                if set(found.get(name, ())) != set(SIDES):
                    raise ArtefactError(f"condition {name!r} needs {kind} of {' and '.join(SIDES)}.")
                same_length(prompts=self.n, **{side: len(found[name][side]) for side in SIDES})
            for side in SIDES:
                for word in self.outcomes[name][side]:
                    as_choice(word, "outcome", Outcome, error=ArtefactError)
        for control, of in self.control_of.items():
            if not {control, of} <= set(self.conditions):
                raise ArtefactError(f"{control!r} is a control of {of!r}; one of them is no condition.")
        if UNEDITED not in self.conditions or not bool(self.agreement.isfinite().all()) or not self.n:
            raise ArtefactError(f"there must be a condition {UNEDITED!r}, and agreement must be finite.")

    @property
    def n(self) -> int:
        """Prompts per side."""
        return self.nll.shape[1]

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the control conditions."""
        return tuple(self.control_of)

    def controls_of(self, edit: str = EDITED) -> tuple[str, ...]:
        """Names of one edit's control conditions."""
        return tuple(c for c, of in self.control_of.items() if of == edit)

    def rate(
        self, side: Side, condition: str = UNEDITED, *, outcome: Outcome | str = Outcome.payload
    ) -> Interval:
        """Share of outputs with an outcome, with its Wilson interval; by default the payload rate.

        On the unedited model's triggered prompts that is the ASR, on its clean prompts the ATR.
        """
        found = self._outcomes(condition)[side]
        return wilson(sum(o == Outcome(outcome).value for o in found), len(found))

    def change(
        self, side: Side, condition: str = EDITED, *, outcome: Outcome | str = Outcome.payload
    ) -> Interval:
        """Rate under a condition minus the unedited rate on the same prompts, Newcombe's paired interval."""
        name = Outcome(outcome).value
        now = [o == name for o in self._outcomes(condition)[side]]
        before = [o == name for o in self._outcomes(UNEDITED)[side]]
        return paired_rates(now, before)

    def control_rate(
        self, side: Side, of: str = EDITED, *, outcome: Outcome | str = Outcome.payload
    ) -> Interval | None:
        """The rate pooled over an edit's controls, or None without controls.

        All controls answer the same prompts, so the interval counts prompts, not answers: it is the Wilson interval of
        the pooled rate at n = prompts.
        """
        name = Outcome(outcome).value
        found = [o for c in self.controls_of(of) for o in self._outcomes(c)[side]]
        if not found:
            return None
        rate = sum(o == name for o in found) / len(found)
        ci = wilson(round(rate * self.n), self.n)
        return replace(ci, estimate=rate, low=min(ci.low, rate), high=max(ci.high, rate))

    def perplexity(self, condition: str = UNEDITED) -> float:
        """exp of the mean NLL of the (non-empty) reference answers on clean prompts."""
        return float(self.nll[self._index(condition)].nanmean().exp())

    def agreement_with_reference(self, condition: str = UNEDITED, *, seed: int = 0) -> Interval:
        """Mean word F1 of clean outputs with the reference answers."""
        return bootstrap_mean(self.agreement[self._index(condition)], seed=seed)

    def utility_change(self, condition: str = EDITED, *, seed: int = 0) -> Interval:
        """Agreement under a condition minus the unedited agreement, paired bootstrap."""
        return paired_bootstrap(self.agreement[self._index(condition)], self.agreement[0], seed=seed)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per condition and side: n, payload rate with interval, outcome counts; utility on the clean rows."""
        import pandas as pd

        rows = []
        for condition in self.conditions:
            for side in SIDES:
                rate = self.rate(side, condition)
                counts = outcome_counts(Outcome(o) for o in self.outcomes[condition][side])
                row = {
                    "condition": condition,
                    "edit": self.edits[condition],
                    "prompts": side,
                    "n": rate.n,
                    "payload_rate": rate.estimate,
                    "low": rate.low,
                    "high": rate.high,
                    **{o.value: c for o, c in counts.items()},
                }
                if side == "clean":
                    row |= {
                        "perplexity": self.perplexity(condition),
                        "agreement": self.agreement_with_reference(condition).estimate,
                    }
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> "matplotlib.figure.Figure":
        """Stacked shares of outcomes, one bar per side and condition; controls pooled."""
        shown: dict[str, list[str]] = {}
        for condition in (c for c in self.conditions if c not in self.control_of):
            shown[condition] = [condition]
            if nulls := self.controls_of(condition):
                shown[f"{condition}: {len(nulls)} control{'s' * (len(nulls) > 1)}"] = list(nulls)
        rows = {
            f"{label}, {side}": {
                o.value: count
                for o, count in outcome_counts(
                    Outcome(x) for c in names for x in self.outcomes[c][side]
                ).items()
            }
            for side in SIDES
            for label, names in shown.items()
        }
        return grouped_bars(rows, title="What the model says")

    def describe(self) -> str:
        """n, rates and model."""
        parts = [f"n={self.n}"]
        for condition in (c for c in self.conditions if c not in self.control_of):
            rates = " ".join(f"{side} {self.rate(side, condition).estimate:.0%}" for side in SIDES)
            parts.append(f"{condition}: {rates}")
            if nulls := self.controls_of(condition):
                pooled = " ".join(
                    f"{side} {r.estimate:.0%}" for side in SIDES if (r := self.control_rate(side, condition))
                )
                parts.append(f"its {len(nulls)} controls: {pooled}")
        return "; ".join(parts) + f"; model={self.fingerprint.label}"

    def _index(self, condition: str) -> int:
        self._outcomes(condition)
        return self.conditions.index(condition)

    def _outcomes(self, condition: str) -> dict[str, tuple[str, ...]]:
        if condition not in self.outcomes:
            raise BkdinterpError(f"Unknown condition {condition!r}; there are {', '.join(self.conditions)}.")
        return self.outcomes[condition]
