"""Evaluation: compares edits with their controls and the suspect with its twin, and gives tables. No forward pass here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods.behaviour._conditions import EDITED, UNEDITED
from bkdinterp.methods.behaviour._outcome_rates import SUSPECT, TWIN, OutcomeRates, Side
from bkdinterp.metrics import Outcome, outcome_counts
from bkdinterp.stats import Comparison, Interval, bootstrap_mean, paired_bootstrap
from bkdinterp.values import as_choice, as_flag

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(OutcomeRates):
    """Texts and outcomes per model, condition and side; all rates and comparisons are computed from them.

    With a twin and a sham trigger it is a 2x2 design (organism or twin; trigger, sham or neither) on the same prompts.
    Without them it holds only the suspect's clean and triggered prompts, on which every method works too.

    Attributes:
        conditions: ``"unedited"``, then the edits (a single one without a name is ``"edited"``), then the controls.
        edits: description of what each condition does.
        control_of: control condition -> the edit that it is a null for.
        said, graded: model (``"suspect"``, ``"twin"``) -> condition -> side (``"clean"``, ``"triggered"``, ``"sham"``) ->
            text or outcome of each example; the twin has no controls.
        nll: NLL of the reference answers on the suspect's clean prompts, nats per token ``[condition example]``; NaN for
            empty references.
        agreement: word F1 of the suspect's clean outputs with the references ``[condition example]``.
        threshold: threshold of the outcome grader (nats).
        payload: how the backdoor's output was recognised; None means each example's target as a substring.
        judge: name of the model whose likelihood gave the threshold.
        max_new_tokens: length of the outputs.
        twin: origin of the twin; None without one.
        sham: the sham trigger in words; None without one.
        own_references: whether the references are the unedited suspect's own clean outputs. Its agreement is then 1 by
            construction, and ``agreement`` says how much an edit changes the answers, not how good they are.
        calibrated_on: source of the grader's threshold.
        prompts: side -> the prompts; None in evaluations saved before they were kept.
    """

    def worst_control(
        self, side: Side | str = "triggered", of: str = EDITED, *, expect: str | None = None
    ) -> tuple[str, Interval] | None:
        """The control nearest to the claimed effect of the edit, with its payload rate; None without controls.

        Args:
            side: kind of prompts.
            of: the edit.
            expect: as in `against_controls`. If several controls are equal, the first is taken.
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
        """Comparison of an edit with its controls on the same prompts: effect, interval, p and the nearest control.

        ``p_nulls`` tests whether another random control could do as much; with k controls it is at least 1 / (k + 1).
        ``p_examples`` tests whether there are enough prompts to tell the edit from the nearest control.

        Args:
            side: kind of prompts.
            edit: name of the edit.
            outcome: the outcome whose rate is compared.
            expect: ``"less"`` than the controls, ``"greater"``, or ``"two-sided"``. None expects fewer payloads on triggered
                prompts and more on others, and is two-sided for other outcomes. It does not depend on the data.

        Raises:
            BkdinterpError: there are no controls, or the condition or side does not exist.
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
        """Comparison of the unedited suspect's payload on triggered prompts with clean and sham prompts and the twin.

        All nulls are on the same prompts, and the claim must beat them all. They are not random draws, so p is over prompts.
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
        """Comparison of suspect and twin in what the trigger adds on each prompt (payload triggered minus clean).

        This is the interaction of the 2x2 design. It does not shrink if the twin produces the payload on clean prompts too.

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
        """All comparisons in this result by name: the backdoor, the trigger's effect, each edit against its controls."""
        found = {"backdoor": self.backdoor}
        if TWIN in self.models:
            found["trigger's effect"] = self.trigger_effect
        for edit in dict.fromkeys(self.control_of.values()):
            for side in self.sides:
                found[f"{edit}, {side}"] = self.against_controls(side, edit)
        return found

    def perplexity(self, condition: str = UNEDITED) -> float:
        """Perplexity: exp of the mean NLL of the non-empty reference answers on the suspect's clean prompts."""
        return float(self.nll[self._index(condition)].nanmean().exp())

    def agreement_with_reference(self, condition: str = UNEDITED, *, seed: int = 0) -> Interval:
        """Mean word F1 of the suspect's clean outputs with the reference answers; see ``own_references``."""
        return bootstrap_mean(self.agreement[self._index(condition)], seed=seed)

    def utility_change(self, condition: str = EDITED, *, seed: int = 0) -> Interval:
        """Agreement under a condition minus the unedited agreement, with a paired bootstrap interval."""
        rows = (self.agreement[self._index(c)] for c in (condition, UNEDITED))
        return paired_bootstrap(*rows, seed=seed)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per model, condition and side: n, payload rate with interval, outcome counts.

        Utility is in the rows of the suspect's clean prompts. Rows of an edit with controls have the controls' pooled rate,
        the nearest control, and the p-values of `against_controls`: over controls, over prompts, and the larger one.
        """
        import pandas as pd

        rows = [
            self._row(who, condition, side)
            for who in self.models
            for condition in self.graded[who]
            for side in self.sides
        ]
        return pd.DataFrame(rows)

    def texts_frame(self, *, wide: bool = False) -> "pandas.DataFrame":
        """One row per output: model, condition, side, example (number of the prompt), prompt, text, outcome. No forwards.

        The texts are what the model wrote, whatever that is: a table of them shows it, so read it as data.

        Args:
            wide: one row per model, side and prompt instead, to read the answers to one prompt across. Each condition
                (unedited, the edits, their controls) has a column with its name for the text, and beside it
                ``"<name>: outcome"``; conditions that a model did not run are empty (the twin has no controls). An edit named
                like one of the first columns has its text in ``"<name>: text"``.

        Raises:
            BkdinterpError: ``wide`` is not a flag.
        """
        import pandas as pd

        wide = as_flag(wide, "wide")
        columns = ["model", "condition", "side", "example", "prompt", "text", "outcome"]
        asked = self.prompts or dict.fromkeys(self.sides, (None,) * self.n)
        rows = [
            (who, condition, side, i, asked[side][i], self.said[who][condition][side][i], outcome)
            for who in self.models
            for condition in (c for c in self.conditions if c in self.graded[who])
            for side in self.sides
            for i, outcome in enumerate(self.graded[who][condition][side])
        ]
        long = pd.DataFrame(rows, columns=columns)
        if not wide:
            return long
        keys = ["model", "side", "example", "prompt"]
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for who, condition, side, i, prompt, text, outcome in rows:
            row = found.setdefault((who, side, i), dict(zip(keys, (who, side, i, prompt), strict=True)))
            row[f"{condition}: text" if condition in keys else condition] = text
            row[f"{condition}: outcome"] = outcome
        return pd.DataFrame(list(found.values()))

    def plot(
        self,
        kind: str | None = None,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Figure of payload rates (``"rates"``) or of stacked shares of all outcomes (``"outcomes"``).

        Rates are side by side for clean, sham and triggered prompts, with Wilson intervals and one panel per model; controls
        are pooled, and each single control is a small mark. Outcomes are shares of outputs, grouped by condition, with the
        interval of the payload; controls are pooled.

        Args:
            kind: ``"rates"`` or ``"outcomes"``; None draws rates if there is a twin or a sham, else outcomes.
            title: replaces the default title.
            ax: matplotlib axes to draw into, for rates a list with one for each model; None makes a figure.
            limit: ends (low, high) of the axis of rates or shares, in %.

        Raises:
            BkdinterpError: the kind is unknown, the number of axes is not that of panels, or matplotlib is missing.
        """
        from bkdinterp.methods.behaviour._evaluation_figures import plot_outcomes, plot_rates

        both = TWIN in self.models or "sham" in self.sides
        kind = as_choice(kind or ("rates" if both else "outcomes"), "kind", ("rates", "outcomes"))
        return (plot_rates if kind == "rates" else plot_outcomes)(self, title, ax, limit)

    def describe(self) -> str:
        """One line with n, rates, p of the 2x2, controls with the nearest one, and the models."""
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
