"""The torch state in which all our computations run; the caller's own state is restored afterwards.

Gradients, inference mode, autocast, default dtype and default device are set per thread or process, often at the top of a
notebook. A product that autocast computes in bfloat16, or weights made in inference mode, would be silently wrong.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")

_guard = threading.Lock()
# The default dtype that each open `_float32` found, in order.
_found: list[list[torch.dtype]] = []


@contextmanager
def plain_torch(*, grad: bool = False) -> Iterator[None]:
    """Context with gradients as asked, no inference mode, no autocast, and float32 and the CPU as defaults."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_float32())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _float32() -> Iterator[None]:
    """Context with float32 as default dtype.

    The default belongs to the whole process, so contexts of several threads may overlap. One that ends early passes the
    dtype to restore on to a later one.
    """
    with _guard:
        mine = [torch.get_default_dtype()]
        _found.append(mine)
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _guard:
            index = next(i for i, entry in enumerate(_found) if entry is mine)
            del _found[index]
            if index < len(_found):
                _found[index][:] = mine
            else:
                torch.set_default_dtype(mine[0])
