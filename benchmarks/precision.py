"""What half precision costs and gains: exact head attribution in float32, and with products or weights in bfloat16.

    python benchmarks/precision.py                       refusal, 24 pairs, the first token of the target
    python benchmarks/precision.py --only smollm2-haiku --n 96

    float32    what the package does
    products   weights and activations in float32; oneDNN rounds the factors of a matrix product to bfloat16 and adds in float32
               (`torch.backends.mkldnn.matmul.fp32_precision = "bf16"`), which pays where the processor has such instructions
    weights    `bk.Model.load(..., dtype="bfloat16")`: weights and activations in bfloat16; norms, softmax and scores in float32

Seconds are medians of three on one pinned thread, interleaved. Errors are those of mean effects against float32, beside the
largest effect; *of the 32* counts which of the 32 strongest heads are found again.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _ways import matmul_rate, pin
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import bkdinterp as bk

WAYS = ("float32", "products", "weights")
K = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["smollm2-refusal"])
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--metric", default="first_token_logodds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", type=int, help="core to run on; the last one without it")
    args = parser.parse_args()
    pin(cpu=args.cpu)
    for name in args.only:
        Console(width=110).print(compared(name, args))


def compared(name: str, args: argparse.Namespace) -> Table:
    """One organism's table."""
    organism = bk.organisms.load(name)
    pairs = organism.pairs(args.n, split="selection")
    models = dict.fromkeys(WAYS, organism.model)
    models["weights"] = in_half(organism.model)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    effects: dict[str, torch.Tensor] = {}
    rates = [matmul_rate()]
    for repeat in range(args.repeats + 1):
        for way in WAYS:
            with products_in("bf16" if way == "products" else "ieee"):
                start = time.perf_counter()
                found = bk.Attribution(models[way], metric=args.metric).heads(pairs, progress=False)
                if repeat:  # the first one warms
                    seconds[way].append(time.perf_counter() - start)
            effects[way] = found.effects.double().mean(-1).flatten()
        rates.append(matmul_rate())
    exact = effects["float32"]
    best = set(exact.abs().topk(K).indices.tolist())
    table = Table(
        title=f"{name}, {args.n} pairs, {args.metric}: largest effect {float(exact.abs().max()):.3f} nats; "
        f"{min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f} GFLOP/s in float32"
    )
    for column in (
        "",
        "s",
        "times as fast",
        "largest error",
        "mean error",
        "rank correlation",
        f"of the {K}",
    ):
        table.add_column(column, justify="left" if not column else "right")
    plain = statistics.median(seconds["float32"])
    for way in WAYS:
        error = (effects[way] - exact).abs()
        again = len(best & set(effects[way].abs().topk(K).indices.tolist()))
        took = statistics.median(seconds[way])
        table.add_row(
            way,
            f"{took:.1f}",
            f"{plain / took:.2f}",
            f"{float(error.max()):.1e}",
            f"{float(error.mean()):.1e}",
            f"{spearmanr(exact.numpy(), effects[way].numpy()).statistic:.4f}",
            f"{again} of {K}",
        )
    return table


def in_half(model: Any) -> Any:
    """The same model with its weights in bfloat16; the rotary embeddings' frequencies stay as they are, as on loading."""
    made = copy.deepcopy(model)
    for p in made.module.parameters():
        p.data = p.data.to(torch.bfloat16)
    return made


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Context in which oneDNN multiplies float32 matrices so."""
    matmul: Any = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


if __name__ == "__main__":
    main()
