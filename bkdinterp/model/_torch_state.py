"""The state of torch that every computation of ours runs in, whatever the caller has set, and that he gets back.

Gradients, inference mode, autocast, default dtype and default device are of the thread or the process, and notebooks set
them at their top: a product taken in bfloat16 by autocast, or weights made inside inference mode, are wrong without a word.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")

_guard = threading.Lock()
# What each of those inside `_float32` found, the first one first.
_found: list[list[torch.dtype]] = []


@contextmanager
def plain_torch(*, grad: bool = False) -> Iterator[None]:
    """Inside: gradients as asked, no inference mode, no autocast, float32 and the CPU as defaults. Afterwards as before."""
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
    """The default dtype is the process's: who leaves before one that came later leaves him what is to be given back."""
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
