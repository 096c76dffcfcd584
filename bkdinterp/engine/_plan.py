"""plan(): lays out runs as chunks, without a forward pass; a tokenizer and an Architecture are enough.

Runs on the same prompts become rows of one batch, and share their prefix if the edits allow it (``_shared_prefix``). With
``naive=True`` every run is its own plain forward, which all other plans are tested against. Time is about linear in runs and
prompts, and a plan is small, because chunks are built when they run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol, runtime_checkable

import torch

from bkdinterp.engine._budget import default_budget
from bkdinterp.engine._checks import check_bundle, check_means, check_sources
from bkdinterp.engine._cost import Cost
from bkdinterp.engine._describe import describe
from bkdinterp.engine._graph import Node, build_graph
from bkdinterp.engine._layout import bundles, lay_out, least_bytes
from bkdinterp.engine._memory import PLANNED, Memory
from bkdinterp.engine._part import Chunks, Totals
from bkdinterp.engine._run import Run
from bkdinterp.engine._tokens import Tokens
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.interventions import origins
from bkdinterp.metrics import SCORES, Score
from bkdinterp.model import Architecture, as_model, check_origins
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.prompts import PromptBuilder
from bkdinterp.values import as_flag, as_number


@runtime_checkable
class Planned(Protocol):
    """What planning needs from a model; weights may be absent."""

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
    """The chunks, in the order in which they must run, and the nodes that they serve.

    ``chunks`` is a sequence whose items are built on demand: a plan holds tokens and outlines, but no tensors of its chunks.
    ``budget`` is the budget that it was made with.
    """

    chunks: Chunks
    nodes: tuple[Node, ...]
    n_runs: int
    cost: Cost
    scores: dict[str, Callable[..., torch.Tensor]]
    builder: PromptBuilder
    budget: int

    def builder_of(self, node: Node) -> PromptBuilder:
        """The prompt builder of a node's run."""
        return node.run.builder or self.builder

    def __repr__(self) -> str:
        return f"Plan({self.n_runs} runs, {len(self.chunks)} chunks: {self.cost})"

    def __str__(self) -> str:
        """The chunks in order, with one line for similar ones."""
        return "\n  ".join([f"{self.n_runs} runs: {self.cost}", *describe(self.chunks.outlines())])


@plain_torch()
def plan(model: Planned, runs: Sequence[Run], *, budget: Any = None, naive: bool = False) -> Plan:
    """Lay out runs as chunks of one forward pass each (in a generating chunk, one per new token).

    Args:
        model: any object with an architecture and a prompt builder.
        runs: what to compute.
        budget: bytes that a chunk may take in addition to the loaded model, including what is kept between chunks (an upper
            estimate, at the width of the model's dtype); a positive number. None means 1 GiB on a CPU, and on a GPU half of
            the memory free now, rounded down to a power of two.
        naive: one run per chunk, without sharing.

    Raises:
        PlanError: there is nothing to compute, a score is not valid (a user's own is tried on random logits), the budget is
            not valid or too small for one prompt of one run (the message names the least that fits), values do not fit,
            sources are circular, or generated tokens are read.
        PromptError: prompts are empty or too long, or the tokenizer drops a trigger.
        SiteError: layers, heads or positions are out of range.
        ArtefactError: an intervention's numbers (means, activations, a vector, directions) come from another model.
    """
    naive = as_flag(naive, "naive", error=PlanError)
    as_model(model, "plan")
    if budget is None:
        budget = default_budget(model)
    budget = as_number(budget, "budget", low=1, error=PlanError)
    nodes = build_graph(runs)
    _check_numbers(model, nodes)
    scores = _scores(nodes, model)
    if not any(run.score or run.reads or run.generate for run in runs):
        raise PlanError("No run asks for anything; give one score=, reads= or generate=.")
    tokens, memory = Tokens(model.builder, nodes), Memory.of(model)
    found = list(bundles(nodes, tokens, memory, model.builder, naive=naive))
    for bundle in found:
        check_bundle(bundle)
    check_means(nodes, tokens)
    check_sources(nodes, tokens)
    room = int(PLANNED * budget)
    least = max(least_bytes(bundle, room, reuse=not naive) for bundle in found)
    if least > room:
        raise _too_small(least, budget)
    chunks = Chunks([part for bundle in found for part in lay_out(bundle, room, reuse=not naive)])
    cost = _cost(chunks)
    # If only sharing fits, and some prompts have nothing to share.
    if cost.peak_bytes > room:
        raise _too_small(cost.peak_bytes, budget)
    return Plan(chunks, tuple(nodes), len(runs), cost, scores, model.builder, int(budget))


def _check_numbers(model: Planned, nodes: list[Node]) -> None:
    """Check each origin once, however many runs have it, because hashing weights is slow."""
    found: dict[str, str] = {}
    for node in nodes:
        for origin in origins(node.run.edits):
            if origin not in found:
                found[origin] = str(node.run.edits)
    try:
        check_origins(model, found, "Numbers")
    except ArtefactError:
        for origin, edits in found.items():
            check_origins(model, (origin,), f"The numbers of {edits}")
        raise


def _scores(nodes: list[Node], model: Planned) -> dict[str, Callable[..., torch.Tensor]]:
    """Name -> function of every score; a user's own is tried on random logits first."""
    scores: dict[str, Score] = {}
    for score in (node.run.declared for node in nodes):
        if score is None:
            continue
        if score.name not in scores and SCORES.get(score.name) != score:
            # Device and dtype of the logits; a plan can be made without weights.
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


def _too_small(least: int, budget: int | float) -> PlanError:
    """An error that names the least budget that fits, and other fixes."""
    needed = ceil(least / PLANNED)
    return PlanError(
        f"budget={budget:.0f} bytes ({_size(budget)}) is too small even for one prompt at a time: the largest needs at least "
        f"budget={needed} ({_size(needed)}). Give that, drop long prompts, or load the model in a smaller dtype."
    )


def _size(n: int | float) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.2f} MiB"


def _cost(chunks: Chunks) -> Cost:
    total = Totals()
    # Thousands of parts of one shape share their totals.
    for part in chunks.parts:
        total = total + part.totals
    return Cost(total.forwards, total.token_layers, total.peak, total.layer_passes, total.logit_rows)
