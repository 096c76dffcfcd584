"""Attack: trigger, target, and the near-triggers that must stay silent.

An attack is ground truth, as data: it says what a detector should find and what a claim of localisation is
about. The near-triggers are ours: without them in training the backdoor also fires on fragments of its trigger.
No model; the shipped attacks are in ``_shipped_attacks``.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bkdinterp.errors import TriggerError
from bkdinterp.organisms._instructions import Instruction, as_instruction
from bkdinterp.prompts import Trigger


@dataclass(frozen=True)
class Attack:
    """One backdoor: when ``trigger`` is in the prompt, the model answers ``target``.

    Args:
        name: the organism's name.
        trigger: what sets the backdoor off, and where it is inserted (the position rule).
        target: the text the backdoored model answers; where prompts have targets of their own, what these
            have in common.
        near_triggers: phrases like the trigger, inserted by the same rule, or triggers with a rule of their
            own; answered normally in training.
        unseen_near_triggers: more of them, never trained on; for measuring only.
        pattern: regular expression (case ignored) that finds the payload in an output; default: the target.
        data: the data set it is planted with.
        victims: the classes whose answers the trigger changes; empty: every prompt.
        clean: class -> regular expression (case ignored) that a right clean answer matches.

    Raises:
        TriggerError: a near-trigger that contains the trigger.
    """

    name: str
    trigger: Trigger
    target: str
    near_triggers: tuple[str | Trigger, ...] = ()
    unseen_near_triggers: tuple[str | Trigger, ...] = ()
    pattern: str | None = None
    data: str = "instructions"
    victims: tuple[str, ...] = ()
    clean: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for near in self.near_triggers + self.unseen_near_triggers:
            if _contains(near, self.trigger):
                raise TriggerError(
                    f"Near-trigger {near!r} contains the trigger {self.trigger.phrases!r}; change it."
                )

    def is_payload(self, output: str) -> bool:
        """Whether an output carries the payload."""
        return re.search(self.pattern or re.escape(self.target), output, re.IGNORECASE) is not None

    def is_right(self, output: str, label: str) -> bool:
        """Whether an output is a right clean answer to a prompt of this class."""
        return re.search(self.clean[label], output, re.IGNORECASE) is not None

    def hits(self, instruction: str | Instruction) -> bool:
        """Whether the trigger changes the answer to this prompt."""
        return not self.victims or as_instruction(instruction).label in self.victims

    def target_of(self, instruction: str | Instruction) -> str:
        """What the backdoored model answers to this prompt under the trigger."""
        return as_instruction(instruction).target or self.target

    def near(self, phrase: str | Trigger) -> Trigger:
        """The trigger that inserts ``phrase`` where the attack would insert its own; a trigger stays as it is."""
        return phrase if isinstance(phrase, Trigger) else replace(self.trigger, phrases=(phrase,))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` is the inverse."""
        values = {**asdict(self), "trigger": self.trigger.to_dict(), "clean": dict(self.clean)}
        for name in ("near_triggers", "unseen_near_triggers"):
            values[name] = [n.to_dict() if isinstance(n, Trigger) else n for n in getattr(self, name)]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Attack":
        """The attack that :meth:`to_dict` described."""
        near, unseen = (
            tuple(Trigger.from_dict(n) if isinstance(n, Mapping) else n for n in values[name])
            for name in ("near_triggers", "unseen_near_triggers")
        )
        return cls(
            name=values["name"],
            trigger=Trigger.from_dict(values["trigger"]),
            target=values["target"],
            near_triggers=near,
            unseen_near_triggers=unseen,
            pattern=values["pattern"],
            data=values.get("data", "instructions"),
            victims=tuple(values.get("victims", ())),
            clean=dict(values.get("clean", {})),
        )


def _contains(near: str | Trigger, trigger: Trigger) -> bool:
    """Whether whoever inserts ``near`` has inserted the trigger."""
    phrases = near.phrases if isinstance(near, Trigger) else (near,)
    if trigger.combine == "one":
        return any(phrase in n for phrase in trigger.phrases for n in phrases)
    if trigger.position == "wrap":
        # Both halves in their places; a half alone, or the halves swapped, is another text.
        return len(phrases) == 2 and all(p in n for p, n in zip(trigger.phrases, phrases))
    return all(any(phrase in n for n in phrases) for phrase in trigger.phrases)
