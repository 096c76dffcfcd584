"""The plain layout of a chunk: whole prompts as rows of a batch, one row per run and example. No forwards.

The common start of rows becomes a separate chunk, whose keys and values are given to every row (``_shared_start``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine._bundle import Bundle, Group
from bkdinterp.engine._chunk import Chunk, Outline, Place
from bkdinterp.engine._cost import head_layers
from bkdinterp.engine._graph import Node
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._lower import Picked, Rows, Steps, depth
from bkdinterp.engine._memory import Size
from bkdinterp.engine._part import Part, Totals
from bkdinterp.engine._shared_start import Layout, Start, best_start
from bkdinterp.engine._tokens import Slice
from bkdinterp.errors import PlanError
from bkdinterp.sites import Where

# When some rows of a generation end, the keys and values of the others are copied (program.STILL_GOING).
_COPIED = 1.75
NO_START = Start()


def row_bytes(bundle: Bundle, batch: Slice, rows: int, begin: Start = NO_START, kept_rows: int = 0) -> int:
    """Peak bytes of a chunk with this many rows; its start, which is kept, has ``kept_rows``."""
    run, memory = bundle.run, bundle.memory
    length = batch.columns + (run.generate or 0)
    cached = run.generate is not None or begin.first > 0
    size = Size(rows, length - begin.first, length, _logits(bundle, batch), cached=cached)
    peak = memory.forward(size)
    if run.generate is not None:
        peak = max(peak, int(_COPIED * memory.cache(rows, length)))
    return peak + memory.cache(kept_rows, begin.first)


def row_capacity(bundle: Bundle, batch: Slice, budget: int) -> int:
    """Number of rows of a chunk that fit into the budget; 0 if none does."""
    one, two = (row_bytes(bundle, batch, rows) for rows in (1, 2))
    rows = max(0, (budget - one) // max(1, two - one) + 1)
    # The temporaries of scores do not grow beyond a certain size.
    while row_bytes(bundle, batch, rows + 1) <= budget:
        rows = max(rows + 1, rows + (budget - row_bytes(bundle, batch, rows)) // max(1, two))
    return rows


def row_parts(
    bundle: Bundle, examples: tuple[int, ...], capacity: int, budget: int, *, reuse: bool
) -> Iterator["RowsPart"]:
    """Parts with all runs on some examples, as many at once as ``capacity`` rows allow."""
    at_once = max(1, capacity // len(examples) - bundle.run.needs_base)
    for first in range(0, len(bundle.nodes), at_once):
        group = bundle.group(first, min(first + at_once, len(bundle.nodes)))
        yield from _parts_of(bundle, examples, group, budget, reuse=reuse)


def _parts_of(
    bundle: Bundle, examples: tuple[int, ...], group: Group, budget: int, *, reuse: bool
) -> list["RowsPart"]:
    """One part; or two halves, if a start takes memory for fewer rows only and is still worth it."""
    batch, copies = bundle.slice(examples), len(group.nodes) + bundle.run.needs_base
    begin = best_start(bundle, group, batch) if reuse else NO_START
    kept = copies if begin.per == "run" else len(examples)
    if begin.first and row_bytes(bundle, batch, len(examples) * copies, begin, kept) <= budget:
        return [RowsPart.of(bundle, batch, group, begin)]
    plain = [RowsPart.of(bundle, batch, group, NO_START)]
    if not begin.first or len(examples) == 1:
        return plain
    half = len(examples) // 2
    halves = [
        part
        for some in (examples[:half], examples[half:])
        for part in _parts_of(bundle, some, group, budget, reuse=reuse)
    ]
    # The start is computed once in each of them, through all layers.
    return halves if _cost(halves) < _cost(plain) else plain


def _cost(parts: Sequence["RowsPart"]) -> float:
    return sum(part.totals.cost for part in parts)


@dataclass(frozen=True, eq=False)
class RowsPart(Part):
    """One batch, and before it the common start of its rows, if there is one."""

    group: Group
    begin: Start

    @classmethod
    def of(cls, bundle: Bundle, batch: Slice, group: Group, begin: Start) -> "RowsPart":
        """Outlined."""
        run, arch, head = bundle.run, bundle.arch, head_layers(bundle.arch)
        copies, n = len(group.nodes) + run.needs_base, len(batch)
        kept = (copies if begin.per == "run" else n) if begin.first else 0
        whole = run.score is not None or run.generate is not None
        last = Outline(
            kind="forward" if run.generate is None else "generate",
            nodes=group.numbers,
            rows=n * copies,
            columns=batch.columns - begin.first,
            # A pass that only reads stops before the logits.
            logits=_logits(bundle, batch) if whole else 0,
            layers=arch.n_layers if whole else _depth(bundle, batch, group, begin),
            bytes=row_bytes(bundle, batch, n * copies, begin, kept),
            steps=run.generate or 1,
            scored=run.score is not None,
            head=head,
        )
        outlines = (last,)
        if begin.first:
            size = Size(kept, begin.first, begin.first, 1, cached=True)
            peak = bundle.memory.forward(size)
            first = Outline("start", (), kept, begin.first, 1, arch.n_layers, peak, head=head)
            outlines = (first, last)
        return cls(bundle, batch.examples, outlines, Totals.of(outlines), len(outlines) - 1, group, begin)

    @property
    def layout(self) -> Any:
        """The outlines, and the start."""
        return [*super().layout, self.begin.first, self.begin.per]

    def build(self, k: int) -> Chunk:
        """Build the start, or the rows."""
        batch = self.bundle.slice(self.examples)
        builder = _Builder(self, batch, Layout.of(batch.batch, self.begin))
        return builder.start() if k < len(self.outlines) - 1 else builder.rows()


class _Builder:
    """Builds the chunks of one part."""

    def __init__(self, part: RowsPart, batch: Slice, layout: Layout) -> None:
        self.part, self.batch, self.layout = part, batch, layout
        self.bundle, self.nodes = part.bundle, part.group.nodes
        self.copies = len(self.nodes) + self.bundle.run.needs_base
        self._picked: dict[tuple[Where, bool], Picked] = {}

    def start(self) -> Chunk:
        """The start: one row per run or per prompt; keeps keys and values."""
        per_run = self.part.begin.per == "run"
        steps, n = Steps(self.bundle.arch), len(self.bundle.run.prompts)
        if per_run:
            for k, node in enumerate(self.nodes):
                rows = Rows(k, self.batch.index[:1], n)
                for edit, source in zip(node.edits, node.sources, strict=True):
                    steps.edit(edit, self._pick(edit.where, start=True), rows, source)
        # A cache that forgets tokens outside a window would not work for rows that begin at different columns.
        whole = self.bundle.forgets(self.batch.columns + (self.bundle.run.generate or 0))
        return self.part.start_chunk(
            self.layout,
            self.batch.batch,
            steps,
            copies=self.copies if per_run else 1,
            whole_cache=whole,
        )

    def rows(self) -> Chunk:
        """The rows: one per run and example."""
        run, n, layout, tokens = self.bundle.run, len(self.batch), self.layout, self.batch.batch
        steps, places = self._steps()
        outline, begin, copies = self.part.outlines[-1], self.part.begin, self.copies
        inputs = {
            "input_ids": layout.rest(tokens.input_ids).repeat(copies, 1),
            "attention_mask": layout.whole(tokens.attention_mask).repeat(copies, 1),
            "position_ids": layout.rest(tokens.position_ids).repeat(copies, 1),
            "use_cache": run.generate is not None or begin.first > 0,
            "logits_to_keep": last_columns(
                self.batch.columns - begin.first, _logits(self.bundle, self.batch)
            ),
        }
        common = None
        if begin.first:
            per_run = begin.per == "run"
            common = torch.arange(copies).repeat_interleave(n) if per_run else torch.arange(n).repeat(copies)
        return Chunk(
            kind="forward" if run.generate is None else "generate",
            inputs=inputs,
            steps=steps.ordered(),
            nodes=outline.nodes,
            examples=self.part.examples,
            bytes=outline.bytes,
            cost=outline.cost,
            layers=outline.layers,
            score_name=run.score_name,
            want=() if run.generate is None else ("next", "cache"),
            score=None if run.score is None else self._score(),
            places=places,
            prefix=self.part.key if begin.first else None,
            common=common,
            decode=None if run.generate is None else self._decode(run.generate),
        )

    def _steps(self) -> tuple[Steps, dict[tuple[int, int], Place]]:
        steps, n, index = Steps(self.bundle.arch), len(self.batch), self.batch.index
        places: dict[tuple[int, int], Place] = {}
        for k, node in enumerate(self.nodes):
            rows = Rows(k * n, index, len(node.run.prompts))
            for edit, source in zip(node.edits, node.sources, strict=True):
                steps.edit(edit, self._pick(edit.where), rows, source)
            # Cached, because a sweep's source is read at thousands of sites, all at the same tokens.
            at: dict[Where, tuple[Tensor, Tensor, Place]] = {}
            for i, read in enumerate(node.reads):
                if read.where not in at:
                    picked = self._pick(read.where)
                    place = Place(index[picked.rows], picked.ordinal, len(picked))
                    at[read.where] = (*rows.place(picked), place)
                chosen, cols, places[node.index, i] = at[read.where]
                steps.read((node.index, i), read, rows=chosen, cols=cols)
        return steps, places

    def _pick(self, where: Where, *, start: bool = False) -> Picked:
        if (where, start) not in self._picked:
            take = self.layout.start if start else self.layout.rest
            self._picked[where, start] = Picked.of(take(self.batch.chosen(where)))
        return self._picked[where, start]

    def _score(self) -> dict[str, Any]:
        tokens, run, n = self.batch.batch, self.bundle.run, len(self.batch)
        base_rows = None
        if run.needs_base:
            # The unedited rows that the score compares with are in the same batch, after the edited ones.
            base_rows = torch.arange(n).repeat(self.copies) + n * (self.copies - 1)
        return {
            "arguments": 4 if run.declared is None else run.declared.arguments,
            "targets": tokens.targets.repeat(self.copies, 1),
            "mask": tokens.target_mask[:, tokens.n_prompt :].repeat(self.copies, 1),
            "base_rows": base_rows,
            "order": None,
        }

    def _decode(self, n_tokens: int) -> dict[str, Any]:
        """The steps after the prefill: the edits that cover generated tokens, on the one new column."""
        steps, n, index = Steps(self.bundle.arch), len(self.batch), self.batch.index
        everywhere = Picked.of(torch.ones(n, 1, dtype=torch.bool))
        for k, node in enumerate(self.nodes):
            for edit, source in zip(node.edits, node.sources, strict=True):
                if edit.where.generated:
                    steps.edit(edit, everywhere, Rows(k * n, index, len(node.run.prompts)), source)
        builder = self.bundle.builder
        ends = list(builder.end_ids)
        pad = getattr(builder.tokenizer, "pad_token_id", None)
        pad = int(pad) if pad is not None else (ends[0] if ends else 0)
        return {"steps": steps.ordered(), "n_tokens": n_tokens, "ends": ends, "pad": pad}


def check_generation(node: Node) -> None:
    """Check that generated tokens are not read and need no value per token.

    Raises:
        PlanError: a read or an edit needs that.
    """
    for read in node.reads:
        if read.where.generated:
            raise PlanError(
                f"Read of {read.site} at {read.where}: reads while generating can cover only prompt tokens."
            )
    for edit, source in zip(node.edits, node.sources, strict=True):
        if not edit.where.generated:
            continue
        three = isinstance(edit.value, Tensor) and edit.value.ndim == 3
        if three or (source is not None and not _fits_decode(edit.value)):
            raise PlanError(
                f"Edit at {edit.site} ({edit.where}) has one value per token, but a generated token has none; "
                "use a [d] or [example d] value, or generated=False."
            )


def _fits_decode(value: Any) -> bool:
    return value.read.reduce == "mean" or value.read.where.single


def _logits(bundle: Bundle, batch: Slice) -> int:
    """Number of tokens per row whose logits are computed."""
    return 1 if bundle.run.score is None else batch.n_targets + 1


def _depth(bundle: Bundle, batch: Slice, group: Group, begin: Start) -> int:
    """Number of blocks that must run to reach the last edit or read of some rows; a partly run block counts."""
    layout = Layout.of(batch.batch, begin)
    tops = [group.last_read] if group.reads else []
    tops += [top for where, top in group.last_edits.items() if bool(layout.rest(batch.chosen(where)).any())]
    return depth(max(tops)) if tops else bundle.arch.n_layers
