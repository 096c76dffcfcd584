"""How many bytes a chunk takes beside the model's weights: an upper estimate in closed form. No forwards."""

from dataclasses import dataclass

from bkdinterp.model import Architecture

# What a score's temporaries may take (program.PIECE numbers, three of them alive at a time).
_PIECE = 3 * 2**23
# Share of a budget that is planned with; measured (benchmarks/memory.py): the linear algebra library takes workspace
# of its own, and the allocator more than it is asked for.
PLANNED = 0.75


@dataclass(frozen=True)
class Size:
    """Rows of a batch, columns of a row, keys that each token sees, logits of a row."""

    rows: int
    columns: int
    keys: int
    logits: int
    cached: bool = False


def chunk_bytes(arch: Architecture, size: Size, *, item: int = 4) -> int:
    """Peak bytes of one forward pass above the weights: the largest of attention, MLP and logits.

    Args:
        arch: the model's sizes.
        size: of the chunk.
        item: bytes of a number.
    """
    d, heads, kv = arch.d_model, arch.n_heads * arch.d_head, arch.n_kv_heads * arch.d_head
    tokens, n_keys = size.rows * size.columns, size.rows * size.keys
    # The residual stream, its norm, queries before and after rotation, the output; keys and values joined and repeated.
    attention = tokens * (4 * d + 4 * heads + 4 * kv) + n_keys * (2 * kv + 2 * heads) + tokens * size.keys
    mlp = tokens * (4 * d + 4 * arch.d_mlp)
    n_logits = size.rows * size.logits * arch.d_vocab
    logits = 2 * tokens * d + n_logits + min(3 * n_logits, _PIECE)
    cache = n_keys * 2 * arch.n_layers * kv if size.cached else 0
    return item * (cache + max(attention, mlp, logits))
