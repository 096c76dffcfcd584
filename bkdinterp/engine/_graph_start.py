"""`KnownStart`: the first columns of a batch, computed once and kept out of the graphs of all derivatives by later columns.

Tokens see only what stands before them, so no change of a later column reaches these. Costs one forward with a row for each
different beginning; the tokens that all prompts begin with are computed once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bkdinterp.engine import program
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._shared_start import Layout, Start, alike_tokens, common_before
from bkdinterp.errors import PlanError
from bkdinterp.model import Architecture
from bkdinterp.model._attention import cache_name
from bkdinterp.model._running import running
from bkdinterp.prompts import TokenBatch


@dataclass(frozen=True, eq=False)
class KnownStart:
    """The columns before ``column`` of one batch.

    Attributes:
        column: derivatives are by activations from here on.
        columns: those of the batch that are computed, from its first one on.
        ids: token ids of the columns before ``column``.
        cache: keys and values of the columns before it, a row for each kind of beginning; None where a sliding window is shorter
            than the rows, since a cache would forget what the first tokens of a window still see.
        kinds: each row's kind.
        mask: the attention mask of these columns, in the order in which they are kept.
    """

    column: int
    columns: int = 0
    ids: Int[Tensor, "row column"] | None = None
    cache: Any = None
    kinds: Int[Tensor, " row"] | None = None
    mask: Int[Tensor, "row column"] | None = None

    @property
    def known(self) -> int:
        """How many columns a pass leaves out."""
        return 0 if self.cache is None else self.column

    def check(self, tokens: TokenBatch, columns: int) -> None:
        """Raise unless this is the start of a batch of which so many columns are computed.

        Raises:
            PlanError: it is another one's.
        """
        if self.ids is None:
            return
        ids = tokens.input_ids[:, : self.column]
        if ids.shape != self.ids.shape or not torch.equal(ids.cpu(), self.ids.cpu()):
            raise PlanError("start= is of another batch; give known_start of this one.")
        if columns != self.columns:
            raise PlanError(
                f"start= was made for a score that reads {self.columns} columns; this one reads {columns}."
            )

    def mask_of(self, tokens: TokenBatch, columns: int) -> Int[Tensor, "row column"]:
        """The attention mask of a pass of the other columns, up to ``columns``."""
        if self.mask is None:
            return tokens.attention_mask[:, :columns]
        return torch.cat([self.mask, tokens.attention_mask[:, self.known : columns]], 1)

    def arguments(self, module: nn.Module) -> dict[str, Any]:
        """Arguments of a forward pass of the other columns."""
        if self.cache is None:
            return {"use_cache": False}
        # A pass stores its own keys in what it is given.
        return {cache_name(module): program.chosen_cache(self.cache, self.kinds), "use_cache": True}


def start_of(
    module: nn.Module, arch: Architecture, tokens: TokenBatch, column: int, columns: int
) -> KnownStart:
    """The start of a batch of which so many columns are computed.

    Args:
        module: the model.
        arch: its architecture.
        tokens: the batch, on the module's device.
        column: the first column of the graph.
        columns: those of the graph and before it.
    """
    if not column or (arch.sliding_window is not None and columns > arch.sliding_window):
        return KnownStart(column, columns, tokens.input_ids[:, :column])
    ids, mask = tokens.input_ids[:, :column], tokens.attention_mask[:, :column]
    # Not every device can compare rows.
    kinds = torch.cat([ids, mask.to(ids)], 1).cpu().unique(dim=0, return_inverse=True)[1]
    # The first row of each kind.
    rows = torch.stack([(kinds == kind).nonzero()[0, 0] for kind in range(int(kinds.max()) + 1)]).tolist()
    some = tokens.rows(rows)
    first = common_before(some, column, alike_tokens(some))
    layout = Layout.of(some, Start(first))
    cache = None
    with running(module), torch.no_grad():
        if first:
            ids, seen, positions = (layout.start(x) for x in _parts(some))
            known = _cache(module, ids, seen, positions, None)
            cache = program.chosen_cache(known, torch.zeros(len(rows), dtype=torch.long))
        ids, seen, positions = (layout.whole(x)[:, :column] for x in _parts(some))
        cache = _cache(module, ids[:, first:], seen, positions[:, first:], cache)
    return KnownStart(
        column, columns, tokens.input_ids[:, :column], cache, kinds, seen[kinds.to(seen.device)]
    )


def _parts(tokens: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    return tokens.input_ids, tokens.attention_mask, tokens.position_ids


def _cache(module: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, known: Any) -> Any:
    """Keys and values of some columns and of those that are known."""
    out = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=last_columns(ids.shape[1], 1),
        **({} if known is None else {cache_name(module): known}),
    )
    return program.cache_of(out)
