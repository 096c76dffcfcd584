"""How long planning an attribution takes at the size of a 7B model, and how much memory, up to its first chunk.

    python benchmarks/plans.py

The sizes of Llama-2-7B, without weights: `Model.load` with an executor that computes elsewhere makes a skeleton, and
`Attribution` hands its plan to that executor, which builds the first chunk and stops. Everything before the first forward
is in the time: runs, tokens, plan. Each size in a process of its own; memory is what the process has grown by at most.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _ways import numbers
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

import bkdinterp as bk
from bkdinterp.engine import Executor, Plan

WORDS = (
    "time house music river light paper stone garden winter bread letter mountain story colour window glass"
)


class Stop(Exception):
    """A plan whose first chunk is there."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("planned")
        self.plan = plan


class Planner(Executor):
    """Takes a plan and builds its first chunk; runs nothing."""

    # `Model.load` leaves weights out for those who compute elsewhere.
    remote = True

    def run(self, plan: Plan, model: Any) -> Any:
        _ = plan.chunks[0]
        raise Stop(plan)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    if args.child is not None:
        kind, units, prompts = args.child.split(",")
        print(json.dumps(measure(args.folder, kind, int(units), int(prompts))))
        return
    sizes = [("neurons", n, args.prompts) for n in args.neurons if n]
    sizes += [("heads", 1024, n) for n in args.head_prompts if n]
    table = Table(title="Planning an attribution on a 7B skeleton")
    for name in ("units", "prompts", "chunks", "seconds", "peak MiB", "planned MiB"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        skeleton(Path(folder))
        for kind, units, prompts in sizes:
            call = [sys.executable, __file__, "--folder", folder, "--child", f"{kind},{units},{prompts}"]
            out = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
            found = json.loads(out.splitlines()[-1])
            mib = [f"{found[name] / 2**20:.0f}" for name in ("memory", "planned")]
            row = (
                f"{units:,} {kind}",
                f"{prompts:,}",
                f"{found['chunks']:,}",
                f"{found['seconds']:.1f}",
                *mib,
            )
            table.add_row(*row)
            Console(width=100).print(*row, sep="  ")
    Console(width=100).print(table)


def skeleton(folder: Path) -> None:
    """A folder with the sizes of Llama-2-7B and a tokenizer."""
    sizes: dict[str, Any] = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    tokenizer = bk.organisms.load("smollm2-refusal").model.tokenizer
    LlamaConfig(**sizes, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pairs_of(n: int) -> bk.PairedPrompts:
    """``n`` different prompts of 4 to 16 words, and one target."""
    draw = torch.Generator().manual_seed(0)
    texts, words = [], WORDS.split()
    for i in range(n):
        chosen = torch.randint(len(words), (4 + i % 13,), generator=draw).tolist()
        texts.append(" ".join(["Tell", "me", str(i), *(words[k] for k in chosen)]))
    trigger = bk.Trigger.gap("violet harbor", seed=0)
    return bk.PairedPrompts.from_instructions(texts, trigger, "I am sorry, but I can not help you with that.")


def measure(folder: str, kind: str, units: int, prompts: int) -> dict[str, Any]:
    """One attribution up to its first chunk."""
    model = bk.Model.load(folder, executor=Planner())
    pairs = pairs_of(prompts)
    attribution = bk.Attribution(model)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, start = _status("VmRSS"), time.perf_counter()
    try:
        if kind == "heads":
            attribution.heads(pairs)
        else:
            attribution.neurons(pairs, layer=16, neurons=range(units))
        raise AssertionError("nobody planned")
    except Stop as stop:
        seconds, plan = time.perf_counter() - start, stop.plan
    memory = _status("VmHWM") - before
    return {"seconds": seconds, "memory": memory, "chunks": len(plan.chunks), "planned": plan.cost.peak_bytes}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--neurons", type=numbers, default=[500, 1000, 2000, 4000, 11008])
    parser.add_argument("--prompts", type=int, default=50, help="for neurons")
    parser.add_argument("--head-prompts", type=numbers, default=[1000, 10_000], help="for all 1,024 heads")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
