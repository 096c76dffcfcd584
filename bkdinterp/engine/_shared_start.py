"""The common start of a batch's rows, computed once per run or once per prompt instead of once per row.

    per run      the tokens that all prompts begin with, e.g. a chat template's system message, under the run's edits
    per prompt   the tokens left of the first edited one, which no run of the batch changes

Prompts are padded on the left, so a common start is in different columns; it is moved to the first columns, before the
padding. Position ids move with their tokens, and masked columns are not attended to, so only the order of
floating-point additions changes. No forwards.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bkdinterp.engine._bundle import Bundle, Group
from bkdinterp.engine._price import FIXED_TOKENS, MIN_NODES
from bkdinterp.engine._tokens import Slice
from bkdinterp.prompts import TokenBatch


@dataclass(frozen=True)
class Start:
    """Number of tokens (per run) or columns (per prompt) that are computed beforehand; 0 for none."""

    first: int = 0
    per: Literal["run", "prompt"] = "run"


@dataclass(frozen=True, eq=False)
class Layout:
    """A new order of columns: the start, then the padding that was left of it, then each row's own columns."""

    begin: Start
    order: Int[Tensor, "row pos"]

    @classmethod
    def of(cls, batch: TokenBatch, begin: Start) -> "Layout":
        """The layout of a batch with this start."""
        columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(len(batch), -1)
        if begin.first == 0 or begin.per == "prompt":
            return cls(begin, columns)
        padding = batch.attention_mask.int().argmax(dim=1, keepdim=True)
        # The sort is stable: common tokens come first, everything else keeps its order.
        own = ~((columns >= padding) & (columns < padding + begin.first))
        return cls(begin, own.int().sort(dim=1, stable=True).indices)

    def whole(self, values: Tensor) -> Tensor:
        """All columns in the new order ``[row pos]``."""
        return values.gather(1, self.order)

    def start(self, values: Tensor) -> Tensor:
        """The start's columns ``[row start]``, with a single row if all are the same."""
        rows = 1 if self.begin.per == "run" else len(values)
        return self.whole(values)[:rows, : self.begin.first]

    def rest(self, values: Tensor) -> Tensor:
        """The other columns ``[row pos-start]``."""
        return self.whole(values)[:, self.begin.first :]


def best_start(bundle: Bundle, group: Group, batch: Slice) -> Start:
    """The start that saves most tokens; none if that is not worth a pass, or not exact."""
    n, copies = len(batch), len(group.nodes)
    per_run = n > 1
    if bundle.forgets(batch.columns + (bundle.run.generate or 0)):
        if bundle.arch.window_masks is None:
            return Start()
        # A window counts columns, so with padding inside a row it would end too early.
        per_run &= not batch.padded
    untouched = group.first_touched(batch) if copies >= MIN_NODES else 0
    alike = common_tokens(group, batch) if per_run else 0
    saved, start = max(
        ((copies - 1) * n * untouched, Start(untouched, "prompt")),
        (copies * (n - 1) * alike, Start(alike, "run")),
        key=lambda pair: pair[0],
    )
    return start if saved > FIXED_TOKENS else Start()


def common_tokens(group: Group, batch: Slice) -> int:
    """Number of first tokens that all prompts share, and that each run treats alike in all prompts."""
    first = alike_tokens(batch.batch)
    layout = Layout.of(batch.batch, Start(max(first, 1)))
    for where, own in {*group.edits, *((where, True) for where in group.reads)}:
        if first <= 0:
            break
        chosen = layout.whole(batch.chosen(where))
        first = min(first, _leading(~chosen.any(dim=0)) if own else _alike(chosen))
    return first


def alike_tokens(tokens: TokenBatch) -> int:
    """Number of first tokens that all prompts share; at most all but the last one of the shortest."""
    longest = int(tokens.attention_mask[:, : tokens.n_prompt].sum(dim=1).min()) - 1
    if longest <= 0:
        return 0
    return min(longest, _alike(Layout.of(tokens, Start(longest)).whole(tokens.input_ids)))


def common_before(tokens: TokenBatch, column: int, alike: int) -> int:
    """How many of the first ``alike`` tokens to compute once for all rows; 0 if that saves less than a pass costs.

    Moved to the first columns, in front of the padding, they must stay left of ``column``.
    """
    padding = tokens.n_prompt - int(tokens.attention_mask[:, : tokens.n_prompt].sum(1).min())
    first = min(alike, column - padding)
    return first if (len(tokens) - 1) * first > FIXED_TOKENS else 0


def _alike(values: Tensor) -> int:
    """Number of leading columns in which all rows are equal."""
    return _leading((values == values[:1]).all(dim=0))


def _leading(flags: Bool[Tensor, " pos"]) -> int:
    return int(flags.int().cumprod(dim=0).sum())
