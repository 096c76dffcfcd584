"""Peak memory of a whole head attribution above the loaded model, against its budget; each in a process of its own.

    python benchmarks/memory.py

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
    table = Table(title="Peak memory above the loaded model")
    for name in ("prompt", "target", "budget MiB", "peak MiB", "peak / budget"):
        table.add_column(name, justify="right")
    for budget in args.budgets:
        for n_prompt in args.prompt_tokens:
            call = [sys.executable, __file__, "--child", f"{n_prompt},{args.target_tokens},{budget}"]
            call += ["--threads", str(args.threads)]
            out = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
            peak = json.loads(out.splitlines()[-1])["peak"]
            mib = [f"{value / 2**20:.0f}" for value in (budget, peak)]
            table.add_row(str(n_prompt), str(args.target_tokens), *mib, f"{peak / budget:.2f}")
    Console(width=100).print(table)


def measure(n_prompt: int, n_target: int, budget: int) -> dict[str, Any]:
    """All heads once; the peak in bytes."""
    problem = problem_of(load(), n_prompt, n_target)
    # Warm: what the libraries allocate once is not the plan's.
    bk.Attribution(problem.model).heads(problem.pairs.subset([0]), layers=[29], budget=2**27)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    bk.Attribution(problem.model).heads(problem.pairs, budget=budget)
    return {"peak": _status("VmHWM") - before}


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
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
