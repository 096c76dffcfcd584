"""The time limit of an audit: what a piece of work will take, at the pace of those before, and whether that fits.

Answers have a pace of their own, because every token of them is a forward pass. All other work is priced by its plan, at the
speed of a few short passes at first, and then also by how much longer than so the pieces took that were run. Without a limit
nothing is estimated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from bkdinterp.detection._clock import Clock
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.engine import Cost, Run, measure_speed, plan
from bkdinterp.errors import BkdinterpError
from bkdinterp.interventions import Read
from bkdinterp.model import Model
from bkdinterp.progress import duration
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Component, Site, Where

ValueT = TypeVar("ValueT")
# Answers that are made for their pace alone, where none was made yet.
TRIAL = 4


class OutOfTime(BkdinterpError):
    """Work that would not end in the time that is left; the message says what it would have taken."""


@dataclass(eq=False)
class TimeLimit:
    """Prices work in seconds.

    Args:
        clock: of the audit.
        answers: those of the audit, which know their pace.
    """

    clock: Clock
    answers: Answers
    _trial: float = 0.0
    # Seconds that pieces were expected to take, and took.
    _expected: float = 0.0
    _taken: float = 0.0
    _refused: dict[str, OutOfTime] = field(default_factory=dict)

    @property
    def there(self) -> bool:
        """Whether there is a limit at all."""
        return not math.isinf(self.clock.left)

    def of_answers(self, n: int, model: Model, texts: Sequence[str], n_tokens: int) -> float:
        """Seconds of n more answers; the texts are for a trial, if no answer was made so far."""
        if not n:
            return 0.0
        if not self.answers.pace and not self._trial:  # an audit that goes on reads its answers back
            trial = Answers(self.answers.budget)
            trial.of(model, texts[:TRIAL], n_tokens)
            self._trial = trial.pace
        return n * (self.answers.pace or self._trial)

    def of_plan(self, model: Model, cost: Cost) -> float:
        """Seconds of planned work, on this model or one of its shape."""
        slower = self._taken / self._expected if self._expected else 1.0
        return slower * cost.seconds(measure_speed(model))

    def timed(self, model: Model, cost: Cost, compute: Callable[[], ValueT]) -> ValueT:
        """A value, and from the time that it takes the pace of what comes after."""
        start = self.clock.spent
        value = compute()
        self._expected += cost.seconds(measure_speed(model))
        self._taken += self.clock.spent - start
        return value

    def first_that_fits(
        self, name: str, sizes: Sequence[int], seconds: Callable[[int], float], share: float | int
    ) -> int:
        """The first of some sizes, the largest first, whose work ends within a share of the time that is left.

        Args:
            name: of the work: what was refused once stays refused.
            sizes: such as numbers of prompts.
            seconds: of each.
            share: of the time that is left.

        Raises:
            OutOfTime: none does.
        """
        if name in self._refused:
            raise self._refused[name]
        if self.clock.over:
            said = "it was not begun, because the audit's minutes were over."
        else:
            needed = room = 0.0
            for size in sizes:
                needed, room = seconds(size), share * self.clock.left
                if needed <= room:
                    return size
            said = (
                f"it would have taken about {duration(needed)}, and there were {duration(max(0.0, room))} for it: give more "
                "minutes."
            )
        self._refused[name] = OutOfTime(said)
        raise self._refused[name]


def reading_cost(
    model: Model, sides: Sequence[Prompts], budget: Any, *, unembedded: int = 0, times: float | int = 1
) -> Cost:
    """Cost of one pass through all layers over some prompts.

    Args:
        model: the model.
        sides: the prompts.
        budget: bytes for one batch.
        unembedded: tokens of each prompt whose logits are computed.
        times: as many passes, such as 3 for a forward and a backward one.
    """
    last = Read(Site(model.architecture.n_layers - 1, Component.resid_post), Where("last"))
    found = plan(model, [Run(side, reads=(last,)) for side in sides], budget=budget).cost
    return replace(
        found,
        forwards=math.ceil(times * found.forwards),
        token_layers=math.ceil(times * found.token_layers),
        layer_passes=math.ceil(times * found.layer_passes),
        logit_rows=found.logit_rows + unembedded * sum(len(side) for side in sides),
    )
