"""Sharing: what many edited runs on the same prompts have in common is computed once.

Left of the first edited token, keys and values are those of the unedited run; below the lowest edited layer, so is
the residual stream. Two kinds of chunk follow:

    base     the unedited run, whole; keeps its keys and values, and the residual stream at each start layer
    forward  edited rows, from the first edited token and from their start layer on, packed: copies of one example
             lie one after another in one sequence and share its prefix without copying it

Exact: only the order of floating-point additions differs from a plain forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import inf
from typing import Any

import torch

from bkdinterp.engine._cost import head_layers
from bkdinterp.engine._graph import Node
from bkdinterp.engine._lower import Rows, Steps
from bkdinterp.engine._memory import Size, chunk_bytes
from bkdinterp.engine._price import FIXED_TOKENS, MIN_NODES, cheapest_cuts
from bkdinterp.interventions import Edit, From
from bkdinterp.model import Architecture
from bkdinterp.prompts import TokenBatch

Chunk = dict[str, Any]
# Packed copies cost attention scores that are masked out again; separate ones cost copies of the prefix. The ratio of
# the two prices (operations to bytes) of a CPU, roughly; a wrong one costs some percent of time and nothing else.
OPS_PER_BYTE = 10.0
MAX_EXTRA = 0.045


@dataclass(frozen=True, eq=False)
class Shared:
    """Nodes on one slice of examples that share an unedited run.

    Attributes:
        batch: their tokens, without the last target column, which nobody needs to predict anything.
        targets: the whole batch, for the scores.
        early: first column that edited rows compute themselves.
    """

    arch: Architecture
    nodes: list[Node]
    batch: TokenBatch
    targets: TokenBatch
    examples: tuple[int, ...]
    early: int
    key: str

    @property
    def columns(self) -> int:
        """Columns of one edited row."""
        return self.batch.input_ids.shape[1] - self.early

    @property
    def edited(self) -> list[tuple[int, Node]]:
        """(start layer, node), lowest first."""
        pairs = [(lowest_layer(node), node) for node in self.nodes if node.edits]
        return sorted(pairs, key=lambda pair: (pair[0], pair[1].index))

    @property
    def kept_bytes(self) -> int:
        """What lies in memory between chunks: keys and values, and the kept residual streams."""
        arch, n = self.arch, len(self.examples)
        cache = n * self.batch.input_ids.shape[1] * arch.n_layers * 2 * arch.n_kv_heads * arch.d_head
        starts = len({start for start, _ in self.edited if start > 0})
        return 4 * (cache * (self.early > 0) + starts * n * self.columns * arch.d_model)

    @property
    def token_layers(self) -> int:
        """Tokens times layers of all its chunks."""
        n, depth = len(self.examples), self.arch.n_layers
        whole = n * self.batch.input_ids.shape[1] * depth
        return whole + sum(n * self.columns * (depth - start) for start, _ in self.edited)

    @property
    def plain_token_layers(self) -> int:
        """The same without sharing."""
        return len(self.nodes) * len(self.examples) * self.batch.input_ids.shape[1] * self.arch.n_layers

    def size(self, copies: int, *, base: bool = False) -> Size:
        """Size of a chunk with this many copies of the examples."""
        columns = self.batch.input_ids.shape[1] if base else self.columns
        return Size(
            rows=len(self.examples) * copies,
            columns=columns,
            keys=self.early * (not base) + columns,
            logits=self.targets.targets.shape[1],
        )


def share(
    arch: Architecture, nodes: list[Node], batch: TokenBatch, examples: tuple[int, ...], key: str
) -> Shared | None:
    """How these nodes would share on this slice of examples; None where they can not, or where it saves nothing."""
    run = nodes[0].run
    if len(nodes) < MIN_NODES or run.score is None or run.needs_base or any(n.reads for n in nodes):
        return None
    if any(_per_target_token(edit) for node in nodes for edit in node.edits):
        # Needs the last target token's value, too, which a shared layout leaves out.
        return None
    n_columns = batch.input_ids.shape[1] - 1
    window = getattr(arch, "sliding_window", None)
    if window is not None and n_columns > window:
        # A sliding cache forgets what a row that starts later still needs.
        return None
    wheres = {edit.where for node in nodes for edit in node.edits}
    touched = torch.stack([batch.selection(where).any(0) for where in wheres]) if wheres else None
    if touched is None or not bool(touched.any()):
        return None
    early = min(int(touched.any(0).int().argmax()), batch.n_prompt - 1)
    cut = replace(
        batch,
        input_ids=batch.input_ids[:, :n_columns],
        attention_mask=batch.attention_mask[:, :n_columns],
        trigger_mask=batch.trigger_mask[:, :n_columns],
        n_prompt=min(batch.n_prompt, n_columns),
    )
    shared = Shared(arch, nodes, cut, batch, examples, early, key)
    return shared if shared.token_layers < shared.plain_token_layers else None


def share_chunks(shared: Shared, budget: int) -> Iterator[Chunk]:
    """The chunks: the unedited run first."""
    arch, nodes, batch = shared.arch, shared.nodes, shared.batch
    plain = [node for node in nodes if not node.edits]
    starts = sorted({start for start, _ in shared.edited if start > 0})
    steps = Steps(arch)
    for layer in starts:
        steps.keep(layer, str(layer), shared.early)
    n_targets = shared.targets.targets.shape[1]
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": shared.early > 0,
        "logits_to_keep": n_targets if plain else 1,
    }
    yield _chunk(shared, "base", inputs, steps, plain) | {
        "want": ["like"] + ["cache"] * (shared.early > 0),
        "keep": {"layers": [str(layer) for layer in starts]},
        "score": _score_part(shared, 1, 1) if plain else None,
        "shared_rows": True,
        "layers": arch.n_layers,
        "bytes": chunk_bytes(arch, shared.size(1, base=True)) + shared.kept_bytes,
    }
    for start, members in _groups(shared, budget):
        yield _packed(shared, start, members)


def lowest_layer(node: Node) -> int:
    """The first layer that a node's edits change."""
    return min(edit.site.layer for edit in node.edits)


def _per_target_token(edit: Edit) -> bool:
    value = edit.value
    if not edit.where.generated or value is None:
        return False
    return (
        value.read.reduce is None and not value.read.where.single
        if isinstance(value, From)
        else value.ndim == 3
    )


def _groups(shared: Shared, budget: int) -> list[tuple[int, list[Node]]]:
    """(start layer, nodes) of each chunk, as many nodes as the budget allows.

    Nodes of neighbouring start layers share a chunk, which starts at the lowest, where a pass has too few tokens to be
    worth reading the weights for; at most `MAX_EXTRA` of all token-layers are spent so.
    """
    left = budget - shared.kept_bytes
    limit = 1
    while limit < len(shared.nodes) and chunk_bytes(shared.arch, shared.size(limit + 1)) <= left:
        limit += 1
    edited = shared.edited
    bounds = [i for i in range(len(edited)) if i == 0 or edited[i][0] != edited[i - 1][0]] + [len(edited)]
    # Pieces of one start layer each; whole ones wherever they fit.
    pieces = [
        edited[low : min(low + limit, stop)]
        for first, stop in pairwise(bounds)
        for low in range(first, stop, limit)
    ]
    sizes = [0, *accumulate(len(piece) for piece in pieces)]
    depths = [shared.arch.n_layers - piece[0][0] for piece in pieces]
    least = sum(depth * len(piece) for depth, piece in zip(depths, pieces, strict=True))
    tokens = len(shared.examples) * shared.columns
    head = head_layers(shared.arch)
    fixed = float(FIXED_TOKENS)
    while True:

        def price(first: int, stop: int, fixed: float = fixed) -> float:
            copies = sizes[stop] - sizes[first]
            if copies > limit and stop - first > 1:
                return inf
            return depths[first] * (fixed + tokens * copies) + head * fixed

        cuts = cheapest_cuts(len(pieces), len(pieces), price)
        work = sum(depths[first] * (sizes[stop] - sizes[first]) for first, stop in cuts)
        if work <= (1 + MAX_EXTRA) * least:
            break
        fixed *= 0.8
    return [
        (pieces[first][0][0], [node for piece in pieces[first:stop] for _, node in piece])
        for first, stop in cuts
    ]


def _packed(shared: Shared, start: int, members: list[Node]) -> Chunk:
    arch, batch, n, early = shared.arch, shared.batch, len(shared.examples), shared.early
    segments = _segments(shared, len(members))
    groups, columns = len(members) // segments, shared.columns
    steps = Steps(arch)
    index = torch.tensor(shared.examples)
    for k, node in enumerate(members):
        rows = Rows(k // segments * n, index, len(node.run.prompts), k % segments * columns)
        for edit, source in zip(node.edits, node.sources, strict=True):
            steps.edit(edit, batch.selection(edit.where)[:, early:], rows, source)
    n_targets = shared.targets.targets.shape[1]
    per_segment = torch.arange(segments)[:, None] * columns + torch.arange(columns - n_targets, columns)
    inputs = {
        "input_ids": batch.input_ids[:, early:].repeat(groups, segments),
        "position_ids": batch.position_ids[:, early:].repeat(groups, segments),
        "use_cache": early > 0,
        "logits_to_keep": per_segment.flatten(),
    }
    return _chunk(shared, "forward", inputs, steps, members) | {
        "pack": {
            "groups": groups,
            "segments": segments,
            "columns": columns,
            "early": early,
            "start": start,
            "prefix_mask": batch.attention_mask[:, :early],
            "new_mask": batch.attention_mask[:, early:],
        },
        "score": _score_part(shared, groups, segments),
        "skip_paths": [f"{arch.family.layers}.{i}" for i in range(start)],
        "layers": arch.n_layers - start,
        "bytes": chunk_bytes(arch, shared.size(len(members))) + shared.kept_bytes,
    }


def _segments(shared: Shared, copies: int) -> int:
    """How many copies to lay into one sequence: masked-out attention scores against copies of the prefix."""
    arch, t = shared.arch, shared.columns

    def price(p: int) -> float:
        ops = copies * t * (shared.early + p * t) * 4 * arch.n_heads * arch.d_head
        moved = copies // p * (shared.early + p * t) * 16 * (arch.n_kv_heads + arch.n_heads) * arch.d_head
        return ops / OPS_PER_BYTE + moved

    return min((p for p in range(1, copies + 1) if copies % p == 0), key=price)


def _score_part(shared: Shared, groups: int, segments: int) -> dict[str, Any]:
    """Targets in the order of the packed rows, and the way back to one node after another."""
    n, whole = len(shared.examples), shared.targets
    example = torch.arange(n).repeat_interleave(segments).repeat(groups)
    order = torch.arange(groups * n * segments).reshape(groups, n, segments).transpose(1, 2).flatten()
    score = shared.nodes[0].run.declared
    return {
        "arguments": 4 if score is None else score.arguments,
        "targets": whole.targets[example],
        "mask": whole.target_mask[:, whole.n_prompt :][example],
        "base_rows": None,
        "order": order if segments > 1 else None,
    }


def _chunk(shared: Shared, kind: str, inputs: dict[str, Any], steps: Steps, nodes: list[Node]) -> Chunk:
    return {
        "kind": kind,
        "inputs": inputs,
        "steps": steps.ordered(),
        "want": [],
        "score": None,
        "score_name": shared.nodes[0].run.score_name,
        "nodes": [node.index for node in nodes],
        "examples": list(shared.examples),
        "places": {},
        "prefix": shared.key,
    }
