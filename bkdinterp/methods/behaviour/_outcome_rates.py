"""OutcomeRates: outputs of the suspect and its twin on each kind of prompt, and rates of outcomes. No forward pass here."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.methods.behaviour._conditions import EDITED, UNEDITED
from bkdinterp.metrics import Outcome, Payload
from bkdinterp.results import Fingerprint, Result, same_length
from bkdinterp.stats import Interval, paired_rates, pooled_rate, wilson
from bkdinterp.values import as_choice

Side = Literal["clean", "triggered", "sham"]
SIDES: tuple[Side, Side] = ("clean", "triggered")
SUSPECT, TWIN = "suspect", "twin"
Said = dict[str, dict[str, dict[str, tuple[str, ...]]]]


@dataclass(frozen=True, eq=False, repr=False)
class OutcomeRates(Result):
    """The fields of an `Evaluation` (described there), with their checks and the rates of outcomes."""

    schema_version: ClassVar[int] = 2
    row_name: ClassVar[tuple[str, ...]] = ("model", "condition", "prompts")

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
    prompts: dict[str, tuple[str, ...]] | None = None

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
        if self.prompts is not None:
            if set(self.prompts) != sides:
                raise ArtefactError(f"there must be prompts of {' and '.join(sorted(sides))}.")
            same_length(outputs=self.n, **{side: len(texts) for side, texts in self.prompts.items()})
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
        """Number of prompts per side."""
        return self.nll.shape[1]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models: ``"suspect"``, and ``"twin"`` if there is one."""
        return tuple(self.graded)

    @property
    def sides(self) -> tuple[str, ...]:
        """Kinds of prompts: clean, triggered, and sham if there is one."""
        return tuple(self.graded[SUSPECT][UNEDITED])

    @property
    def texts(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The suspect's texts: condition -> side -> one text per example."""
        return self.said[SUSPECT]

    @property
    def outcomes(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The suspect's outcomes: condition -> side -> one outcome per example."""
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
            BkdinterpError: the model, condition, side or outcome does not exist.
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
        """Rate under a condition minus the unedited rate on the same prompts, with Newcombe's paired interval."""
        return paired_rates(
            self._hits(side, condition, outcome, model), self._hits(side, UNEDITED, outcome, model)
        )

    def control_rate(
        self, side: Side | str, of: str = EDITED, *, outcome: Outcome | str = Outcome.payload
    ) -> Interval | None:
        """The rate pooled over an edit's controls, None without controls; in its interval n is the number of prompts."""
        rows = [self._hits(side, c, outcome) for c in self.controls_of(of)]
        return pooled_rate(rows) if rows else None

    def _hits(
        self,
        side: str,
        condition: str = UNEDITED,
        outcome: Outcome | str = Outcome.payload,
        model: str = SUSPECT,
    ) -> list[bool]:
        """Whether each output has the outcome."""
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
