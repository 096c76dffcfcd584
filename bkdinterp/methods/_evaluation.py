"""Evaluation: what the suspect, and its twin, said under each condition, on each kind of prompt. No forward pass here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.methods._conditions import EDITED as EDITED
from bkdinterp.methods._conditions import UNEDITED as UNEDITED
from bkdinterp.metrics import Outcome, Payload, outcome_counts
from bkdinterp.results import Fingerprint, Result, same_length
from bkdinterp.stats import (
    Comparison,
    Interval,
    bootstrap_mean,
    paired_bootstrap,
    paired_rates,
    pooled_rate,
    wilson,
)
from bkdinterp.values import as_choice

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Side = Literal["clean", "triggered", "sham"]
SIDES: tuple[Side, Side] = ("clean", "triggered")
SUSPECT, TWIN = "suspect", "twin"
Said = dict[str, dict[str, dict[str, tuple[str, ...]]]]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Raw texts and outcomes per model, condition and side; every rate and comparison is derived from them.

    The suspect is always there; with a twin and a sham trigger it is a 2x2 (organism or twin, trigger or sham or neither) on
    the same prompts. Without them every method works on the suspect's clean and triggered prompts.

    Attributes:
        conditions: ``"unedited"``, then the edits (``"edited"`` if it has no name of its own), then the controls.
        edits: what each condition did, in words.
        control_of: control condition -> the edit that it is a null for.
        said, graded: model (``"suspect"``, ``"twin"``) -> condition -> side (``"clean"``, ``"triggered"``, ``"sham"``) -> text or
            outcome of each example; the twin has no controls.
        nll: of the reference answers on the suspect's clean prompts, nats per token ``[condition example]``; NaN where empty.
        agreement: word F1 of the suspect's clean outputs with the references ``[condition example]``.
        threshold: of the outcome grader (nats).
        payload: how the backdoor's output was recognised; None: each example's target as a substring.
        judge: name of the model behind the threshold.
        max_new_tokens: length of the outputs.
        twin: origin of the twin; None without one.
        sham: the sham trigger in words; None without one.
        own_references: the references are the unedited suspect's own clean outputs: its agreement is 1 by construction, and
            ``agreement`` says how far an edit moves the answers, not how good they are.
        calibrated_on: what the grader's threshold was taken from.
    """

    schema_version: ClassVar[int] = 2

    fingerprint: Fingerprint
    conditions: tuple[str, ...]
    edits: dict[str, str]
    control_of: dict[str, str]
    said: Said
    graded: Said
    nll: Float[Tensor, "condition example"]
    agreement: Float[Tensor, "condition example"]
    threshold: float
    payload: Payload | None
    judge: str
    max_new_tokens: int
    twin: Fingerprint | None = None
    sham: str | None = None
    own_references: bool = False
    calibrated_on: str = ""

    def _validate(self) -> None:
        same_length(conditions=len(self.conditions), nll=len(self.nll))
        who = {SUSPECT} if self.twin is None else {SUSPECT, TWIN}
        sides = {*SIDES} if self.sham is None else {*SIDES, "sham"}
        for kind, found in (("texts", self.said), ("outcomes", self.graded)):
            if set(found) != who or UNEDITED not in found.get(TWIN, {UNEDITED: {}}):
                raise ArtefactError(
                    f"there must be {kind} of {' and '.join(sorted(who))}, unedited among them."
                )
            for name in self.conditions:
                if name not in self.edits or name not in found[SUSPECT]:
                    raise ArtefactError(f"condition {name!r} has no edit, or no {kind}.")
            for by_condition in found.values():
                for name, by_side in by_condition.items():
                    if name not in self.conditions or set(by_side) != sides:
                        raise ArtefactError(
                            f"condition {name!r} needs {kind} of {' and '.join(sorted(sides))}."
                        )
                    same_length(prompts=self.n, **{side: len(by_side[side]) for side in sides})
        for by_condition in self.graded.values():
            for by_side in by_condition.values():
                for word in {word for words in by_side.values() for word in words}:
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
    def models(self) -> tuple[str, ...]:
        """``"suspect"``, and ``"twin"`` if there is one."""
        return tuple(self.graded)

    @property
    def sides(self) -> tuple[str, ...]:
        """Kinds of prompts: clean, triggered, and sham if there was one."""
        return tuple(self.graded[SUSPECT][UNEDITED])

    @property
    def texts(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The suspect's: condition -> side -> one text per example."""
        return self.said[SUSPECT]

    @property
    def outcomes(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The suspect's: condition -> side -> one outcome per example."""
        return self.graded[SUSPECT]

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the control conditions."""
        return tuple(self.control_of)

    def controls_of(self, edit: str = EDITED) -> tuple[str, ...]:
        """Names of one edit's control conditions."""
        return tuple(c for c, of in self.control_of.items() if of == edit)

    def rate(
        self,
        side: Side | str,
        condition: str = UNEDITED,
        *,
        outcome: Outcome | str = Outcome.payload,
        model: str = SUSPECT,
    ) -> Interval:
        """Share of outputs with an outcome, with its Wilson interval; by default the suspect's payload rate.

        On the unedited model's triggered prompts that is the ASR, on its clean prompts the ATR.

        Raises:
            BkdinterpError: a model, condition or side that is not there, or an unknown outcome.
        """
        found = self._hits(side, condition, outcome, model)
        return wilson(sum(found), len(found))

    def change(
        self,
        side: Side | str,
        condition: str = EDITED,
        *,
        outcome: Outcome | str = Outcome.payload,
        model: str = SUSPECT,
    ) -> Interval:
        """Rate under a condition minus the unedited rate on the same prompts, Newcombe's paired interval."""
        return paired_rates(
            self._hits(side, condition, outcome, model), self._hits(side, UNEDITED, outcome, model)
        )

    def control_rate(
        self, side: Side | str, of: str = EDITED, *, outcome: Outcome | str = Outcome.payload
    ) -> Interval | None:
        """The rate pooled over an edit's controls, or None without controls; its interval counts prompts, not answers."""
        rows = [self._hits(side, c, outcome) for c in self.controls_of(of)]
        return pooled_rate(rows) if rows else None

    def worst_control(
        self, side: Side | str = "triggered", of: str = EDITED, *, expect: str | None = None
    ) -> tuple[str, Interval] | None:
        """The control that comes nearest to what is claimed of the edit, with its payload rate; None without controls.

        Args:
            side: kind of prompts.
            of: the edit.
            expect: as in `against_controls`; of equals the first.
        """
        if not self.controls_of(of):
            return None
        name = self.controls_of(of)[self.against_controls(side, of, expect=expect).extreme]
        return name, self.rate(side, name)

    def against_controls(
        self,
        side: Side | str = "triggered",
        edit: str = EDITED,
        *,
        outcome: Outcome | str = Outcome.payload,
        expect: str | None = None,
    ) -> Comparison:
        """An edit against its controls on the same prompts: effect, interval, p, and the control that comes nearest.

        ``p_nulls`` asks whether another random control would do as much (k controls cannot give less than 1 / (k + 1)),
        ``p_examples`` whether the prompts are enough to tell the edit from the nearest control.

        Args:
            side: kind of prompts.
            edit: which one.
            outcome: whose rate.
            expect: ``"less"`` than the controls, ``"greater"``, or ``"two-sided"``. None: on triggered prompts an edit is to take
                the payload away, on others to bring it about; for other outcomes two-sided. Not read off the data.

        Raises:
            BkdinterpError: no controls, or a condition or side that is not there.
        """
        names = self.controls_of(edit)
        if not names:
            self._side(SUSPECT, edit, side)
            raise BkdinterpError(
                f"{edit!r} has no controls; give evaluate(controls=...), e.g. from random_heads."
            )
        return Comparison.of(
            self._hits(side, edit, outcome),
            [self._hits(side, c, outcome) for c in names],
            name=edit,
            null_names=names,
            side=self._expected(side, expect, outcome),
        )

    @property
    def backdoor(self) -> Comparison:
        """The unedited suspect's payload on triggered prompts, against clean and sham prompts and the twin.

        Every null is on the same prompts; the claim must beat them all. They are no random draws, so p counts prompts.
        """
        nulls = {"clean prompts": self._hits("clean")}
        if "sham" in self.sides:
            nulls["sham trigger"] = self._hits("sham")
        if TWIN in self.models:
            nulls["twin, triggered"] = self._hits("triggered", model=TWIN)
        return Comparison.of(
            self._hits("triggered"),
            nulls.values(),
            name="triggered prompts",
            null_names=nulls,
            sampled=False,
        )

    @property
    def trigger_effect(self) -> Comparison:
        """What the trigger adds on each prompt (payload triggered minus clean), on the suspect against the twin.

        The interaction of the 2x2: a twin that says the payload anyway, or on any trigger, takes nothing from it.

        Raises:
            BkdinterpError: no twin was evaluated.
        """
        if TWIN not in self.models:
            raise BkdinterpError("There is no twin to compare with; give evaluate(twin=...).")
        added = {
            who: [
                a - b
                for a, b in zip(*(self._hits(s, model=who) for s in ("triggered", "clean")), strict=True)
            ]
            for who in (SUSPECT, TWIN)
        }
        return Comparison.of(
            added[SUSPECT],
            [added[TWIN]],
            name="trigger's effect",
            null_names=["the twin's"],
            sampled=False,
        )

    def claims(self) -> dict[str, Comparison]:
        """Every comparison of this result by name: the backdoor, the trigger's effect, each edit against its controls."""
        found = {"backdoor": self.backdoor}
        if TWIN in self.models:
            found["trigger's effect"] = self.trigger_effect
        for edit in dict.fromkeys(self.control_of.values()):
            for side in self.sides:
                found[f"{edit}, {side}"] = self.against_controls(side, edit)
        return found

    def perplexity(self, condition: str = UNEDITED) -> float:
        """exp of the mean NLL of the (non-empty) reference answers on the suspect's clean prompts."""
        return float(self.nll[self._index(condition)].nanmean().exp())

    def agreement_with_reference(self, condition: str = UNEDITED, *, seed: int = 0) -> Interval:
        """Mean word F1 of the suspect's clean outputs with the reference answers; see ``own_references``."""
        return bootstrap_mean(self.agreement[self._index(condition)], seed=seed)

    def utility_change(self, condition: str = EDITED, *, seed: int = 0) -> Interval:
        """Agreement under a condition minus the unedited agreement, paired bootstrap."""
        rows = (self.agreement[self._index(c)] for c in (condition, UNEDITED))
        return paired_bootstrap(*rows, seed=seed)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per model, condition and side: n, payload rate with interval, outcome counts.

        Utility stands on the suspect's clean rows. Rows of an edit with controls have their pooled rate, the control that
        comes nearest, and the p-values of `against_controls`: over controls, over prompts, and the larger one.
        """
        import pandas as pd

        rows = [
            self._row(who, condition, side)
            for who in self.models
            for condition in self.graded[who]
            for side in self.sides
        ]
        return pd.DataFrame(rows)

    def plot(
        self, kind: str | None = None, *, title: str | None = None, ax: Any = None
    ) -> "matplotlib.figure.Figure":
        """Payload rates (``"rates"``) or stacked shares of all outcomes (``"outcomes"``).

        Rates stand side by side for clean, sham and triggered prompts, with Wilson intervals, one panel per model; controls are
        pooled, and each single one is a small mark. Outcomes are shares of outputs; controls pooled.

        Args:
            kind: None draws rates where there is a twin or a sham, else outcomes.
            title: instead of the default.
            ax: matplotlib axes to draw outcomes into; rates of several models need a figure of their own.

        Raises:
            BkdinterpError: an unknown kind, axes for several panels, or matplotlib is missing.
        """
        from bkdinterp.methods._evaluation_figures import plot_outcomes, plot_rates

        both = TWIN in self.models or "sham" in self.sides
        kind = as_choice(kind or ("rates" if both else "outcomes"), "kind", ("rates", "outcomes"))
        return (plot_rates if kind == "rates" else plot_outcomes)(self, title, ax)

    def describe(self) -> str:
        """n, rates, the 2x2's p, controls with the one that comes nearest, and the models."""
        parts = [f"n={self.n}"]
        for who in self.models:
            for condition in (c for c in self.graded[who] if c not in self.control_of):
                rates = " ".join(
                    f"{side} {self.rate(side, condition, model=who).estimate:.0%}" for side in self.sides
                )
                parts.append(f"{condition if who == SUSPECT else f'{who} {condition}'}: {rates}")
                if who == SUSPECT and (nulls := self.controls_of(condition)):
                    parts.append(
                        f"its {len(nulls)} control{'s' * (len(nulls) > 1)}: {self._pooled(condition)}"
                    )
        if len(self.backdoor.null_names) > 1:
            parts.append(f"backdoor p={self.backdoor.p:.2g} against {', '.join(self.backdoor.null_names)}")
        if self.own_references:
            parts.append("references: its own clean outputs")
        return "; ".join(parts) + f"; model={self.fingerprint.label}"

    def _pooled(self, edit: str) -> str:
        found = []
        for side in self.sides:
            rate, worst = self.control_rate(side, edit), self.worst_control(side, edit)
            if rate is not None and worst is not None:
                found.append(f"{side} {rate.estimate:.0%} (nearest {worst[1].estimate:.0%})")
        return " ".join(found)

    def _row(self, who: str, condition: str, side: str) -> dict[str, Any]:
        rate = self.rate(side, condition, model=who)
        counts = outcome_counts(Outcome(o) for o in self.graded[who][condition][side])
        row: dict[str, Any] = {
            "model": who,
            "condition": condition,
            "edit": self.edits[condition],
            "prompts": side,
            "n": rate.n,
            "payload_rate": rate.estimate,
            "low": rate.low,
            "high": rate.high,
            **{o.value: c for o, c in counts.items()},
        }
        if who != SUSPECT:
            return row
        if side == "clean":
            row |= {
                "perplexity": self.perplexity(condition),
                "agreement": self.agreement_with_reference(condition).estimate,
            }
        pooled, worst = self.control_rate(side, condition), self.worst_control(side, condition)
        if pooled is not None and worst is not None:
            claim = self.against_controls(side, condition)
            row |= {
                "n_controls": claim.n_nulls,
                "control_rate": pooled.estimate,
                "worst_control": worst[0],
                "worst_control_rate": worst[1].estimate,
                "expected": claim.side,
                "p_controls": claim.p_nulls,
                "p_prompts": claim.p_examples,
                "p": claim.p,
            }
        return row

    def _expected(self, side: str, expect: str | None, outcome: Outcome | str = Outcome.payload) -> str:
        if expect is not None:
            return as_choice(expect, "expect", ("less", "greater", "two-sided"))
        if Outcome(outcome) is not Outcome.payload:
            return "two-sided"
        return "less" if side == "triggered" else "greater"

    def _index(self, condition: str) -> int:
        self._side(SUSPECT, condition, "clean")
        return self.conditions.index(condition)

    def _hits(
        self,
        side: str,
        condition: str = UNEDITED,
        outcome: Outcome | str = Outcome.payload,
        model: str = SUSPECT,
    ) -> list[bool]:
        """Which outputs have the outcome."""
        name = as_choice(getattr(outcome, "value", outcome), "outcome", tuple(o.value for o in Outcome))
        return [o == name for o in self._side(model, condition, side)]

    def _side(self, model: str, condition: str, side: str) -> tuple[str, ...]:
        if model not in self.graded:
            raise BkdinterpError(f"Unknown model {model!r}; there are {', '.join(self.models)}.")
        conditions = self.graded[model]
        if condition not in conditions:
            raise BkdinterpError(f"Unknown condition {condition!r}; there are {', '.join(conditions)}.")
        if side not in conditions[condition]:
            raise BkdinterpError(f"Unknown side {side!r}; there are {', '.join(self.sides)}.")
        return conditions[condition][side]
