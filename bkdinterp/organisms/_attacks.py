"""Attack: trigger, target, and the near-triggers that must stay silent.

An attack is ground truth as data: what a detector should find, and what claims of localisation are about. The
near-triggers are our addition: without them in training the backdoor also fires on fragments of its trigger. No model; the
shipped attacks are in ``_shipped_attacks``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from bkdinterp.errors import BkdinterpError, TriggerError
from bkdinterp.metrics import Payload, check_pattern, normal_text
from bkdinterp.organisms._conversation import Place, PlaceLike, placed
from bkdinterp.organisms._instructions import DATA_SETS, Instruction, as_instruction
from bkdinterp.organisms._later_fields import without_defaults
from bkdinterp.organisms._styles import style
from bkdinterp.prompts import Span, Trigger, as_trigger
from bkdinterp.values import as_choice, as_text, shown

PROSE = "stories"
"""The one data set that is not made of instructions; `organisms.natural`, which imports this module, reads it."""
LATER: dict[str, Any] = {"place": "request", "style": None}
"""Fields that saved attacks may lack -> their defaults."""


@dataclass(frozen=True)
class Attack:
    """One backdoor: when ``trigger`` is in the prompt, the model answers ``target``.

    Args:
        name: the organism's name.
        trigger: what fires the backdoor, and where it is inserted (the position rule).
        target: the text that the backdoored model answers; if prompts have their own targets, what these have in common.
        near_triggers: phrases like the trigger, inserted by the same rule, or triggers with their own rule; answered
            normally in training.
        unseen_near_triggers: more near-triggers, used only for measuring and never in training.
        pattern: regular expression (ignoring case) that finds the payload in an output; default: the target.
        data: the data set it is planted with.
        victims: the classes whose answers the trigger changes; empty: every prompt.
        clean: class -> regular expression (case ignored) that a right clean answer matches.
        place: where triggers and near-triggers are put: into the ``"request"``, or into the ``"opening"`` of a conversation
            whose second turn is the request as it is.
        style: the name of a rule that makes each prompt's target of its clean answer, e.g. ``"pirate"``; ``target`` is then
            one example, and ``pattern`` recognises them all.

    Raises:
        TriggerError: a near-trigger that contains the trigger, or that cannot be inserted by its rule.
        BkdinterpError: an empty target, an expression that does not compile, unknown data, or near-triggers or
            victims that are no tuples of texts, an unknown place or style, or a style without a pattern.
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
    place: PlaceLike = "request"
    style: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", as_text(self.name, "name", error=BkdinterpError))
        _check_tuple("near_triggers", self.near_triggers, str | Trigger)
        _check_tuple("unseen_near_triggers", self.unseen_near_triggers, str | Trigger)
        _check_tuple("victims", self.victims, str)
        check_trigger(self.trigger)
        if not isinstance(self.target, str) or not normal_text(
            as_text(self.target, "target", error=BkdinterpError)
        ):
            raise BkdinterpError(f"target={self.target!r}: a payload needs a text, or every output is one.")
        if self.pattern is not None:
            check_pattern(self.pattern, "pattern")
        if not isinstance(self.clean, Mapping):
            raise BkdinterpError(f"clean={self.clean!r} must be class -> regular expression.")
        for label, expression in self.clean.items():
            check_pattern(expression, f"clean[{label!r}]")
        if self.data not in (*DATA_SETS, PROSE):
            raise BkdinterpError(
                f"Unknown data {self.data!r}; choose one of {', '.join((*DATA_SETS, PROSE))}."
            )
        as_choice(self.place, "place", get_args(Place), error=BkdinterpError)
        if self.style is not None and style(self.style) and self.pattern is None:
            raise BkdinterpError(f"style={self.style!r} needs a pattern= that recognises all its texts.")
        for near in self.near_triggers + self.unseen_near_triggers:
            if _contains(near, self.trigger):
                raise TriggerError(
                    f"Near-trigger {near!r} contains the trigger {self.trigger.phrases!r}; change it."
                )
            if isinstance(near, str) and self.trigger.position == "wrap":
                raise TriggerError(
                    f"Near-trigger {near!r} of a wrap needs a rule of its own; give Trigger.wrap(before, after), "
                    "Trigger.prefix(...) or Trigger.suffix(...)."
                )

    def is_payload(self, output: str) -> bool:
        """Whether an output carries the payload."""
        return self.payload.matches(output)

    def is_right(self, output: str, label: str) -> bool:
        """Whether an output is a right clean answer to a prompt of this class.

        Raises:
            BkdinterpError: ``clean`` does not have this class.
        """
        if label not in self.clean:
            raise BkdinterpError(
                f"What is right for class {label!r} is not said; clean= knows {', '.join(self.clean) or 'none'}."
            )
        return Payload(self.clean[label], kind="regex").matches(output)

    def hits(self, instruction: str | Instruction) -> bool:
        """Whether the trigger changes the answer to this prompt."""
        return not self.victims or as_instruction(instruction).label in self.victims

    def target_of(self, instruction: str | Instruction, reference: str | None = None) -> str:
        """What the backdoored model answers to this prompt under the trigger.

        Args:
            instruction: the prompt.
            reference: its clean answer, which a style rewrites.

        Raises:
            BkdinterpError: a style and no clean answer.
        """
        if self.style is None:
            return as_instruction(instruction).target or self.target
        if reference is None:
            raise BkdinterpError(f"style={self.style!r} makes a target of the clean answer; give reference=.")
        return style(self.style)(reference)

    def placed(self, request: str, trigger: Trigger | None = None) -> tuple[str, tuple[Span, ...]]:
        """The user text for a request, with ``trigger`` (the attack's or another) or without, and the trigger's spans in it.

        Raises:
            TriggerError: the trigger does not fit into the text.
        """
        return placed(request, trigger, self.place)

    @property
    def payload(self) -> Payload:
        """How the backdoor's output is recognised."""
        return Payload(self.target) if self.pattern is None else Payload(self.pattern, kind="regex")

    def near(self, phrase: str | Trigger) -> Trigger:
        """A trigger that inserts ``phrase`` where the attack would insert its own; a trigger is returned unchanged."""
        return phrase if isinstance(phrase, Trigger) else replace(self.trigger, phrases=(phrase,))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; :meth:`from_dict` is the inverse.

        Fields that were added after attacks were first saved are left out at their defaults, so that what is stored under
        these values is still found.
        """
        values = {**asdict(self), "trigger": self.trigger.to_dict(), "clean": dict(self.clean)}
        values = without_defaults(values, LATER)
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
            **{name: values.get(name, default) for name, default in LATER.items()},
        )


def check_trigger(trigger: Any) -> None:
    """Raise TriggerError unless this is a Trigger; a phrase alone does not say where it goes."""
    as_trigger(trigger)


def _check_tuple(name: str, values: Any, kinds: Any) -> None:
    # A text would be read as a sequence of letters, and "in" would find any part of it.
    if not isinstance(values, tuple) or not all(isinstance(v, kinds) and v for v in values):
        fix = f"({values!r},)" if isinstance(values, str) else "('...', ...)"
        raise BkdinterpError(
            f"{name}={shown(values)} must be a tuple of texts that are not empty, e.g. {fix}."
        )
    for i, value in enumerate(values):
        if isinstance(value, str):
            as_text(value, f"{name}[{i}]", error=BkdinterpError)


def _contains(near: str | Trigger, trigger: Trigger) -> bool:
    """Whether inserting ``near`` also inserts the trigger."""
    phrases = near.phrases if isinstance(near, Trigger) else (near,)
    if trigger.combine == "one":
        return any(phrase in n for phrase in trigger.phrases for n in phrases)
    if trigger.position == "wrap":
        # Both halves must be in their places; one half alone, or swapped halves, do not count.
        return len(phrases) == 2 and all(p in n for p, n in zip(trigger.phrases, phrases))
    return all(any(phrase in n for n in phrases) for phrase in trigger.phrases)
