"""Prefix reuse: what many edited runs share is computed once.

Where every edit of a bundle of runs starts at the last prompt token, the earlier tokens' keys and values are the
same for all of them, and so is the residual stream below the lowest edited layer. Three kinds of chunk follow:

    prefix   unedited, all prompt tokens but the last; keeps the key-value cache
    tail     unedited, from the last prompt token on; keeps the residual stream entering each start layer
    forward  the edited rows, from the last prompt token on and from their start layer on

Exact: only the order of floating-point additions differs from a plain forward.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from bkdinterp.engine._graph import Node
from bkdinterp.engine._lower import Rows, Steps
from bkdinterp.model import Architecture
from bkdinterp.prompts import TokenBatch

Chunk = dict[str, Any]
MIN_NODES = 3


def reusable(nodes: list[Node], batch: TokenBatch) -> bool:
    """Whether these runs may share their prefix: scored, nothing to read, first edit at the last prompt token."""
    run = nodes[0].run
    if len(nodes) < MIN_NODES or run.score is None or run.score_name == "kl" or any(n.reads for n in nodes):
        return False
    if int(batch.prompt_mask.sum(1).min()) < 2:
        return False
    early = batch.n_prompt - 1
    wheres = {edit.where for node in nodes for edit in node.edits}
    return not any(bool(batch.selection(where)[:, :early].any()) for where in wheres)


def reuse_chunks(
    arch: Architecture,
    nodes: list[Node],
    batch: TokenBatch,
    examples: tuple[int, ...],
    capacity: int,
    key: str,
    score_part: Callable[[TokenBatch, int], dict[str, Any]],
) -> Iterator[Chunk]:
    """The chunks of one bundle on one slice of examples; ``capacity`` is the number of rows of a chunk."""
    n, early = len(examples), batch.n_prompt - 1
    yield _prefix(batch, early, key)
    plain = [node for node in nodes if not node.edits]
    edited = sorted((_lowest(node), node.index, node) for node in nodes if node.edits)
    starts = sorted({start for start, _, _ in edited if start > 0})
    tail = _inputs(batch, early, 1)
    steps = Steps(arch)
    for layer in starts:
        steps.keep(layer, f"{layer}")
    yield _chunk("tail", tail, steps.ordered(), examples, key) | {
        "score": score_part(batch, 1) if plain else None,
        "score_name": nodes[0].run.score_name,
        "nodes": [node.index for node in plain],
        "shared_rows": True,
        "layers": arch.n_layers,
    }
    per_chunk = max(1, capacity // n)
    for group in _groups(edited, per_chunk):
        start = group[0][0]
        members = [node for _, _, node in group]
        steps = Steps(arch)
        for k, node in enumerate(members):
            rows = Rows(k * n, torch.tensor(examples), len(node.run.prompts))
            for edit, source in zip(node.edits, node.sources, strict=True):
                steps.edit(edit, batch.selection(edit.where)[:, early:], rows, source)
        yield _chunk("forward", _inputs(batch, early, len(members)), steps.ordered(), examples, key) | {
            "score": score_part(batch, len(members)),
            "score_name": nodes[0].run.score_name,
            "nodes": [node.index for node in members],
            "start": start,
            "skip_paths": [f"{arch.family.layers}.{i}" for i in range(start)],
            "copies": len(members),
            "layers": arch.n_layers - start,
        }


def _lowest(node: Node) -> int:
    return min(edit.site.layer for edit in node.edits)


def _groups(edited: list[tuple[int, int, Node]], per_chunk: int) -> Iterator[list[tuple[int, int, Node]]]:
    """Runs with one start layer stay together: a mixed batch would start at its lowest layer."""
    group: list[tuple[int, int, Node]] = []
    for item in edited:
        if group and (item[0] != group[0][0] or len(group) == per_chunk):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _prefix(batch: TokenBatch, early: int, key: str) -> Chunk:
    inputs = {
        "input_ids": batch.input_ids[:, :early],
        "attention_mask": batch.attention_mask[:, :early],
        "position_ids": batch.position_ids[:, :early],
        "use_cache": True,
        "logits_to_keep": 1,
    }
    return _chunk("prefix", inputs, [], (), key) | {"want": ["cache"]}


def _inputs(batch: TokenBatch, early: int, copies: int) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids[:, early:].repeat(copies, 1),
        "attention_mask": batch.attention_mask.repeat(copies, 1),
        "position_ids": batch.position_ids[:, early:].repeat(copies, 1),
        "use_cache": True,
        "logits_to_keep": batch.input_ids.shape[1] - early,
    }


def _chunk(kind: str, inputs: dict[str, Any], steps: list[Any], examples: tuple[int, ...], key: str) -> Chunk:
    return {
        "kind": kind,
        "inputs": inputs,
        "steps": steps,
        "want": [],
        "score": None,
        "score_name": None,
        "nodes": [],
        "examples": list(examples),
        "places": {},
        "prefix": key,
    }
