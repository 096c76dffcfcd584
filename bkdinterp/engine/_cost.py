"""Cost of a plan, known before anything runs; also in seconds, if the machine's speed was measured."""

import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from bkdinterp.engine._last_columns import last_columns
from bkdinterp.model import Architecture, as_model
from bkdinterp.model._running import running

# (rows, columns, columns with logits) of the timed passes: few tokens, many tokens, many logits.
_PASSES = ((1, 8, 1), (4, 64, 1), (4, 64, 16))


@dataclass(frozen=True)
class Speed:
    """Speed of a model on this machine in seconds, from `measure_speed`.

    Attributes:
        per_pass: seconds to run one layer on almost no tokens, for reading its weights.
        per_token: seconds for one token in one layer.
        per_logit: seconds for the logits of one token.
        head: size of the unembedding's weights in layers.
    """

    per_pass: float
    per_token: float
    per_logit: float
    head: float


@dataclass(frozen=True)
class Cost:
    """Cost of a plan.

    Attributes:
        forwards: number of forward passes; each decode step is one.
        token_layers: tokens (including padding) times layers computed.
        peak_bytes: upper estimate of the bytes of the largest chunk, in addition to the weights.
        layer_passes: number of layers run, summed over the forward passes.
        logit_rows: number of tokens whose logits are computed.
    """

    forwards: int
    token_layers: int
    peak_bytes: int
    layer_passes: int
    logit_rows: int

    def seconds(self, speed: Speed) -> float:
        """Estimated seconds in the model, without the quadratic part of attention; assumes a steady machine."""
        passes = self.layer_passes + speed.head * self.forwards
        return (
            speed.per_pass * passes + speed.per_token * self.token_layers + speed.per_logit * self.logit_rows
        )

    def __str__(self) -> str:
        return f"{self.forwards} forwards, {self.token_layers:,} token-layers, about {self.peak_bytes / 2**20:.0f} MiB at peak"


def head_layers(arch: Architecture) -> float:
    """Approximate size of the unembedding in layers; a layer has about 12 d_model² weights."""
    return arch.d_vocab / (12 * arch.d_model)


_measured: WeakKeyDictionary[Any, Speed] = WeakKeyDictionary()


def measure_speed(model: Any, *, again: bool = False) -> Speed:
    """Time a few short forward passes of a ``Model`` (a second or two for a small one); cached per model.

    Costs 9 forwards of at most 256 tokens. Use ``again`` if the machine has become busier or quieter.
    """
    as_model(model, "measure_speed")
    if model.nn not in _measured or again:
        arch: Architecture = model.architecture
        few, many, logits = (_fastest(model, *size) for size in _PASSES)
        n = [rows * columns for rows, columns, _ in _PASSES]
        n_logits = [rows * kept for rows, _, kept in _PASSES]
        head = head_layers(arch)
        per_logit = max(0.0, (logits - many) / (n_logits[2] - n_logits[1]))
        more = many - few - per_logit * (n_logits[1] - n_logits[0])
        per_token = max(0.0, more / (arch.n_layers * (n[1] - n[0])))
        left = few - per_token * arch.n_layers * n[0] - per_logit * n_logits[0]
        _measured[model.nn] = Speed(max(0.0, left / (arch.n_layers + head)), per_token, per_logit, head)
    return _measured[model.nn]


def _fastest(model: Any, rows: int, columns: int, kept: int) -> float:
    ids = torch.zeros(rows, columns, dtype=torch.long, device=model.device)
    best = float("inf")
    with running(model.module):
        for _ in range(3):
            start = time.perf_counter()
            out = model.module(input_ids=ids, use_cache=False, logits_to_keep=last_columns(columns, kept))
            float(out.logits[0, 0, 0])  # waits for an accelerator
            best = min(best, time.perf_counter() - start)
    return best
