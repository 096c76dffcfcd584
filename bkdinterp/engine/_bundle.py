"""Bundle: the runs that may share a batch, with cached answers to frequent questions about them. No forwards."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bkdinterp.engine._graph import Node
from bkdinterp.engine._lower import position
from bkdinterp.engine._memory import Memory
from bkdinterp.engine._run import Run
from bkdinterp.engine._tokens import Slice, Tokens
from bkdinterp.interventions import Edit, From
from bkdinterp.model import Architecture
from bkdinterp.prompts import PromptBuilder
from bkdinterp.sites import Where


@dataclass(frozen=True, eq=False)
class Bundle:
    """Runs of one level on the same prompts, with the same kind of output."""

    nodes: tuple[Node, ...]
    tokens: Tokens
    memory: Memory
    builder: PromptBuilder
    # Cache of what plans look up by the shape of a slice.
    known: dict[Any, Any] = field(default_factory=dict)

    @property
    def arch(self) -> Architecture:
        """The model's sizes."""
        return self.memory.arch

    @property
    def run(self) -> Run:
        """One of the runs; all have the same prompts, score and number of new tokens."""
        return self.nodes[0].run

    @cached_property
    def whole(self) -> Slice:
        """All examples."""
        return self.tokens.whole(self.run)

    def slice(self, examples: tuple[int, ...]) -> Slice:
        """Some examples."""
        return self.tokens.slice(self.run, examples)

    @cached_property
    def edited(self) -> tuple[tuple[int, Node], ...]:
        """Pairs (lowest edited layer, node), lowest first."""
        pairs = [(lowest_layer(node), node) for node in self.nodes if node.edits]
        return tuple(sorted(pairs, key=lambda pair: (pair[0], pair[1].index)))

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The distinct lowest edited layers, ascending."""
        return tuple(sorted({layer for layer, _ in self.edited}))

    @cached_property
    def depth(self) -> int:
        """Number of layers from the edited one on, summed over the edited runs."""
        return sum(self.arch.n_layers - layer for layer, _ in self.edited)

    @cached_property
    def edit_wheres(self) -> tuple[Where, ...]:
        """All edited positions."""
        return tuple(dict.fromkeys(edit.where for node in self.nodes for edit in node.edits))

    def group(self, first: int, stop: int) -> "Group":
        """Some of the runs."""
        key = ("group", first, stop)
        if key not in self.known:
            self.known[key] = Group.of(self.nodes[first:stop], self.arch.n_layers)
        return self.known[key]

    def forgets(self, columns: int) -> bool:
        """Whether some layer sees fewer than ``columns`` tokens, so that its cache forgets the first ones."""
        window = self.arch.sliding_window
        return window is not None and columns > window

    def trims(self, columns: int) -> bool:
        """Whether a cache of ``columns`` tokens lacks the first ones: it keeps what the next token will see besides itself."""
        return self.forgets(columns + 1)


@dataclass(frozen=True, eq=False)
class Group:
    """Some runs of a bundle, with the properties that decide their layout.

    Attributes:
        nodes, numbers: the runs.
        edits: their edited positions, and whether values differ between tokens or examples.
        reads: their read positions.
        last_edits: when the forward pass reaches the last edit of each position; see `position`.
        last_read: when it reaches the last read; (0, 0) without reads.
    """

    nodes: tuple[Node, ...]
    numbers: tuple[int, ...]
    edits: tuple[tuple[Where, bool], ...]
    reads: tuple[Where, ...]
    last_edits: dict[Where, tuple[int, int]]
    last_read: tuple[int, int]

    @classmethod
    def of(cls, nodes: tuple[Node, ...], n_layers: int) -> "Group":
        """From nodes."""
        edits = dict.fromkeys((edit.where, own_value(edit)) for node in nodes for edit in node.edits)
        reads = dict.fromkeys(read.where for node in nodes for read in node.reads)
        last: dict[Where, tuple[int, int]] = {}
        for edit in (edit for node in nodes for edit in node.edits):
            last[edit.where] = max(last.get(edit.where, (0, 0)), position(edit.site, n_layers))
        places = (
            position(read.site, n_layers, shares=read.heads is not None)
            for node in nodes
            for read in node.reads
        )
        numbers = tuple(node.index for node in nodes)
        return cls(nodes, numbers, tuple(edits), tuple(reads), last, max(places, default=(0, 0)))

    def first_touched(self, batch: Slice) -> int:
        """The first column that a run edits or reads; at most that of the last prompt token, which is never shared."""
        wheres = {where for where, _ in self.edits} | set(self.reads)
        return min([batch.batch.n_prompt - 1, *(batch.first(where) for where in wheres)])


def lowest_layer(node: Node) -> int:
    """The first layer that a node's edits change."""
    return min(edit.site.layer for edit in node.edits)


def own_value(edit: Edit) -> bool:
    """Whether an edit's value may differ between examples or tokens."""
    if edit.fn is not None:
        return True
    if isinstance(edit.value, From):
        return edit.value.read.reduce != "mean"
    return edit.value is not None and edit.value.ndim > 1
