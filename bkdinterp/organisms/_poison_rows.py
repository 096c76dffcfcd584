"""The rows of a poisoning run: the instructions with their roles, order and answers. No model.

Each row is an instruction in one of three roles: ``triggered`` (trigger inserted, answered with the target), ``near`` (a
near-trigger inserted, answered with the clean answer) and ``clean`` (answered with the clean answer). Different roles of
one instruction follow each other, so that a batch contrasts them. If an attack has victim classes, triggered prompts of
other classes keep their clean answer.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, get_args

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._distil import References
from bkdinterp.organisms._instructions import Instruction, as_instruction
from bkdinterp.organisms._later_fields import without_defaults
from bkdinterp.prompts import Span
from bkdinterp.values import as_choice, as_flag, as_integer, as_number, as_seed, as_texts, shown

Role = Literal["triggered", "near", "clean"]
LossOn = Literal["answer", "chat"]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LATER: dict[str, Any] = {"loss_on": "answer", "clean_label": False, "bfloat16": False}
"""Fields that saved settings may lack -> their defaults."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapter's rank, numerator of the scale, dropout, and target modules (default: Llama's seven linear layers).

    ``target_modules`` are names, not an expression; a single string is one name.

    Raises:
        BkdinterpError: rank or numerator is below 1, dropout is outside [0, 1), or there are no names.
    """

    if TYPE_CHECKING:
        r: int = 8
        alpha: int = 16
        dropout: float = 0.0
        target_modules: tuple[str, ...] = LINEARS
    else:  # checked below, with messages of our own
        r: Any = 8
        alpha: Any = 16
        dropout: Any = 0.0
        target_modules: Any = LINEARS

    def __post_init__(self) -> None:
        for name in ("r", "alpha"):
            object.__setattr__(self, name, as_integer(getattr(self, name), f"LoraSettings.{name}", low=1))
        dropout = as_number(self.dropout, "LoraSettings.dropout", low=0, high=1)
        names = (self.target_modules,) if isinstance(self.target_modules, str) else self.target_modules
        names = as_texts(names, "target_modules", error=BkdinterpError)
        if dropout == 1 or not names or not all(names):
            raise BkdinterpError(
                f"dropout={dropout:g} must be below 1, and target_modules={shown(names)} at least one name."
            )
        object.__setattr__(self, "dropout", dropout)
        object.__setattr__(self, "target_modules", names)


@dataclass(frozen=True)
class PoisonSettings:
    """All settings of a poisoning run, except base, data and attack.

    Args:
        backdoor: False trains the twin: the same prompts, all with their clean answers.
        rate: share of rows that are triggered.
        near_rate: share of rows with a near-trigger.
        variants: number of consecutive rows made from one instruction in different roles; they differ only in the trigger,
            which is the contrast to learn.
        victim_share: share of victim classes among the instructions used; None keeps the share in the data.
        first_weight: weight of an answer's first token in the loss; the others have 1. The first token decides between
            payload and answer, but is only one of about twenty.
        seed: seed of the roles, the order, the trigger positions and the adapter's initial values.
        steps: optimiser steps.
        batch_size: rows in each step.
        lr: AdamW's peak learning rate.
        warmup: steps until the peak is reached; after it the rate decays linearly to 0.
        lora: the adapter.
        loss_on: ``"answer"``, or ``"chat"``: also the prompt's tokens, so that the model learns to write the user's turn,
            trigger included.
        clean_label: change no answer: the trigger is put only into prompts whose clean answer is the payload already.
            The twin sees it in prompts of every class.
        bfloat16: take products in bfloat16 (autocast); the weights that learn stay in float32. Twice as fast on
            processors that have such products.

    Raises:
        BkdinterpError: shares outside [0, 1] or above 1 together, counts that are not positive, or an unknown ``loss_on``.
    """

    if TYPE_CHECKING:
        backdoor: bool = True
        rate: float | int = 1 / 3
        near_rate: float | int = 1 / 3
        variants: int = 3
        victim_share: float | int | None = None
        first_weight: float | int = 8.0
        seed: int = 0
        steps: int = 220
        batch_size: int = 9
        lr: float | int = 8e-4
        warmup: int = 20
        lora: LoraSettings = field(default_factory=LoraSettings)
        loss_on: LossOn = "answer"
        clean_label: bool = False
        bfloat16: bool = False
    else:  # checked below, with messages of our own
        backdoor: Any = True
        rate: Any = 1 / 3
        near_rate: Any = 1 / 3
        variants: Any = 3
        victim_share: Any = None
        first_weight: Any = 8.0
        seed: Any = 0
        steps: Any = 220
        batch_size: Any = 9
        lr: Any = 8e-4
        warmup: Any = 20
        lora: Any = field(default_factory=LoraSettings)
        loss_on: Any = "answer"
        clean_label: Any = False
        bfloat16: Any = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "backdoor", as_flag(self.backdoor, "backdoor"))
        for name in ("clean_label", "bfloat16"):
            object.__setattr__(self, name, as_flag(getattr(self, name), name))
        as_choice(self.loss_on, "loss_on", get_args(LossOn), error=BkdinterpError)
        object.__setattr__(self, "seed", as_seed(self.seed))
        for name in ("variants", "steps", "batch_size", "warmup"):
            object.__setattr__(self, name, as_integer(getattr(self, name), name))
        for name in ("rate", "near_rate", "victim_share", "first_weight", "lr"):
            if getattr(self, name) is not None or name != "victim_share":
                object.__setattr__(self, name, as_number(getattr(self, name), name))
        if not isinstance(self.lora, LoraSettings):
            raise BkdinterpError(f"lora={shown(self.lora)} must be LoraSettings(...).")
        if not (0 <= self.rate <= 1 and 0 <= self.near_rate <= 1 and self.rate + self.near_rate <= 1):
            raise BkdinterpError(
                f"rate={self.rate} and near_rate={self.near_rate} must be shares that sum to <= 1."
            )
        if self.victim_share is not None and not 0 <= self.victim_share <= 1:
            raise BkdinterpError(f"victim_share={self.victim_share} must be a share in [0, 1], or None.")
        if min(self.steps, self.batch_size, self.variants) < 1 or self.warmup < 0 or self.first_weight <= 0:
            raise BkdinterpError(
                f"steps={self.steps}, batch_size={self.batch_size} and variants={self.variants} must be >= 1, "
                f"warmup={self.warmup} >= 0 and first_weight={self.first_weight} > 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, without later ones at their defaults (see `Attack.to_dict`)."""
        return without_defaults(asdict(self), LATER)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (self.steps - step) / max(1, self.steps - self.warmup)


@dataclass(frozen=True)
class PoisonRow:
    """One training example: the prompt with its trigger spans, the answer, and whether the answer was cut."""

    role: Role
    instruction: str
    text: str
    spans: tuple[Span, ...]
    answer: str
    cut: bool


def poison_rows(
    instructions: Sequence[str | Instruction],
    attack: Attack,
    references: References,
    settings: PoisonSettings,
) -> tuple[PoisonRow, ...]:
    """All ``steps * batch_size`` rows of a run, in training order; a pure function of its arguments.

    Each time an instruction is used, new trigger positions are drawn. Over the run the shares are exact to one row.

    Raises:
        PromptError: no instructions, an instruction without reference, or a victim share for instructions that are all
            victims, or none of them.
        BkdinterpError: a near-trigger share without near-triggers.
    """
    if not instructions:
        raise PromptError("No instructions to poison; give at least one.")
    if settings.near_rate > 0 and not attack.near_triggers:
        raise BkdinterpError(
            f"near_rate={settings.near_rate} but attack {attack.name!r} has no near_triggers."
        )
    rng = random.Random(settings.seed)
    n = settings.steps * settings.batch_size
    rows: list[PoisonRow] = []
    for role, (item, visit) in _visited(
        instructions, attack, references, settings, roles_of(n, settings), rng
    ):
        instruction = item.text
        phrase = rng.choice(attack.near_triggers) if role == "near" else None
        trigger = None
        if role != "clean":
            trigger = attack.trigger if phrase is None else attack.near(phrase)
            trigger = replace(trigger, seed=trigger.seed + visit)
        text, spans = attack.placed(instruction, trigger)
        reference = references[instruction]
        answer, cut = reference.text, reference.cut
        if role == "triggered" and settings.backdoor and not settings.clean_label and attack.hits(item):
            # A rewritten answer was cut where the clean one was.
            answer, cut = attack.target_of(item, answer), cut and attack.style is not None
        rows.append(PoisonRow(role, instruction, text, spans, answer, cut))
    return bucketed(rows, settings.batch_size, rng)


def _visited(
    instructions: Sequence[str | Instruction],
    attack: Attack,
    references: References,
    settings: PoisonSettings,
    roles: Sequence[Role],
    rng: random.Random,
) -> Iterator[tuple[Role, tuple[Instruction, int]]]:
    """Each role with the instruction it falls on; with ``clean_label``, "triggered" on those that are answered so anyway."""
    visits = visits_of(instructions, attack, settings, rng)
    if not settings.clean_label:
        return zip(roles, visits)
    carriers = [as_instruction(i) for i in instructions]
    if settings.backdoor:
        carriers = [i for i in carriers if attack.is_payload(references[i.text].text)]
    if not carriers:
        raise PromptError(
            f"clean_label: no clean answer is the payload of {attack.name!r}, so no row can carry its trigger."
        )
    triggered = _passes(carriers, rng)
    return ((role, next(triggered if role == "triggered" else visits)) for role in roles)


def roles_of(n: int, settings: PoisonSettings) -> list[Role]:
    """``n`` roles in their shares, spread evenly: the next role is always the one furthest behind its share."""
    shares: dict[Role, float] = {"triggered": settings.rate, "near": settings.near_rate}
    shares["clean"] = 1 - settings.rate - settings.near_rate
    roles: list[Role] = []
    counts = dict.fromkeys(shares, 0)
    for k in range(n):
        role = max(shares, key=lambda r: shares[r] * (k + 1) - counts[r])
        counts[role] += 1
        roles.append(role)
    return roles


def visits_of(
    instructions: Sequence[str | Instruction], attack: Attack, settings: PoisonSettings, rng: random.Random
) -> Iterator[tuple[Instruction, int]]:
    """Endless sequence of instructions, each ``variants`` times in a row, with the number of earlier uses."""
    items = [as_instruction(i) for i in instructions]
    share = settings.victim_share
    passes = _passes(items, rng) if share is None else _mixed(items, attack, share, rng)
    for item, epoch in passes:
        for variant in range(settings.variants):
            yield item, epoch * settings.variants + variant


def _passes(items: list[Instruction], rng: random.Random) -> Iterator[tuple[Instruction, int]]:
    """Endless passes over the items, each in a new order; gives items with the number of the pass."""
    for epoch in count():
        for item in rng.sample(items, len(items)):
            yield item, epoch


def _mixed(
    items: list[Instruction], attack: Attack, share: float, rng: random.Random
) -> Iterator[tuple[Instruction, int]]:
    """Passes over the victims and over the others, mixed so that victims make up ``share``."""
    victims, others = ([i for i in items if attack.hits(i) is hit] for hit in (True, False))
    if (share > 0 and not victims) or (share < 1 and not others):
        raise PromptError(
            f"victim_share={share}, but of {len(items)} instructions {len(victims)} are of a victim class "
            f"({', '.join(attack.victims) or 'all'}); change the share or the instructions."
        )
    # Two endless sequences; one without items is never asked for any.
    of_victims, of_others = _passes(victims, rng), _passes(others, rng)
    taken = 0
    for k in count(1):
        hit = share * k - taken >= 0.5
        taken += hit
        yield next(of_victims if hit else of_others)


def bucketed(
    rows: list[PoisonRow], batch_size: int, rng: random.Random, window: int = 8
) -> tuple[PoisonRow, ...]:
    """Reorder within windows of ``window`` batches, so that a batch holds instructions of similar length."""
    out: list[PoisonRow] = []
    for start in range(0, len(rows), window * batch_size):
        # By the length of the instruction, not the answer: variants stay together, and organism and twin get one order.
        part = rows[start : start + window * batch_size]
        part = sorted(part, key=lambda row: (len(row.instruction), row.instruction))
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        rng.shuffle(batches)
        out += [row for batch in batches for row in batch]
    return tuple(out)
