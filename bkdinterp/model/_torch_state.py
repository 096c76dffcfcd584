"""The state of torch that every computation of ours runs in, whatever the caller has set, and that he gets back.

Gradients, inference mode, autocast, default dtype and default device are of the thread or the process, and notebooks set
them at their top: a product taken in bfloat16 by autocast, or weights made inside inference mode, are wrong without a word.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def plain_torch(*, grad: bool = False) -> Iterator[None]:
    """Inside: gradients as asked, no inference mode, no autocast, float32 and the CPU as defaults. Afterwards as before."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
