"""Whole prompts as rows of a batch, for every run one row per example: the plain layout of a chunk. No forwards.

A start that rows have in common becomes a chunk of its own, and its keys and values are handed to every row
(``_common``).
"""

from collections.abc import Iterator
from typing import Any

import torch

from bkdinterp.engine._common import Layout, Start
from bkdinterp.engine._graph import Node
from bkdinterp.engine._lower import Rows, Steps
from bkdinterp.engine._memory import Size, chunk_bytes
from bkdinterp.engine._run import Run
from bkdinterp.errors import PlanError
from bkdinterp.model import Architecture
from bkdinterp.prompts import PromptBuilder, TokenBatch

Chunk = dict[str, Any]


def row_size(batch: TokenBatch, run: Run, rows: int, start: int = 0) -> Size:
    """The size of a chunk of this many rows, of whose prompts ``start`` tokens are computed elsewhere."""
    length = batch.input_ids.shape[1] + (run.generate or 0)
    logits = batch.targets.shape[1] + 1 if run.score is not None else 1
    return Size(rows, length - start, length, logits, cached=run.generate is not None or start > 0)


def row_chunks(
    arch: Architecture,
    nodes: list[Node],
    batch: TokenBatch,
    examples: tuple[int, ...],
    builder: PromptBuilder,
    begin: Start,
) -> Iterator[Chunk]:
    """One batch, after the start that its rows have in common, if there is any."""
    run, n = nodes[0].run, len(examples)
    base_rows = None
    copies = len(nodes)
    if run.needs_base:
        # The unedited rows that the score compares with travel in the same batch, after the edited ones.
        base_rows = torch.arange(n).repeat(copies + 1) + n * copies
        copies += 1
    layout = Layout.of(batch, begin)
    steps, first_steps = Steps(arch), Steps(arch)
    places: dict[tuple[int, int], dict[str, Any]] = {}
    index = torch.tensor(examples)
    for k, node in enumerate(nodes):
        rows, one = Rows(k * n, index, len(run.prompts)), Rows(k, index[:1], len(run.prompts))
        for edit, source in zip(node.edits, node.sources, strict=True):
            chosen = batch.selection(edit.where)
            steps.edit(edit, layout.rest(chosen), rows, source)
            if begin.per == "run":
                first_steps.edit(edit, layout.start(chosen), one, source)
        for i, read in enumerate(node.reads):
            if read.where.generated and run.generate is not None:
                raise PlanError(
                    f"Read of {read.site} at {read.where}: reads while generating cover prompt tokens only."
                )
            picked, cols, example, ordinal = rows.picked(layout.rest(batch.selection(read.where)))
            steps.read((node.index, i), read, rows=picked, cols=cols)
            places[node.index, i] = {"example": example, "ordinal": ordinal, "count": len(picked)}
    chunk: Chunk = {
        "kind": "forward" if run.generate is None else "generate",
        "inputs": {
            "input_ids": layout.rest(batch.input_ids).repeat(copies, 1),
            "attention_mask": layout.whole(batch.attention_mask).repeat(copies, 1),
            "position_ids": layout.rest(batch.position_ids).repeat(copies, 1),
            "use_cache": run.generate is not None or begin.first > 0,
            "logits_to_keep": 1 if run.score is None else batch.targets.shape[1] + 1,
        },
        "steps": steps.ordered(),
        "want": [] if run.generate is None else ["next", "cache"],
        "score": None,
        "score_name": run.score_name,
        "nodes": [node.index for node in nodes],
        "examples": list(examples),
        "places": places,
        "bytes": chunk_bytes(arch, row_size(batch, run, n * copies, begin.first)),
        "layers": steps.depth if run.score is None and run.generate is None else arch.n_layers,
    }
    if run.score is not None:
        chunk["score"] = _score_part(batch, copies, run) | {"base_rows": base_rows}
    if run.generate is not None:
        chunk["decode"] = _decode(arch, nodes, index, builder, run.generate)
    if begin.first > 0:
        per_run = begin.per == "run"
        chunk["prefix"] = f"start {nodes[0].index}/{examples[0]}"
        chunk["common"] = (
            torch.arange(copies).repeat_interleave(n) if per_run else torch.arange(n).repeat(copies)
        )
        yield _start_chunk(arch, batch, layout, first_steps, copies if per_run else 1, chunk)
    yield chunk


def _start_chunk(
    arch: Architecture, batch: TokenBatch, layout: Layout, steps: Steps, copies: int, chunk: Chunk
) -> Chunk:
    """The start, one row per run or per prompt; keeps keys and values."""
    rows, columns = layout.start(batch.input_ids).shape
    size = Size(rows * copies, columns, columns, 1, cached=True)
    return {
        "kind": "start",
        "inputs": {
            "input_ids": layout.start(batch.input_ids).repeat(copies, 1),
            "attention_mask": layout.start(batch.attention_mask).repeat(copies, 1),
            "position_ids": layout.start(batch.position_ids).repeat(copies, 1),
            "use_cache": True,
            "logits_to_keep": 1,
        },
        "steps": steps.ordered(),
        "want": ["cache"],
        "score": None,
        "score_name": chunk["score_name"],
        "nodes": [],
        "examples": chunk["examples"],
        "places": {},
        "prefix": chunk["prefix"],
        "bytes": chunk_bytes(arch, size),
        "layers": arch.n_layers,
    }


def _score_part(batch: TokenBatch, copies: int, run: Run) -> dict[str, Any]:
    return {
        "arguments": 4 if run.declared is None else run.declared.arguments,
        "targets": batch.targets.repeat(copies, 1),
        "mask": batch.target_mask[:, batch.n_prompt :].repeat(copies, 1),
        "base_rows": None,
        "order": None,
    }


def _decode(
    arch: Architecture, nodes: list[Node], index: torch.Tensor, builder: PromptBuilder, n_tokens: int
) -> dict[str, Any]:
    """What changes after the prefill: the edits that cover generated tokens, on the one new column."""
    steps = Steps(arch)
    n = len(index)
    everywhere = torch.ones(n, 1, dtype=torch.bool)
    for k, node in enumerate(nodes):
        for edit, source in zip(node.edits, node.sources, strict=True):
            if not edit.where.generated:
                continue
            value = edit.value
            three = isinstance(value, torch.Tensor) and value.ndim == 3
            if three or (source is not None and not _fits_decode(edit.value)):
                raise PlanError(
                    f"Edit at {edit.site} ({edit.where}) has one value per token, but a generated token has none; "
                    "use a [d] or [example d] value, or generated=False."
                )
            steps.edit(edit, everywhere, Rows(k * n, index, len(node.run.prompts)), source)
    ends = list(builder.end_ids)
    pad = getattr(builder.tokenizer, "pad_token_id", None)
    pad = int(pad) if pad is not None else (ends[0] if ends else 0)
    return {"steps": steps.ordered(), "n_tokens": n_tokens, "ends": ends, "pad": pad}


def _fits_decode(value: Any) -> bool:
    return value.read.reduce == "mean" or value.read.where.single
