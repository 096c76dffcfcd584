"""`Start`: the first columns of a batch, computed once and kept out of the graphs of all derivatives by later columns.

Tokens see only what stands before them, so no change of a later column reaches these. Costs one forward of each kind of start.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bkdinterp.engine import program
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.model import Architecture
from bkdinterp.model._attention import cache_name
from bkdinterp.model._running import running
from bkdinterp.prompts import TokenBatch


@dataclass(frozen=True, eq=False)
class Start:
    """The columns before ``column`` of one batch.

    Attributes:
        column: derivatives are by activations from here on.
        cache: keys and values of the columns before it, a row for each kind of beginning; None where a sliding window is shorter
            than the rows, since a cache would forget what the first tokens of a window still see.
        kinds: each row's kind.
    """

    column: int
    cache: Any
    kinds: Int[Tensor, " row"] | None

    @property
    def known(self) -> int:
        """How many columns a pass leaves out."""
        return 0 if self.cache is None else self.column

    def arguments(self, module: nn.Module) -> dict[str, Any]:
        """Arguments of a forward pass of the other columns."""
        if self.cache is None:
            return {"use_cache": False}
        # A pass stores its own keys in what it is given.
        return {cache_name(module): program.chosen_cache(self.cache, self.kinds), "use_cache": True}


def start_of(module: nn.Module, arch: Architecture, tokens: TokenBatch, column: int, columns: int) -> Start:
    """The start of a batch of which so many columns are computed.

    Args:
        module: the model.
        arch: its architecture.
        tokens: the batch, on the module's device.
        column: the first column of the graph.
        columns: those of the graph and before it.
    """
    if not column or (arch.sliding_window is not None and columns > arch.sliding_window):
        return Start(column, None, None)
    ids, mask = tokens.input_ids[:, :column], tokens.attention_mask[:, :column]
    # Not every device can compare rows.
    kinds = torch.cat([ids, mask.to(ids)], 1).cpu().unique(dim=0, return_inverse=True)[1]
    # The first row of each kind.
    rows = torch.stack([(kinds == kind).nonzero()[0, 0] for kind in range(int(kinds.max()) + 1)])
    with running(module), torch.no_grad():
        out = module(
            input_ids=ids[rows],
            attention_mask=mask[rows],
            position_ids=tokens.position_ids[rows, :column],
            use_cache=True,
            logits_to_keep=last_columns(column, 1),
        )
    return Start(column, program.cache_of(out), kinds)
