"""Where the time of head attribution goes, and how near each phase comes to the core's rate of matrix products.

    python benchmarks/roofline.py                       prompts of 160 and 20 tokens, targets of 1 and 14
    python benchmarks/roofline.py --n 96                as many prompts as a researcher would take

Phases are the passes over whole prompts (the source run and the unedited run), the passes of edited rows that share them, and
what is outside of forward passes. In each pass the linear layers, the logits and the attention product are timed one by one;
*rest* is what remains of it: norms, activations, rotary embeddings, caches, the tracing. The rate is that of one matrix product
of the MLP's shape (benchmarks/_ways.py), before and after. Shares are of the whole sweep's time; the timers take under a percent
of it.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from _ways import Problem, load, matmul_rate, numbers, pin, problem_of
from rich.console import Console
from rich.table import Table

import bkdinterp as bk
from bkdinterp.engine import _chunk_loop, program
from bkdinterp.model import _identity

PARTS = ("linear", "logits", "attention", "scores", "checksum")


@dataclass
class Spent:
    """Seconds and floating-point operations by (phase, part); the phase that runs now."""

    seconds: Counter[tuple[str, str]] = field(default_factory=Counter)
    flops: Counter[tuple[str, str]] = field(default_factory=Counter)
    phase: str = "outside"

    def add(self, part: str, seconds: float, flops: float = 0.0) -> None:
        self.seconds[self.phase, part] += seconds
        self.flops[self.phase, part] += flops


def main() -> None:
    args = _arguments()
    pin(cpu=args.cpu)
    model = load()
    for n_prompt in args.prompt_tokens:
        for n_target in args.target_tokens:
            problem = problem_of(model, n_prompt, n_target, args.n)
            Console(width=120).print(_table(problem, measure(problem, args.repeats)))


def measure(problem: Problem, repeats: int) -> list[tuple[Spent, float, float]]:
    """(Time by phase, seconds of the sweep, FLOP per second of the core) of each repeat."""
    attribution = bk.Attribution(problem.model)
    attribution.heads(problem.pairs, layers=[problem.model.architecture.n_layers - 1], progress=False)
    found = []
    for _ in range(repeats):
        before = matmul_rate()
        with timed(problem.model) as spent:
            start = time.perf_counter()
            attribution.heads(problem.pairs, progress=False)
            seconds = time.perf_counter() - start
        found.append((spent, seconds, (before + matmul_rate()) / 2))
    return found


@contextmanager
def timed(model: bk.Model) -> Iterator[Spent]:
    """Time the parts of everything that runs inside."""
    spent, vocabulary = Spent(), model.architecture.d_vocab

    def part_of(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            value = function(*args, **kwargs)
            spent.add(name, time.perf_counter() - start)
            return value

        return call

    linear = torch.nn.functional.linear

    def timed_linear(x: torch.Tensor, weight: torch.Tensor, *bias: Any) -> torch.Tensor:
        start = time.perf_counter()
        y = linear(x, weight, *bias)
        name = "logits" if weight.shape[0] == vocabulary else "linear"
        spent.add(name, time.perf_counter() - start, 2.0 * x.numel() * weight.shape[0])
        return y

    forward = _chunk_loop._forward

    def timed_forward(model: Any, chunk: dict[str, Any], *rest: Any) -> Any:
        spent.phase = "edited rows" if "pack" in chunk else "whole prompts"
        start = time.perf_counter()
        try:
            return forward(model, chunk, *rest)
        finally:
            spent.add("whole", time.perf_counter() - start)
            spent.phase = "outside"

    attention = torch.nn.functional.scaled_dot_product_attention
    with (
        patch.object(torch.nn.functional, "linear", timed_linear),
        patch.object(torch.nn.functional, "scaled_dot_product_attention", part_of("attention", attention)),
        patch.object(program, "score_rows", part_of("scores", program.score_rows)),
        patch.object(_identity, "checksum", part_of("checksum", _identity.checksum)),
        patch.object(_chunk_loop, "_forward", timed_forward),
    ):
        yield spent


def _table(problem: Problem, found: list[tuple[Spent, float, float]]) -> Table:
    seconds = statistics.median(s for _, s, _ in found)
    rate = statistics.median(r for _, _, r in found)
    table = Table(
        title=f"{len(problem.pairs)} prompts of {problem.n_prompt} tokens, target of {problem.n_target}: all heads in "
        f"{seconds:.1f} s at {rate / 1e9:.0f} GFLOP/s"
    )
    for name in ("phase", "part", "s", "share of the time", "GFLOP/s", "share of the core's rate"):
        table.add_column(name, justify="left" if name in ("phase", "part") else "right")
    for phase in ("whole prompts", "edited rows", "outside"):
        for part in (*PARTS, "rest"):
            spent = statistics.median(_seconds(each, whole, phase, part) for each, whole, _ in found)
            flops = found[0][0].flops[phase, part]
            if spent > 0.002 * seconds:
                reached = flops / spent if flops else None
                table.add_row(
                    phase,
                    part,
                    f"{spent:.2f}",
                    f"{spent / seconds:.0%}",
                    "" if reached is None else f"{reached / 1e9:.0f}",
                    "" if reached is None else f"{reached / rate:.0%}",
                )
    flops = sum(found[0][0].flops.values())
    table.add_row(
        "whole", "", f"{seconds:.2f}", "100%", f"{flops / seconds / 1e9:.0f}", f"{flops / seconds / rate:.0%}"
    )
    return table


def _seconds(spent: Spent, whole: float, phase: str, part: str) -> float:
    if part != "rest":
        return spent.seconds[phase, part]
    passes = [spent.seconds[p, "whole"] for p in ("whole prompts", "edited rows")]
    inside = whole - sum(passes) if phase == "outside" else spent.seconds[phase, "whole"]
    return inside - sum(spent.seconds[phase, name] for name in PARTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt-tokens", type=numbers, default=[160, 20])
    parser.add_argument("--target-tokens", type=numbers, default=[1, 14])
    parser.add_argument("--n", type=int, default=8, help="number of prompts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", type=int, help="core to run on; the last one without it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
