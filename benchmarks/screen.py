"""Does screening find what the exact sweep finds, and at what share of its time? Heads whole; neurons on some layers.

    python benchmarks/screen.py                                    refusal, both directions, n=24
    python benchmarks/screen.py --only smollm2-unlock --n 96 --k 32
    python benchmarks/screen.py --kind neurons --layers 14 15 22   exact on these layers only; the whole is extrapolated.
                                    The screen's time is that of all layers, its recall that of another one of these layers

Both ways run in one process on one thread, the exact sweep first; ``share`` is
corrected by the core's rate of matrix products, measured before and after each. Recall is the
share of the exact top k (by mean effect) among the first k of the screened; ``within`` also counts units whose exact effect is
less than one standard error below the k-th.
"""

import argparse
import time
from typing import Any

import torch
from _ways import matmul_rate, pin
from rich.console import Console
from rich.table import Table

import bkdinterp as bk


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["smollm2-refusal"])
    parser.add_argument("--kind", choices=("heads", "neurons"), default="heads")
    parser.add_argument("--directions", nargs="+", default=["noising", "denoising"])
    parser.add_argument("--metric", default="first_token_logodds")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--keep", type=int, help="of each estimate, to verify; twice K without it")
    parser.add_argument("--audit", type=int, default=32)
    parser.add_argument("--cpu", type=int, help="core to run on; the last one without it")
    args = parser.parse_args()
    pin(cpu=args.cpu)
    table = Table(
        "organism", "direction", "exact s", "screen s", "share", "verified", f"recall@{args.k}", "within", "r"
    )
    for name in args.only:
        organism = bk.organisms.load(name)
        pairs = organism.pairs(args.n, split="selection")
        for direction in args.directions:
            table.add_row(name, direction, *compared(organism.model, pairs, direction, args))
            Console(width=150).print(table)


def compared(model: Any, pairs: Any, direction: str, args: argparse.Namespace) -> list[str]:
    """One row of the table."""
    attribution = bk.Attribution(model, metric=args.metric, direction=direction)
    rates = [matmul_rate()]
    start = time.perf_counter()
    if args.kind == "heads":
        exact = attribution.heads(pairs, layers=args.layers, progress=False)
        effects, factor = exact.effects.flatten(0, -2), 1.0
        scored = ~effects.isnan().any(1)
        effects = effects[scored]
    else:
        layers = args.layers or [model.architecture.n_layers // 2]
        effects = torch.cat([attribution.neurons(pairs, layer=i, progress=False).effects for i in layers])
        factor = model.architecture.n_layers / len(layers)
    exact_s = (time.perf_counter() - start) * factor
    rates.append(matmul_rate())
    start = time.perf_counter()
    settings = {"keep": args.keep or 2 * args.k, "audit": args.audit, "progress": False}
    # Neurons: the time is that of all layers, like the exact one.
    found = attribution.screen(
        pairs, args.kind, layers=args.layers if args.kind == "heads" else None, **settings
    )
    screen_s = time.perf_counter() - start
    rates.append(matmul_rate())
    if args.kind == "neurons":
        found = attribution.screen(pairs, args.kind, layers=layers, **settings)
    # In products of matrices that the core could have done, before and after each way.
    share = screen_s * (rates[1] + rates[2]) / (exact_s * (rates[0] + rates[1]))
    sign = 1 if direction == "noising" else -1
    means = sign * effects.mean(1)
    best = means.argsort(descending=True)[: args.k].tolist()
    mine = found.order(args.k)
    error = float(effects.std(1)[best[-1]]) / effects.shape[1] ** 0.5
    close = sum(float(means[i]) >= float(means[best[-1]]) - error for i in mine)
    r = float(torch.corrcoef(torch.stack([found.estimates[0].double(), effects.mean(1).double()]))[0, 1])
    print(f"{found.audit(args.k)} GFLOP/s {', '.join(f'{rate / 1e9:.0f}' for rate in rates)}", flush=True)
    return [
        f"{exact_s:.0f}",
        f"{screen_s:.0f}",
        f"{100 * share:.1f} %",
        f"{found.n_scored} of {len(found.verified)}",
        f"{len(set(best) & set(mine)) / args.k:.2f}",
        f"{close / args.k:.2f}",
        f"{r:.3f}",
    ]


if __name__ == "__main__":
    main()
