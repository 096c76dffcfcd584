"""Peak memory of a whole head attribution above the loaded model, against its budget; each in a process of its own.

    python benchmarks/memory.py
    python benchmarks/memory.py --growth      one budget, three sizes each of heads, neurons and prompts

The prompts and targets are those of acie.py. Resident memory of the process, as the kernel counts it: what the
allocator keeps and what libraries take for themselves is in it.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _ways import load, numbers, problem_of
from rich.console import Console
from rich.table import Table

import bkdinterp as bk


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.child is not None:
        print(json.dumps(measure(*numbers(args.child))))
        return
    if args.grown is not None:
        kind, size, n = args.grown.split(",")
        print(json.dumps(grown(kind, int(size), int(n), args.budgets[0])))
        return
    if args.growth:
        _growth(args)
        return
    table = Table(title="Peak memory above the loaded model")
    for name in ("prompt", "target", "budget MiB", "peak MiB", "peak / budget"):
        table.add_column(name, justify="right")
    for budget in args.budgets:
        for n_prompt in args.prompt_tokens:
            peak = _child(args, "--child", f"{n_prompt},{args.target_tokens},{budget}")
            mib = [f"{value / 2**20:.0f}" for value in (budget, peak)]
            table.add_row(str(n_prompt), str(args.target_tokens), *mib, f"{peak / budget:.2f}")
    Console(width=100).print(table)


def measure(n_prompt: int, n_target: int, budget: int) -> dict[str, Any]:
    """All heads once; the peak in bytes."""
    problem = problem_of(load(), n_prompt, n_target)
    # Warm: what the libraries allocate once is not the plan's.
    bk.Attribution(problem.model).heads(problem.pairs.subset([0]), layers=[29], budget=2**27)
    return {"peak": _peak_of(lambda: bk.Attribution(problem.model).heads(problem.pairs, budget=budget))}


def _child(args: argparse.Namespace, *flags: str) -> int:
    """The peak that this script measures in a process of its own."""
    call = [sys.executable, __file__, *flags, "--threads", str(args.threads)]
    out = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return json.loads(out.splitlines()[-1])["peak"]


def _peak_of(run: Callable[[], Any]) -> int:
    """Bytes that the process grows by at most."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


SIZES = {
    "heads": ((27, 8), (90, 8), (270, 8)),
    "neurons": ((96, 8), (384, 8), (1536, 8)),
    "prompts, heads": ((90, 8), (90, 128), (90, 512)),
    "prompts, all neurons screened": ((46080, 8), (46080, 32), (46080, 128)),
}
"""(Units, prompts) of each kind."""


def grown(kind: str, size: int, n: int, budget: int) -> dict[str, Any]:
    """One of `SIZES`; the peak in bytes."""
    problem = problem_of(load(), 40, 1, n)
    attribution, n_heads = bk.Attribution(problem.model), problem.model.architecture.n_heads

    def run() -> None:
        if "screened" in kind:
            attribution.screen(problem.pairs, keep=32, audit=16, budget=budget, progress=False)
        elif kind == "neurons":
            attribution.neurons(
                problem.pairs, layer=20, neurons=list(range(size)), budget=budget, progress=False
            )
        else:
            layers = list(range(problem.model.architecture.n_layers))[-size // n_heads :]
            attribution.heads(problem.pairs, layers=layers, budget=budget, progress=False)

    attribution.heads(problem.pairs.subset([0]), layers=[29], budget=2**27, progress=False)
    return {"peak": _peak_of(run)}


def _growth(args: argparse.Namespace) -> None:
    budget = args.budgets[0]
    table = Table(title=f"Peak memory above the loaded model, budget of {budget / 2**20:.0f} MiB")
    for name in ("of", "units", "prompts", "peak MiB"):
        table.add_column(name, justify="right")
    for kind, sizes in SIZES.items():
        for size, n in sizes:
            peak = _child(args, "--grown", f"{kind.replace(',', '')},{size},{n}", "--budgets", str(budget))
            table.add_row(kind, str(size), str(n), f"{peak / 2**20:.0f}")
    Console(width=100).print(table)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt-tokens", type=numbers, default=[20, 160])
    parser.add_argument("--target-tokens", type=int, default=14)
    parser.add_argument("--budgets", type=numbers, default=[2**28, 2**30], help="bytes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--growth", action="store_true", help="three sizes of each, at the first budget")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--grown", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
