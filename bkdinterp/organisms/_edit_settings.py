"""Settings of an organism that is written into weights instead of trained. No model."""

from dataclasses import dataclass

from bkdinterp.errors import BkdinterpError
from bkdinterp.values import as_flag, as_integer, as_number, as_seed


@dataclass(frozen=True)
class EditSettings:
    """Everything that decides an edit of weights besides base, data and attack.

    Args:
        backdoor: False makes the twin.
        layer: whose MLP is changed.
        n_prompts: instructions that keys are collected on, in each role.
        ridge: added to the diagonal, as a share of its mean.
        trigger_weight: of one trigger key against one token of another kind, in the regression.
        near_weight: of one token of a near-trigger.
        norm: length of the vector that is written, the same for organism and twin; it grows to it over half the steps.
        steps: of gradient descent on that vector.
        batch_size: triggered prompts in each step.
        lr: Adam's learning rate, decaying linearly to 0.
        seed: of prompts, positions, and the vector's start.

    Raises:
        BkdinterpError: counts below 1, or weights that are not positive.
    """

    backdoor: bool = True
    layer: int = 5
    n_prompts: int = 160
    ridge: float = 0.003
    trigger_weight: float = 10.0
    near_weight: float = 30.0
    norm: float = 200.0
    steps: int = 60
    batch_size: int = 8
    lr: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        as_flag(self.backdoor, "backdoor")
        as_seed(self.seed)
        as_integer(self.layer, "layer", low=0)
        for name in ("n_prompts", "steps", "batch_size"):
            as_integer(getattr(self, name), name, low=1)
        for name in ("ridge", "trigger_weight", "near_weight", "norm", "lr"):
            if as_number(getattr(self, name), name) <= 0:
                raise BkdinterpError(f"{name}={getattr(self, name)} must be positive.")

    def norm_at(self, step: int) -> float:
        """Length of the written vector after a step, counted from 0."""
        return self.norm * min(1.0, 2 * (step + 1) / self.steps)
