"""Upper estimate, in closed form, of the bytes that a chunk takes in addition to the model's weights. No forwards."""

from dataclasses import dataclass
from typing import Any

import torch

from bkdinterp.model import Architecture

# Bytes for a score's temporaries (program.PIECE numbers, three of them alive at a time).
_PIECE = 3 * 2**23
# Share of a budget that plans use; measured (benchmarks/memory.py). The linear algebra library takes its own workspace, and
# the allocator more than requested.
PLANNED = 0.75
# Scores and softmaxes are computed with at least this many bytes per number.
_WIDE = 4


@dataclass(frozen=True)
class Size:
    """Rows of a batch, columns of a row, keys that each token sees, logits of a row.

    ``masked`` is the number of keys in a row's mask if copies are packed, else 0. ``cached`` says whether the pass
    returns keys and values of all layers.
    """

    rows: int
    columns: int
    keys: int
    logits: int
    cached: bool = False
    masked: int = 0


@dataclass(frozen=True)
class Memory:
    """A model's sizes and its bytes per number.

    Attributes:
        arch: the sizes.
        item: bytes per number in the model's dtype.
        eager: whether attention stores its scores for every head.
    """

    arch: Architecture
    item: int = 4
    eager: bool = False

    @classmethod
    def of(cls, model: Any) -> "Memory":
        """Make it for a model; float32 if no dtype is known."""
        dtype = getattr(model, "dtype", None)
        config = getattr(getattr(model, "module", None), "config", None)
        item = torch.finfo(dtype).bits // 8 if isinstance(dtype, torch.dtype) else 4
        return cls(model.architecture, item, getattr(config, "_attn_implementation", None) == "eager")

    def forward(self, size: Size) -> int:
        """Peak bytes of one forward pass: the largest of attention, MLP and logits, in addition to the cache."""
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
        """Bytes of the keys and values of all layers."""
        arch = self.arch
        return self.item * rows * columns * arch.n_layers * 2 * arch.n_kv_heads * arch.d_head

    def streams(self, tokens: int) -> int:
        """Bytes of the residual streams of this many tokens."""
        return self.item * tokens * self.arch.d_model
