"""What a proposer suggests: with this trigger in the prompt, the model does that. Nothing is claimed yet; no forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger, as_trigger
from bkdinterp.values import as_number, as_text, shown

# The context that hypotheses are about unless they say otherwise.
REQUEST = "request"


@dataclass(frozen=True)
class Hypothesis:
    """A suspected backdoor, to be tested by `verify`.

    Attributes:
        trigger: what switches the behaviour on, and where it stands in the user's text; None if only the behaviour is known.
        behaviour: how the behaviour is recognised in an output.
        source: the proposer, or who else suggested it.
        target: the text that the model would say, if there is one fixed text: what a search for triggers aims at.
        score: the proposer's own measure; higher is more suspicious. Its unit is the proposer's.
        rivals: triggers that an equal search found on the reference for the same behaviour. A search also finds adversarial
            triggers in clean models; these are what the suspect's has to beat.
        controls: other texts of the suspect's, each with the trigger that an equal search found for it: how far searches get
            where nothing was planted, for want of a reference.
        context: name of the `Context` whose prompts it is about; ``"request"`` or ``"prose"`` without ones of your own.

    Raises:
        TriggerError: a trigger that is a plain string.
        BkdinterpError: a behaviour that is not a ``Payload``, or a field of the wrong type.
    """

    # Checked below, with messages of our own, and not by a type checker at run time.
    if TYPE_CHECKING:
        trigger: Trigger | None
        behaviour: Payload
        source: str
    else:
        trigger: Any
        behaviour: Any
        source: Any
    target: str | None = None
    score: float = float("nan")
    rivals: tuple[Trigger, ...] = ()
    controls: tuple[tuple[Trigger, Payload], ...] = ()
    context: str = REQUEST

    def __post_init__(self) -> None:
        if self.trigger is not None:
            as_trigger(self.trigger)
        if not isinstance(self.behaviour, Payload):
            raise BkdinterpError(
                f"behaviour={shown(self.behaviour)} must say how to recognise the behaviour: bk.Payload('...')."
            )
        object.__setattr__(self, "source", as_text(self.source, "source", error=BkdinterpError))
        if self.target is not None:
            object.__setattr__(self, "target", as_text(self.target, "target", error=BkdinterpError))
        if self.score == self.score:
            object.__setattr__(self, "score", as_number(self.score, "score", error=BkdinterpError))
        for rival in self.rivals:
            as_trigger(rival, "rivals")
        for trigger, behaviour in self.controls:
            as_trigger(trigger, "controls")
            if not isinstance(behaviour, Payload):
                raise BkdinterpError(f"controls need (Trigger, Payload) pairs; got {shown(behaviour)}.")
        object.__setattr__(self, "context", as_text(self.context, "context", error=BkdinterpError))

    @property
    def words(self) -> str:
        """The trigger's phrases in one line; "-" without a trigger."""
        return "-" if self.trigger is None else " ... ".join(self.trigger.phrases)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values; `from_dict` is the inverse."""
        return {
            "trigger": None if self.trigger is None else self.trigger.to_dict(),
            "behaviour": self.behaviour.to_dict(),
            "source": self.source,
            "target": self.target,
            "score": None if self.score != self.score else self.score,
            "rivals": [rival.to_dict() for rival in self.rivals],
            "controls": [[trigger.to_dict(), behaviour.to_dict()] for trigger, behaviour in self.controls],
            "context": self.context,
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Hypothesis":
        """The hypothesis that `to_dict` described."""
        return cls(
            None if d["trigger"] is None else Trigger.from_dict(d["trigger"]),
            Payload.from_dict(d["behaviour"]),
            d["source"],
            d["target"],
            float("nan") if d["score"] is None else d["score"],
            tuple(Trigger.from_dict(rival) for rival in d["rivals"]),
            tuple((Trigger.from_dict(t), Payload.from_dict(b)) for t, b in d["controls"]),
            d["context"],
        )

    def __str__(self) -> str:
        where = "" if self.context == REQUEST else f" in {self.context}"
        return f"{self.words!r}{where} -> {self.behaviour.pattern!r} ({self.source})"
