"""Weights that learn need float32: in 16 bits, most steps of an optimiser round to nothing, without a word."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bkdinterp.errors import BkdinterpError


def check_precision(trained: Mapping[str, Tensor]) -> None:
    """Nothing, where every weight that will learn has 32 bits or more.

    Raises:
        BkdinterpError: one has fewer; it is named.
    """
    for name, weight in trained.items():
        if torch.finfo(weight.dtype).bits < 32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise BkdinterpError(
                f"{name} is {kind}, in which most of the optimiser's steps round to nothing; train in float32: "
                "module.float(), or Model.load(..., dtype=torch.float32)."
            )
