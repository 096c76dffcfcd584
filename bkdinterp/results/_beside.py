"""Two results beside each other: whether they can share a scale, and the differences of what they measured. No forwards."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.results._caption import model_words
from bkdinterp.stats import simultaneous

Columns = dict[str, list[float]]


def check_beside(own: Any, other: Any, **same: tuple[Any, Any]) -> None:
    """Stop where ``other`` cannot stand beside ``own``.

    Args:
        own: a result.
        other: what a user gave as ``beside=``.
        **same: what must be equal -> its value in both.

    Raises:
        BkdinterpError: another class of result, or something that differs.
    """
    if type(other) is not type(own):
        raise BkdinterpError(
            f"beside= takes another {type(own).__name__}, e.g. the twin's; got {type(other).__name__}."
        )
    for name, (mine, theirs) in same.items():
        if mine != theirs:
            raise BkdinterpError(f"Two results beside each other need one {name}; here {mine} and {theirs}.")


def beside_names(own: Any, other: Any, **details: tuple[Any, Any]) -> tuple[str, str]:
    """Names of the two panels: the models, with whatever else differs between the results."""
    extra = {name: pair for name, pair in details.items() if str(pair[0]) != str(pair[1])}
    names = [
        ", ".join([model_words(x.fingerprint), *(f"{name} {pair[i]}" for name, pair in extra.items())])
        for i, x in enumerate((own, other))
    ]
    if names[0] == names[1]:
        names = [f"{name} [{i + 1}]" for i, name in enumerate(names)]
    return names[0], names[1]


def same_prompts(own: Any, other: Any) -> bool:
    """Whether both were measured on the same prompts, so that their examples can be paired."""
    return own.fingerprint.data == other.fingerprint.data


def difference_columns(
    own: Float[Tensor, "unit example"], other: Float[Tensor, "unit other_example"], *, paired: bool
) -> Columns:
    """``beside`` (the other's means), ``difference`` (own minus other), and the ends of its simultaneous intervals.

    NaN for units that one of them did not score. The intervals need ``paired`` examples, and are NaN without.
    """
    mine, theirs = own.double(), other.double()
    gap = mine.mean(-1) - theirs.mean(-1)
    low = high = torch.full_like(gap, torch.nan)
    if paired and mine.shape == theirs.shape and not bool(gap.isnan().all()):
        found = simultaneous(mine - theirs)
        low, high = torch.from_numpy(found.low), torch.from_numpy(found.high)
    return {
        "beside": theirs.mean(-1).tolist(),
        "difference": gap.tolist(),
        "difference_low": low.tolist(),
        "difference_high": high.tolist(),
    }
