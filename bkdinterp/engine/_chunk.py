"""Chunk: one forward pass of a plan, as a typed object of the caller's side; `Chunk.wire` gives what `program.execute` takes.

An `Outline` describes a chunk without its tensors: its cost, and the runs that it serves.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from bkdinterp.engine._lower import Step
from bkdinterp.engine._price import FIXED_TOKENS

Kind = Literal["forward", "generate", "base", "start"]
# Parts that only some kinds of chunk have; left out of the wire if absent.
_SOME = ("keep", "pack", "skip_paths", "common", "decode", "whole_cache")


@dataclass(frozen=True, slots=True)
class Outline:
    """A chunk without its tensors.

    Attributes:
        kind: a plain forward pass, a generation, the unedited run that others reuse, or the common start of rows.
        nodes: the runs that it serves.
        rows: number of copies of examples.
        columns: number of computed tokens per row.
        logits: number of tokens per row whose logits are computed.
        layers: number of blocks that are run.
        bytes: peak bytes in addition to the weights, with what is kept for it.
        steps: number of forward passes; one per new token if it generates.
        scored: whether it gives scores.
        packed: whether copies of an example are concatenated in a sequence.
        head: size of the unembedding in layers.
    """

    kind: Kind
    nodes: tuple[int, ...]
    rows: int
    columns: int
    logits: int
    layers: int
    bytes: int
    steps: int = 1
    scored: bool = False
    packed: bool = False
    head: float = 0.0

    @property
    def tokens(self) -> int:
        """Number of tokens in all forward passes, including padding."""
        return self.rows * (self.columns + self.steps - 1)

    @property
    def logit_rows(self) -> int:
        """Number of tokens whose logits are computed."""
        return self.rows * (self.logits + self.steps - 1)

    @property
    def cost(self) -> float:
        """Cost for a progress bar: all work in tokens times layers."""
        fixed = self.steps * FIXED_TOKENS
        return self.layers * (self.tokens + fixed) + self.head * (self.logit_rows + fixed)


@dataclass(frozen=True, eq=False)
class Place:
    """For each row of a read, its example and which of the example's selected tokens it is."""

    example: Int[Tensor, " token"]
    ordinal: Int[Tensor, " token"]
    count: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """One forward pass (in a generation, one per new token), built on demand.

    Attributes:
        kind, inputs, steps, want, score: see `program`; so are ``keep``, ``pack``, ``skip_paths``, ``common``,
            ``decode`` and ``whole_cache``, which only some kinds have.
        nodes: the runs that its rows belong to, in this order.
        examples: the examples of each run, in this order.
        bytes, cost, layers: as in its `Outline`.
        score_name: name of its score in the plan.
        places: the place of each row, by run and number of the read.
        prefix: name of what it reuses or is: chunks of kind "base" or "start" that others reuse.
        shared_rows: whether one row per example serves all nodes.
    """

    kind: Kind
    inputs: dict[str, Any]
    steps: list[Step]
    nodes: tuple[int, ...]
    examples: tuple[int, ...]
    bytes: int
    cost: float
    layers: int
    score_name: str | None
    want: tuple[str, ...] = ()
    score: dict[str, Any] | None = None
    places: dict[tuple[int, int], Place] = field(default_factory=dict)
    prefix: str | None = None
    shared_rows: bool = False
    keep: dict[str, Any] | None = None
    pack: dict[str, Any] | None = None
    skip_paths: tuple[str, ...] | None = None
    common: Int[Tensor, " row"] | None = None
    decode: dict[str, Any] | None = None
    whole_cache: bool | None = None

    def wire(self) -> dict[str, Any]:
        """The chunk as tensors, numbers, text, lists and dicts, for `program` and for a server."""
        sent: dict[str, Any] = {
            "kind": self.kind,
            "inputs": self.inputs,
            "steps": self.steps,
            "want": list(self.want),
            "score": self.score,
        }
        for name in _SOME:
            value = getattr(self, name)
            if value is not None:
                sent[name] = list(value) if isinstance(value, tuple) else value
        return sent
