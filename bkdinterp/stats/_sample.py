"""Input of the statistics: one number per example, as a float64 array without NaN."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.values import shown

Sample = Float[Tensor, " example"] | Float[np.ndarray, " example"] | Sequence[float | int]


def as_sample(x: Sample, who: str) -> Float[np.ndarray, " example"]:
    """The values as an array, one per example.

    Raises:
        BkdinterpError: the array does not have one axis, has no examples, or holds NaN or infinity.
    """
    out = as_array(x)
    if out.ndim != 1 or len(out) == 0:
        raise BkdinterpError(f"{who} needs one value per example and at least one; got shape {out.shape}.")
    if not np.isfinite(out).all():
        raise BkdinterpError(
            f"{who} got {int((~np.isfinite(out)).sum())} NaN or infinite values of {len(out)}."
        )
    return out


def as_array(x: Any) -> Float[np.ndarray, "..."]:
    """A float64 array from a tensor of any device and dtype, an array, nested lists or a number.

    Raises:
        BkdinterpError: the value is not an array of numbers.
    """
    if isinstance(x, Tensor):
        return x.detach().cpu().double().numpy()
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise BkdinterpError(f"{shown(x)} must be numbers, one per example.") from None
