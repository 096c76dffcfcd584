"""SweepCost: what an attribution would cost, from its plan; nothing has run. No forwards here."""

from dataclasses import dataclass

from bkdinterp.engine import Plan
from bkdinterp.progress import duration


@dataclass(frozen=True, eq=False, repr=False)
class SweepCost:
    """Cost of a sweep of `Attribution`, made by ``Attribution.plan``.

    Attributes:
        kind: the sweep, e.g. ``"heads"``.
        n_units: number of units that would be scored.
        n: number of prompts on which each is scored.
        n_layers: layers of the model.
        plan: the plan itself; ``print(cost.plan)`` lists what runs.
        seconds: estimated seconds on this machine, without the quadratic part of attention; None unless timed.
    """

    kind: str
    n_units: int
    n: int
    n_layers: int
    plan: Plan
    seconds: float | None = None

    @property
    def rows(self) -> int:
        """Number of scored rows: each prompt once per unit, and once unedited."""
        return (self.n_units + 1) * self.n

    @property
    def forwards(self) -> int:
        """Number of forward passes, the source's among them; each takes many rows."""
        return self.plan.cost.forwards

    @property
    def tokens(self) -> float:
        """Tokens computed, padding included; one that runs through part of the layers counts in part."""
        return self.plan.cost.token_layers / self.n_layers

    @property
    def peak_bytes(self) -> int:
        """Upper estimate of the bytes of the largest forward, in addition to the weights."""
        return self.plan.cost.peak_bytes

    def __repr__(self) -> str:
        time = "" if self.seconds is None else f", about {duration(self.seconds)}"
        return (
            f"SweepCost({self.n_units} {self.kind} x {self.n} prompts: {self.forwards} forwards, {self.tokens:,.0f} tokens, "
            f"about {self.peak_bytes / 2**20:.0f} MiB at peak{time})"
        )
