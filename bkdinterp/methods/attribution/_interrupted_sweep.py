"""What is left of an interrupted sweep: the largest complete block of units and examples. No forwards."""

from jaxtyping import Bool
from torch import Tensor


def complete_block(
    scored: Bool[Tensor, "unit example"],
) -> tuple[Bool[Tensor, " unit"], Bool[Tensor, " example"]] | None:
    """Units and examples such that every one of these units was scored on every one of these examples.

    All units, on the examples that have them all, where there is such an example. Otherwise, among the sets of
    examples that some unit was scored on, the one that keeps the most scores (then the most examples), with all the
    units scored on it. None where nothing was scored.
    """
    whole = scored.all(dim=0)
    if bool(whole.any()):
        return scored.any(dim=1), whole
    patterns = scored[scored.any(dim=1)].unique(dim=0)
    best = None
    for examples in patterns:
        units = scored[:, examples].all(dim=1)
        size = (int(units.sum()) * int(examples.sum()), int(examples.sum()))
        if best is None or size > best[0]:
            best = (size, units, examples)
    return None if best is None else best[1:]
