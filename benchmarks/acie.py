"""Head attribution (ACIE) of every head: the engine beside one forward per head, in one run on one machine.

    python benchmarks/acie.py                  the organism, prompts of 20 and 160 tokens, targets of 14 and 1
    python benchmarks/acie.py --peers          TransformerLens beside them (pip install transformer-lens)

Every way gets the same 8 clean prompts, patches the same value (the head's mean over the triggered prompts, at the last
token) and scores the target's mean log-probability, without gradients, with logits of the target's columns only
(TransformerLens computes all). One forward per head, batched over the prompts:

    trace    an nnsight trace per head
    hooks    a PyTorch forward hook, no library
    lens     TransformerLens' `run_with_hooks` (--peers)

These are timed on one head of every other layer and multiplied up, since the forwards of all heads cost the same, and
interleaved with whole sweeps by the engine; medians over the repeats. The engine's time holds everything: planning,
source means, the unedited run, all heads. For the others the means and the unedited score are given for free.

One thread, pinned to one core (`--cpu`, `--threads`): two threads on a machine that others use measure the contention,
and large batches suffer less of it than small ones, which flatters the engine. The core's rate of matrix products is
measured before and after each way; a ratio compares times multiplied by it, so that a core that slows down between
two ways favours neither.

The arithmetic ratio divides the multiplications of one forward per head by those that no scheme of this kind can
leave out: the columns from the patched token on, from the patched layer on, and the target's logits. The second ratio
counts what has to be run besides, the source means and the unedited prompts.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

PEERS = "--peers" in sys.argv
if PEERS:
    import transformer_lens  # noqa: F401 - before nnsight: it imports beartype, which crashes after it

import torch
from _ways import (
    N_PROMPTS,
    Problem,
    hooks,
    lens_forwards,
    lens_model,
    load,
    matmul_rate,
    numbers,
    pin,
    plain,
    problem_of,
    score,
    source_means,
    trace,
)
from rich.console import Console
from rich.table import Table

import bkdinterp as bk


def main() -> None:
    args = _arguments()
    pinned = pin(args.threads, args.cpu)
    console = Console(width=120)
    model = load()
    about = _about() | {"cores": pinned}
    console.print(" ".join(f"{k}={v}" for k, v in about.items()), soft_wrap=True)
    rows = []
    for n_prompt in args.prompt_tokens:
        for n_target in args.target_tokens:
            row = measure(problem_of(model, n_prompt, n_target), args)
            rows.append(row)
            console.print(_table([row]))
            _save(args.out, {"rows": rows} | about)
    if len(rows) > 1:
        console.print(_table(rows))


def measure(problem: Problem, args: argparse.Namespace) -> dict[str, Any]:
    """One cell: every way, interleaved."""
    model = problem.model
    n_layers, n_heads = model.architecture.grid
    heads = [(layer, layer % n_heads) for layer in range(0, n_layers, 2)]
    means = source_means(problem)
    ways: dict[str, Callable[[list[tuple[int, int]]], dict[tuple[int, int], torch.Tensor]]] = {
        "trace": lambda chosen: trace(problem, means, chosen),
        "hooks": lambda chosen: hooks(problem, means, chosen),
    }
    if PEERS:
        lens = lens_model(model)
        ways["lens"] = lambda chosen: lens_forwards(problem, means, chosen, lens)
    with torch.no_grad():
        base = score(plain(problem), problem.batch)
        for way in ways.values():  # warm
            way(heads[:1])
        attribution = bk.Attribution(model)
        attribution.heads(problem.pairs, layers=[n_layers - 1], budget=args.budget)
        seconds: dict[str, list[float]] = {name: [] for name in (*ways, "engine")}
        rates: dict[str, list[float]] = {name: [] for name in seconds}
        inside: list[float] = []
        found: dict[str, dict[tuple[int, int], torch.Tensor]] = {}
        scores = None
        for _ in range(args.repeats):
            before = matmul_rate()
            for name, way in ways.items():
                start = time.perf_counter()
                found[name] = way(heads)
                seconds[name].append((time.perf_counter() - start) * n_layers * n_heads / len(heads))
                after = matmul_rate()
                rates[name].append((before + after) / 2)
                before = after
            with _module_seconds(model) as spent:
                start = time.perf_counter()
                scores = attribution.heads(problem.pairs, budget=args.budget)
                seconds["engine"].append(time.perf_counter() - start)
            rates["engine"].append((before + matmul_rate()) / 2)
            inside.append(sum(spent))
    assert scores is not None
    difference = max(
        float((scores.effects[layer, head] - (value - base)).abs().max())
        for name in ways
        for (layer, head), value in found[name].items()
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    # Seconds times what a second was worth then.
    work = {
        name: statistics.median(s * r for s, r in zip(seconds[name], rates[name], strict=True))
        for name in seconds
    }
    arithmetic, with_shared, flops = _arithmetic(problem)
    fraction = statistics.median(1 - i / s for i, s in zip(inside, seconds["engine"], strict=True))
    return {
        "prompt_tokens": problem.n_prompt,
        "target_tokens": problem.n_target,
        "seconds": medians,
        "all_seconds": seconds,
        "rates": rates,
        "ratio": {name: work[name] / work["engine"] for name in ways},
        "matmul_share": flops / work["engine"],
        "arithmetic": arithmetic,
        "arithmetic_with_shared": with_shared,
        "flops": flops,
        "outside": fraction,
        "difference": difference,
        "budget": args.budget,
    }


@contextmanager
def _module_seconds(model: bk.Model) -> Iterator[list[float]]:
    """Seconds inside the forward methods of embedding, blocks, final norm and unembedding."""
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    arch, module = model.architecture, model.module
    family = arch.family
    parts = [*module.get_submodule(family.layers), module.get_submodule(family.embed)]
    parts += [module.get_submodule(family.final_norm), module.get_output_embeddings()]
    # nnsight has put its own in place of the class's: restore what was there.
    before = [part.forward for part in parts]
    for part in parts:
        part.forward = timed(part.forward)
    try:
        yield spent
    finally:
        for part, forward in zip(parts, before, strict=True):
            part.forward = forward


def _arithmetic(problem: Problem) -> tuple[float, float, float]:
    """Multiplications of one forward per head, over those of the scheme: without and with what it shares; its FLOP."""
    arch, module = problem.model.architecture, problem.model.module
    n, t, n_layers, n_heads = problem.n_prompt, problem.n_target, arch.n_layers, arch.n_heads
    source = problem.model.builder.tokenize(problem.pairs.triggered, targets=False).input_ids.shape[1]
    block = module.get_submodule(f"{arch.family.layers}.0")
    per_token = 2 * sum(p.numel() for p in block.parameters() if p.ndim == 2)
    per_key = 4 * n_heads * arch.d_head
    per_logits = 2 * arch.d_model * arch.d_vocab

    def run(first: int, columns: int, layers: float, logits: int) -> float:
        keys = sum(range(first + 1, columns + 1))
        return layers * ((columns - first) * per_token + keys * per_key) + logits * per_logits

    n_units = n_layers * n_heads
    naive = n_units * run(0, n + t, n_layers, t + 1)
    least = n_units * run(n - 1, n + t - 1, (n_layers + 1) / 2, t)
    shared = run(0, source, n_layers, 0) + run(0, n + t - 1, n_layers, t)
    return naive / least, naive / (least + shared), N_PROMPTS * (least + shared)


def _table(rows: list[dict[str, Any]]) -> Table:
    ways = [name for name in rows[0]["seconds"] if name != "engine"]
    table = Table(
        title=f"All {30 * 9} heads, {N_PROMPTS} prompts: seconds, and the engine's share of the arithmetic ratio"
    )
    for name in ("prompt", "target", *ways, "engine"):
        table.add_column(name, justify="right")
    for name in (
        "ratio",
        "arithmetic",
        "share",
        "with shared runs",
        "share",
        "outside",
        "GFLOP/s",
        "of products",
        "difference",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        ratio = row["ratio"]
        cells = [str(row["prompt_tokens"]), str(row["target_tokens"])]
        cells += [f"{row['seconds'][name]:.1f}" for name in (*ways, "engine")]
        cells.append(" ".join(f"{ratio[name]:.1f}" for name in ways))
        cells += [
            f"{row['arithmetic']:.1f}",
            f"{min(ratio['trace'], ratio['hooks']) / row['arithmetic']:.0%}",
        ]
        whole = row["arithmetic_with_shared"]
        cells += [
            f"{whole:.1f}",
            f"{min(ratio['trace'], ratio['hooks']) / whole:.0%}",
            f"{row['outside']:.0%}",
        ]
        cells += [f"{row['flops'] / row['seconds']['engine'] / 1e9:.0f}", f"{row['matmul_share']:.0%}"]
        cells.append(f"{row['difference']:.1e}")
        table.add_row(*cells)
    return table


def _about() -> dict[str, Any]:
    names = ["torch", "nnsight", "transformers"] + ["transformer-lens"] * PEERS
    return {name: version(name) for name in names} | {
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def _save(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt-tokens", type=numbers, default=[20, 160])
    parser.add_argument("--target-tokens", type=numbers, default=[14, 1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, default=2**30, help="bytes for one chunk")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", type=int, help="first core to run on; the last one without it")
    parser.add_argument("--peers", action="store_true", help="TransformerLens, too")
    parser.add_argument("--out", type=Path, help="write the numbers here (JSON)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
