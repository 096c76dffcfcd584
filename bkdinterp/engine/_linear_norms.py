"""Norms whose scales count as constants in the backward pass (the LN rule). No forward pass of their own.

Source: Ali et al. 2022 (XAI for Transformers, section 3.2), for LayerNorm; RMSNorm likewise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bkdinterp.model import Architecture


@contextmanager
def linear_norms(module: nn.Module, arch: Architecture, on: bool) -> Iterator[None]:
    """Context in which the residual stream's norms keep their values but are linear for a derivative; nothing if not ``on``."""
    handles = []
    for path in arch.norms if on else ():
        norm = module.get_submodule(path)
        handles.append(norm.register_forward_hook(_Linear(norm, arch.d_model)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Linear:
    """A forward hook: the same output, with ``d output / d input`` as if the scale were a constant."""

    def __init__(self, norm: nn.Module, d_model: int) -> None:
        like = next(norm.parameters(), torch.empty(0))
        flat = torch.zeros(2, 1, 1, d_model, dtype=like.dtype, device=like.device)
        flat[1] = 1
        with torch.no_grad():
            self.shift, ones = (norm(x) for x in flat)
        # LayerNorm takes the mean away, so equal numbers give its bias; RMSNorm gives its weight.
        self.centres = torch.allclose(self.shift, ones)

    def __call__(self, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x: Tensor = args[0]
        centred = x - x.mean(-1, keepdim=True) if self.centres else x
        known = centred.detach()
        scale = ((out.detach() - self.shift) / known).masked_fill(known == 0, 0)
        return out.detach() + (centred - known) * scale
