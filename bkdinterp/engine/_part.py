"""Parts of a plan. A part knows the chunks of one batch of prompts without their tensors, and builds any of them.

`Chunks` is the sequence of all chunks; its items are built on demand and not kept.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from operator import index as as_index
from typing import Any, overload

from bkdinterp.engine._bundle import Bundle
from bkdinterp.engine._chunk import Chunk, Outline
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._lower import Steps
from bkdinterp.engine._shared_start import Layout
from bkdinterp.prompts import TokenBatch


@dataclass(frozen=True)
class Totals:
    """Sums over chunks, and the bytes of the largest chunk."""

    forwards: int = 0
    token_layers: int = 0
    layer_passes: int = 0
    logit_rows: int = 0
    cost: float = 0.0
    peak: int = 0

    @classmethod
    def of(cls, outlines: Iterable[Outline]) -> "Totals":
        """Totals of some chunks."""
        total = cls()
        for o in outlines:
            passes = o.steps * o.layers
            total = total + cls(o.steps, o.tokens * o.layers, passes, o.logit_rows, o.cost, o.bytes)
        return total

    def __add__(self, other: "Totals") -> "Totals":
        *sums, mine = astuple(self)
        *more, theirs = astuple(other)
        return Totals(*(a + b for a, b in zip(sums, more, strict=True)), peak=max(mine, theirs))


@dataclass(frozen=True, eq=False)
class Part(ABC):
    """The chunks of one batch of prompts.

    Attributes:
        bundle: the runs.
        examples: the examples of their prompts.
        outlines: outlines of its chunks, in the order in which they run.
        totals: totals of the outlines.
        n_reused: how many of its first chunks the later ones reuse, each of them those before it.
    """

    bundle: Bundle
    examples: tuple[int, ...]
    outlines: tuple[Outline, ...]
    totals: Totals
    n_reused: int

    @abstractmethod
    def build(self, k: int) -> Chunk:
        """Build its ``k``-th chunk, with tensors."""

    def start_chunk(
        self, layout: Layout, tokens: TokenBatch, steps: Steps, *, copies: int = 1, whole_cache: bool
    ) -> Chunk:
        """Its first chunk, if rows have a start in common: keeps keys and values.

        ``whole_cache`` keeps those, too, that a sliding window would drop.
        """
        outline = self.outlines[0]
        inputs = {
            "input_ids": layout.start(tokens.input_ids).repeat(copies, 1),
            "attention_mask": layout.start(tokens.attention_mask).repeat(copies, 1),
            "position_ids": layout.start(tokens.position_ids).repeat(copies, 1),
            "use_cache": True,
            "logits_to_keep": last_columns(layout.begin.first, 1),
        }
        return Chunk(
            kind="start",
            inputs=inputs,
            steps=steps.ordered(),
            nodes=(),
            examples=self.examples,
            bytes=outline.bytes,
            cost=outline.cost,
            layers=outline.layers,
            score_name=self.bundle.run.score_name,
            want=("cache",),
            prefix=self.key,
            whole_cache=whole_cache or None,
        )

    @property
    def layout(self) -> Any:
        """Plain values that, with the runs and examples, decide its chunks."""
        return [(o.kind, o.nodes, o.rows, o.columns, o.layers, o.logits) for o in self.outlines]

    @property
    def key(self) -> str:
        """Name, within a plan, of what its chunks reuse."""
        return f"{self.outlines[-1].nodes[0]}/{self.examples[0]}"

    def __len__(self) -> int:
        return len(self.outlines)


class Chunks(Sequence[Chunk]):
    """The chunks of a plan, in the order in which they must run; an item is built at each access."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, k = self._locate(index)
        return self.parts[number].build(k)

    def outline(self, index: int) -> Outline:
        """A chunk without its tensors."""
        number, k = self._locate(index)
        return self.parts[number].outlines[k]

    def outlines(self) -> Iterator[Outline]:
        """The outlines of all chunks."""
        for part in self.parts:
            yield from part.outlines

    def firsts_of(self, index: int) -> tuple[int, ...]:
        """Indices of the chunks that this one reuses, in the order in which they run."""
        number, k = self._locate(index)
        first = self._start(number)
        return tuple(range(first, first + min(k, self.parts[number].n_reused)))

    def ranges(self) -> Iterator[tuple[Part, range]]:
        """Each part, with the indices of its chunks."""
        for number, part in enumerate(self.parts):
            yield part, range(self._start(number), self._ends[number])

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _locate(self, index: Any) -> tuple[int, int]:
        place = as_index(index)
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        number = bisect_right(self._ends, place)
        return number, place - self._start(number)

    def __repr__(self) -> str:
        return f"Chunks({len(self)} in {len(self.parts)} batches)"
