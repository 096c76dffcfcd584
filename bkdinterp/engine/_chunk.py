"""Chunk: one forward pass of a plan, typed and with the caller's side; `Chunk.wire` is what `program.execute` takes.

An `Outline` says of a chunk what can be said without its tensors: what it costs, and whom it serves.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from bkdinterp.engine._lower import Step
from bkdinterp.engine._price import FIXED_TOKENS

Kind = Literal["forward", "generate", "base", "start"]
# Parts that only some kinds of chunk have; left out of the wire where there are none.
_SOME = ("keep", "pack", "skip_paths", "common", "decode", "whole_cache")


@dataclass(frozen=True, slots=True)
class Outline:
    """A chunk without its tensors.

    Attributes:
        kind: a plain forward pass, a generation, the unedited run that others lean on, or a start that rows share.
        nodes: whom it serves.
        rows: copies of examples.
        columns: tokens of one row that are computed.
        logits: tokens of one row whose logits are computed.
        layers: blocks that are run.
        bytes: at peak beside the weights, with what is kept for it.
        steps: forward passes, one per new token where it generates.
        scored: whether it gives scores.
        packed: copies of an example lie one after another in a sequence.
        head: the unembedding's size in layers.
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
        """Of all forward passes, padding included."""
        return self.rows * (self.columns + self.steps - 1)

    @property
    def logit_rows(self) -> int:
        """Tokens whose logits are computed."""
        return self.rows * (self.logits + self.steps - 1)

    @property
    def cost(self) -> float:
        """What a progress bar goes by: everything in tokens times layers."""
        fixed = self.steps * FIXED_TOKENS
        return self.layers * (self.tokens + fixed) + self.head * (self.logit_rows + fixed)


@dataclass(frozen=True, eq=False)
class Place:
    """To which example, and to which of its selected tokens, each row of a read belongs."""

    example: Int[Tensor, " token"]
    ordinal: Int[Tensor, " token"]
    count: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """One forward pass (a generation: one per new token), made when it is asked for.

    Attributes:
        kind, inputs, steps, want, score: see `program`; so are ``keep``, ``pack``, ``skip_paths``, ``common``,
            ``decode`` and ``whole_cache``, which only some kinds have.
        nodes: the runs that its rows belong to, in this order.
        examples: of each run, in this order.
        bytes, cost, layers: as in its `Outline`.
        score_name: of the plan's scores.
        places: by run and number of the read.
        prefix: names the chunk of kind "base" or "start" that it leans on, or is.
        shared_rows: one row per example serves all nodes.
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
        """Tensors, numbers, text, lists and dicts: what `program` works on, and what a server gets."""
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
