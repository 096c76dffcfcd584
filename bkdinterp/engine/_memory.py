"""How many bytes a chunk takes beside the model's weights: an upper estimate in closed form. No forwards."""

from dataclasses import dataclass
from typing import Any

import torch

from bkdinterp.model import Architecture

# What a score's temporaries may take (program.PIECE numbers, three of them alive at a time).
_PIECE = 3 * 2**23
# Share of a budget that is planned with; measured (benchmarks/memory.py): the linear algebra library takes workspace
# of its own, and the allocator more than it is asked for.
PLANNED = 0.75
# Scores and softmaxes are computed in this many bytes a number at least.
_WIDE = 4


@dataclass(frozen=True)
class Size:
    """Rows of a batch, columns of a row, keys that each token sees, logits of a row.

    ``masked``: keys of a row's mask where copies are packed beside each other, else 0. ``cached``: keys and values of all
    layers come out of it.
    """

    rows: int
    columns: int
    keys: int
    logits: int
    cached: bool = False
    masked: int = 0


@dataclass(frozen=True)
class Memory:
    """A model's sizes with the bytes of one of its numbers.

    Attributes:
        arch: sizes.
        item: bytes of a number in the model's dtype.
        eager: attention writes its scores down, for every head.
    """

    arch: Architecture
    item: int = 4
    eager: bool = False

    @classmethod
    def of(cls, model: Any) -> "Memory":
        """Of what a plan is made for; float32 where no dtype is known."""
        dtype = getattr(model, "dtype", None)
        config = getattr(getattr(model, "module", None), "config", None)
        item = torch.finfo(dtype).bits // 8 if isinstance(dtype, torch.dtype) else 4
        return cls(model.architecture, item, getattr(config, "_attn_implementation", None) == "eager")

    def forward(self, size: Size) -> int:
        """Peak bytes of one forward pass: the largest of attention, MLP and logits, beside the cache."""
        arch, item, wide = self.arch, self.item, max(self.item, _WIDE)
        d, heads, kv = arch.d_model, arch.n_heads * arch.d_head, arch.n_kv_heads * arch.d_head
        tokens, n_keys = size.rows * size.columns, size.rows * size.keys
        # The residual stream, its norm, queries before and after rotation, the output; keys and values joined and repeated.
        attention = item * (tokens * (4 * d + 4 * heads + 4 * kv) + n_keys * (2 * kv + 2 * heads))
        seen = tokens * max(size.keys, size.masked)
        attention += seen * item
        if self.eager:
            attention += seen * arch.n_heads * (2 * item + wide)
        mlp = item * tokens * (4 * d + 4 * arch.d_mlp)
        n_logits = size.rows * size.logits * arch.d_vocab
        logits = item * (2 * tokens * d + n_logits) + wide * min(3 * n_logits, _PIECE)
        cache = self.cache(size.rows, size.keys) if size.cached else 0
        return cache + max(attention, mlp, logits)

    def cache(self, rows: int, columns: int) -> int:
        """Keys and values of all layers."""
        arch = self.arch
        return self.item * rows * columns * arch.n_layers * 2 * arch.n_kv_heads * arch.d_head

    def streams(self, tokens: int) -> int:
        """Residual streams of so many tokens."""
        return self.item * tokens * self.arch.d_model
