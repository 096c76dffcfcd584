"""plan(): runs to chunks. No forward pass happens here; a tokenizer and an Architecture suffice.

Runs on the same prompts become rows of one batch, and share their prefix where edits allow it (``_share``). With
``naive=True`` every run is its own plain forward: the oracle that every cleverer plan is tested against.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import Any, Protocol, runtime_checkable

import torch

from bkdinterp.engine._checks import check_sources
from bkdinterp.engine._common import Start, best_start, common_tokens, first_touched
from bkdinterp.engine._cost import Cost, head_layers
from bkdinterp.engine._describe import describe
from bkdinterp.engine._graph import Node, build_graph
from bkdinterp.engine._memory import PLANNED, chunk_bytes
from bkdinterp.engine._price import FIXED_TOKENS, MIN_NODES, cheapest_cuts
from bkdinterp.engine._rows import row_chunks, row_size
from bkdinterp.engine._run import Run
from bkdinterp.engine._share import lowest_layer, share, share_chunks
from bkdinterp.engine._tokens import Tokens
from bkdinterp.errors import ArtefactError, PlanError, PromptError
from bkdinterp.interventions import origins
from bkdinterp.metrics import SCORES, Score
from bkdinterp.model import Architecture, as_model, check_origins
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.prompts import PromptBuilder
from bkdinterp.values import as_flag, as_number

Chunk = dict[str, Any]
DEFAULT_BUDGET = 2**30


@runtime_checkable
class Planned(Protocol):
    """What planning needs of a model; weights may be absent."""

    @property
    def architecture(self) -> Architecture:
        """Sizes and module paths."""
        ...

    @property
    def builder(self) -> PromptBuilder:
        """How prompts become tokens."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """Chunks in the order in which they must run, and the nodes that they serve."""

    chunks: tuple[Chunk, ...]
    nodes: tuple[Node, ...]
    n_runs: int
    cost: Cost
    scores: dict[str, Callable[..., torch.Tensor]]
    builder: PromptBuilder

    def builder_of(self, node: Node) -> PromptBuilder:
        """The prompt builder of a node's run."""
        return node.run.builder or self.builder

    def __repr__(self) -> str:
        return f"Plan({self.n_runs} runs, {len(self.chunks)} chunks: {self.cost})"

    def __str__(self) -> str:
        """What runs, in order; alike chunks in one line."""
        return "\n  ".join([f"{self.n_runs} runs: {self.cost}", *describe(self.chunks)])


@plain_torch()
def plan(model: Planned, runs: Sequence[Run], *, budget: Any = DEFAULT_BUDGET, naive: bool = False) -> Plan:
    """Lay out runs as chunks of one forward pass each (a generating chunk: one per new token).

    Args:
        model: anything with an architecture and a prompt builder.
        runs: what to compute.
        budget: bytes that one chunk's logits and activations may take (estimate; at least one row always runs); a
            positive number.
        naive: one run per chunk, no sharing.

    Raises:
        PlanError: nothing to compute, a score that is none (a user's own is tried on random logits), no budget, values that do
            not fit, circular sources, reads of generated tokens.
        PromptError: prompts that are empty, too long, or whose trigger leaves no token.
        SiteError: layers, heads or positions out of range.
        ArtefactError: an intervention with another model's numbers (means, activations, a vector, directions).
    """
    naive = as_flag(naive, "naive", error=PlanError)
    as_model(model, "plan")
    budget = as_number(budget, "budget", low=1, error=PlanError)
    nodes = build_graph(runs)
    _check_numbers(model, nodes)
    scores = _scores(nodes, model)
    if not any(run.score or run.reads or run.generate for run in runs):
        raise PlanError("No run asks for anything; give one score=, reads= or generate=.")
    tokens = Tokens()
    chunks: list[Chunk] = []
    for bundle in _bundles(nodes, naive):
        for part in [bundle] if naive else _parts(model, bundle, tokens):
            chunks.extend(_bundle_chunks(model, part, tokens, int(PLANNED * budget), reuse=not naive))
    _check_means(chunks, nodes)
    check_sources(chunks, nodes)
    return Plan(
        tuple(chunks), tuple(nodes), len(runs), _cost(chunks, model.architecture), scores, model.builder
    )


def _check_numbers(model: Planned, nodes: list[Node]) -> None:
    """All origins at once, however many runs have them: looking at weights takes its time."""
    found: dict[str, str] = {}
    for node in nodes:
        for origin in origins(node.run.edits):
            found.setdefault(origin, str(node.run.edits))
    try:
        check_origins(model, found, "Numbers")
    except ArtefactError:
        for origin, edits in found.items():
            check_origins(model, (origin,), f"The numbers of {edits}")
        raise


def _check_means(chunks: list[Chunk], nodes: list[Node]) -> None:
    counts: dict[tuple[int, int], int] = {}
    for chunk in chunks:
        for key, place in chunk["places"].items():
            counts[key] = counts.get(key, 0) + place["count"]
    for (node, index), count in counts.items():
        read = nodes[node].reads[index]
        if read.reduce == "mean" and count == 0:
            raise PlanError(
                f"The mean of {read.site} at {read.where} is over no token: no prompt has such a position."
            )


def _scores(nodes: list[Node], model: Planned) -> dict[str, Callable[..., torch.Tensor]]:
    """Name -> function of every score; a user's own is tried first."""
    scores: dict[str, Score] = {}
    for score in (node.run.declared for node in nodes):
        if score is None:
            continue
        if score.name not in scores and SCORES.get(score.name) != score:
            # Where and as what the logits will be; a plan can be made without a model that has weights.
            device, dtype = getattr(model, "device", None), getattr(model, "dtype", None)
            known = isinstance(device, torch.device) and device.type != "meta"
            score.check(
                model.architecture.d_vocab,
                device=device if known and device is not None else "cpu",
                dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32,
            )
        if scores.setdefault(score.name, score) != score:
            raise PlanError(
                f"Two different scores of this plan are named {score.name!r}; rename one: bk.Score(function, name='...')."
            )
    return {name: score.fn for name, score in scores.items()}


def _bundles(nodes: list[Node], naive: bool) -> Iterator[list[Node]]:
    """Nodes that may share a batch."""
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in nodes:
        key = (node.level, *node.company)
        groups.setdefault((*key, node.index) if naive else key, []).append(node)
    for key in sorted(groups, key=lambda k: k[0]):
        yield groups[key]


def _bundle_chunks(
    model: Planned, bundle: list[Node], tokens: Tokens, budget: int, reuse: bool
) -> Iterator[Chunk]:
    run, arch = bundle[0].run, model.architecture
    builder = run.builder or model.builder
    everything = tuple(range(len(run.prompts)))
    whole = tokens.batch(builder, run, everything)
    lengths = whole.attention_mask.sum(1)
    longest = int(lengths.max())
    if (
        run.generate is not None
        and builder.max_length is not None
        and longest + run.generate > builder.max_length
    ):
        raise PromptError(
            f"The longest prompt has {longest} tokens; with {run.generate} new ones it passes the context of "
            f"{builder.max_length}. Ask for fewer new tokens, or drop long prompts."
        )
    by_length = sorted(everything, key=lambda i: int(lengths[i]))
    sizes = [row_size(whole, run, n) for n in (1, 2)]
    # Bytes grow with the rows; the rest of the estimate does not matter here.
    one, two = (chunk_bytes(arch, size) for size in sizes)
    capacity = max(1, (budget - one) // max(1, two - one) + 1)
    if reuse:
        alike = share(arch, bundle, whole, everything, "") is not None
        cuts = _buckets(lengths[by_length].tolist(), bundle, capacity, alike)
    else:
        cuts = _slices(len(by_length), capacity)
    for first, stop in cuts:
        examples = tuple(sorted(by_length[first:stop]))
        batch = tokens.batch(builder, run, examples)
        shared = share(arch, bundle, batch, examples, f"{bundle[0].index}/{first}") if reuse else None
        if shared is not None:
            yield from share_chunks(shared, budget)
            continue
        nodes_per_chunk = max(1, capacity // len(examples))
        for k in range(0, len(bundle), nodes_per_chunk):
            group = bundle[k : k + nodes_per_chunk]
            begin = best_start(arch, group, batch) if reuse else Start()
            yield from row_chunks(arch, group, batch, examples, builder, begin)


def _parts(model: Planned, bundle: list[Node], tokens: Tokens) -> list[list[Node]]:
    """Runs that edit early tokens keep others from sharing what lies before their own: part them where that pays."""
    run = bundle[0].run
    batch = tokens.batch(run.builder or model.builder, run, tuple(range(len(run.prompts))))
    by_column: dict[int, list[Node]] = {}
    for node in bundle:
        by_column.setdefault(first_touched(node, batch), []).append(node)
    if len(by_column) == 1:
        return [bundle]
    columns = sorted(by_column)
    counts = [0, *accumulate(len(by_column[c]) for c in columns)]
    n, length = batch.input_ids.shape
    alike, passes = common_tokens(bundle, batch), run.generate or 1

    def price(first: int, stop: int) -> float:
        copies = counts[stop] - counts[first]
        untouched = columns[first] if copies >= MIN_NODES else 0
        saved = max((copies - 1) * n * untouched, copies * (n - 1) * alike)
        return float(FIXED_TOKENS * (passes + 1) + copies * n * length - saved)

    cuts = cheapest_cuts(len(columns), len(columns), price)
    return [[node for c in columns[first:stop] for node in by_column[c]] for first, stop in cuts]


def _slices(n: int, capacity: int) -> list[tuple[int, int]]:
    return [(i, min(i + capacity, n)) for i in range(0, n, capacity)]


def _buckets(lengths: list[int], bundle: list[Node], capacity: int, alike: bool) -> list[tuple[int, int]]:
    """Cut examples, shortest first, into batches: padding costs tokens, another batch costs a pass or several."""
    if lengths[0] == lengths[-1]:
        return _slices(len(lengths), capacity)
    # Edited rows that share a prefix do not see its padding; their unedited run does.
    copies = 1 if alike else len(bundle)
    passes = len({lowest_layer(n) for n in bundle if n.edits}) + 1 if alike else bundle[0].run.generate or 1

    def price(first: int, stop: int) -> float:
        rows = copies * (stop - first)
        return float(FIXED_TOKENS * passes * ceil(rows / capacity) + rows * lengths[stop - 1])

    return cheapest_cuts(len(lengths), capacity, price)


def _cost(chunks: list[Chunk], arch: Architecture) -> Cost:
    forwards = token_layers = layer_passes = logit_rows = peak = 0
    head = head_layers(arch)
    for chunk in chunks:
        inputs = chunk["inputs"]
        rows, length = inputs["input_ids"].shape
        keep = inputs["logits_to_keep"]
        # A pass that only reads stops before the logits.
        kept = (
            0
            if chunk["score"] is None and not chunk["want"]
            else keep
            if isinstance(keep, int)
            else len(keep)
        )
        steps = chunk["decode"]["n_tokens"] if chunk["kind"] == "generate" else 1
        tokens, logits = rows * (length + steps - 1), rows * (kept + steps - 1)
        forwards += steps
        token_layers += tokens * chunk["layers"]
        layer_passes += steps * chunk["layers"]
        logit_rows += logits
        # What a progress bar goes by: everything in tokens times layers.
        chunk["cost"] = chunk["layers"] * (tokens + steps * FIXED_TOKENS) + head * (
            logits + steps * FIXED_TOKENS
        )
        peak = max(peak, chunk["bytes"])
    return Cost(forwards, token_layers, peak, layer_passes, logit_rows)
