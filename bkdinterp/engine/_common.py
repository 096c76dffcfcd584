"""The start of a batch's rows that need not be computed for every row: for each run once, or for each prompt once.

    per run      the tokens that all prompts begin with, a chat template's system message say, under the run's edits
    per prompt   the tokens left of the first edited one, which no run of the batch changes

Prompts are padded on the left, so a common start lies in different columns; it is moved to the first ones, before the
padding. Positions travel with their tokens, and masked columns are seen by nobody: only the order of floating-point
additions changes. No forwards.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bkdinterp.engine._graph import Node
from bkdinterp.engine._price import FIXED_TOKENS, MIN_NODES
from bkdinterp.interventions import Edit, From
from bkdinterp.model import Architecture
from bkdinterp.prompts import TokenBatch


@dataclass(frozen=True)
class Start:
    """How many tokens (per run) or columns (per prompt) are computed beforehand; 0 for none."""

    first: int = 0
    per: Literal["run", "prompt"] = "run"


@dataclass(frozen=True, eq=False)
class Layout:
    """Columns in another order: the start's, then the padding that was left of it, then what is each row's own."""

    begin: Start
    order: Int[Tensor, "row pos"]

    @classmethod
    def of(cls, batch: TokenBatch, begin: Start) -> "Layout":
        """The layout of a batch with this start."""
        columns = torch.arange(batch.input_ids.shape[1]).expand(len(batch), -1)
        if begin.first == 0 or begin.per == "prompt":
            return cls(begin, columns)
        padding = batch.attention_mask.int().argmax(dim=1, keepdim=True)
        # Sorting is stable: common tokens come first, everything else keeps its order.
        own = ~((columns >= padding) & (columns < padding + begin.first))
        return cls(begin, own.int().sort(dim=1, stable=True).indices)

    def whole(self, values: Tensor) -> Tensor:
        """All columns ``[row pos]``."""
        return values.gather(1, self.order)

    def start(self, values: Tensor) -> Tensor:
        """The start's columns, of one row where all are the same ``[row start]``."""
        rows = 1 if self.begin.per == "run" else len(values)
        return self.whole(values)[:rows, : self.begin.first]

    def rest(self, values: Tensor) -> Tensor:
        """The other columns ``[row pos-start]``."""
        return self.whole(values)[:, self.begin.first :]


def best_start(arch: Architecture, nodes: list[Node], batch: TokenBatch) -> Start:
    """The start that saves most tokens; none where that is not worth a pass, or not exact."""
    n, copies = len(batch), len(nodes)
    window = arch.sliding_window
    if window is not None and batch.input_ids.shape[1] + (nodes[0].run.generate or 0) > window:
        return Start()
    untouched = min(first_touched(node, batch) for node in nodes) if copies >= MIN_NODES else 0
    alike = common_tokens(nodes, batch) if n > 1 else 0
    saved, start = max(
        ((copies - 1) * n * untouched, Start(untouched, "prompt")),
        (copies * (n - 1) * alike, Start(alike, "run")),
        key=lambda pair: pair[0],
    )
    return start if saved > FIXED_TOKENS else Start()


def first_touched(node: Node, batch: TokenBatch) -> int:
    """The first column that a run edits or reads; a row's last prompt token is always its own."""
    wheres = {edit.where for edit in node.edits} | {read.where for read in node.reads}
    columns = [_leading(~batch.selection(where).any(dim=0)) for where in wheres]
    return min([batch.n_prompt - 1, *columns])


def common_tokens(nodes: list[Node], batch: TokenBatch) -> int:
    """How many tokens all prompts begin with, as far as each run treats them alike in all prompts."""
    n_real = batch.attention_mask[:, : batch.n_prompt].sum(dim=1)
    longest = int(n_real.min()) - 1
    layout = Layout.of(batch, Start(max(longest, 1)))
    first = min(longest, _alike(layout.whole(batch.input_ids)))
    wheres = {(edit.where, _own(edit)) for node in nodes for edit in node.edits}
    wheres |= {(read.where, True) for node in nodes for read in node.reads}
    for where, own in wheres:
        chosen = layout.whole(batch.selection(where))
        first = min(first, _leading(~chosen.any(dim=0)) if own else _alike(chosen))
    return first


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
