"""The usable part of an interrupted sweep: the largest complete block of units and examples. No forwards."""

from jaxtyping import Bool
from torch import Tensor


def complete_block(
    scored: Bool[Tensor, "unit example"],
) -> tuple[Bool[Tensor, " unit"], Bool[Tensor, " example"]] | None:
    """Units and examples such that all of these units were scored on all of these examples.

    If some examples were scored for all units, these are all units on those examples. Otherwise every unit has a set of
    examples that it was scored on; the set that keeps the most scores (then the most examples) is taken, with all units
    scored on it. None if nothing was scored.
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
