"""Check that trained weights are float32: in 16 bits most steps of an optimiser silently round to nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bkdinterp.errors import BkdinterpError


def check_precision(trained: Mapping[str, Tensor]) -> None:
    """Raise unless every trained weight has at least 32 bits.

    Raises:
        BkdinterpError: a weight has fewer; the message names it.
    """
    for name, weight in trained.items():
        if torch.finfo(weight.dtype).bits < 32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise BkdinterpError(
                f"{name} is {kind}, in which most of the optimiser's steps round to nothing; train in float32: "
                "module.float(), or Model.load(..., dtype=torch.float32)."
            )
