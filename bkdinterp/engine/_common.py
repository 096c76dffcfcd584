"""The start that all prompts of a batch share, a chat template's system message say, is computed once per run.

Prompts are padded on the left, so a shared start lies in different columns; here it is moved to the first ones, before
the padding. Positions travel with their tokens, and masked columns are seen by nobody: only the order of floating-point
additions changes. No forwards.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bkdinterp.engine._graph import Node
from bkdinterp.engine._price import FIXED_TOKENS
from bkdinterp.interventions import Edit, From
from bkdinterp.model import Architecture
from bkdinterp.prompts import TokenBatch

TensorT = TypeVar("TensorT", bound=Tensor)


@dataclass(frozen=True, eq=False)
class Layout:
    """Columns in another order: ``first`` shared ones, then the padding, then what is each prompt's own."""

    first: int
    order: Int[Tensor, "row pos"]

    @classmethod
    def of(cls, batch: TokenBatch, first: int) -> "Layout":
        """The layout of a batch whose prompts share their first tokens."""
        columns = torch.arange(batch.input_ids.shape[1]).expand(len(batch), -1)
        if first == 0:
            return cls(0, columns)
        padding = batch.attention_mask.int().argmax(dim=1, keepdim=True)
        # Sorting is stable: shared tokens come first, everything else keeps its order.
        own = ~((columns >= padding) & (columns < padding + first))
        return cls(first, own.int().sort(dim=1, stable=True).indices)

    def whole(self, values: Tensor) -> Tensor:
        """All columns ``[row pos]``."""
        return values.gather(1, self.order)

    def start(self, values: Tensor) -> Tensor:
        """The shared columns, of one row: they are the same in all ``[1 start]``."""
        return self.whole(values)[:1, : self.first]

    def rest(self, values: Tensor) -> Tensor:
        """The other columns ``[row pos-start]``."""
        return self.whole(values)[:, self.first :]


def common_start(arch: Architecture, nodes: list[Node], batch: TokenBatch) -> int:
    """How many tokens of these prompts are best computed once per run; 0 where that saves nothing or is not exact."""
    n = len(batch)
    window = arch.sliding_window
    if n < 2 or (window is not None and batch.input_ids.shape[1] + (nodes[0].run.generate or 0) > window):
        return 0
    n_real = batch.attention_mask[:, : batch.n_prompt].sum(dim=1)
    # Every prompt keeps its last token for itself.
    longest = int(n_real.min()) - 1
    layout = Layout.of(batch, max(longest, 1))
    first = min(longest, _alike(layout.whole(batch.input_ids)))
    wheres = {(edit.where, _own(edit)) for node in nodes for edit in node.edits}
    wheres |= {(read.where, True) for node in nodes for read in node.reads}
    for where, own in wheres:
        chosen = layout.whole(batch.selection(where))
        first = min(first, _leading(~chosen.any(dim=0)) if own else _alike(chosen))
    saved = len(nodes) * (n - 1) * first
    return first if saved > FIXED_TOKENS else 0


def _alike(values: Tensor) -> int:
    """Leading columns in which all rows are equal."""
    return _leading((values == values[:1]).all(dim=0))


def _leading(flags: Bool[Tensor, " pos"]) -> int:
    return int(flags.int().cumprod(dim=0).sum())


def _own(edit: Edit) -> bool:
    """Whether its value may differ between examples or tokens."""
    if edit.fn is not None:
        return True
    if isinstance(edit.value, From):
        return edit.value.read.reduce != "mean"
    return edit.value is not None and edit.value.ndim > 1
