"""Head attribution (ACIE) of every head: the engine beside one forward per head, in one run on one machine.

    python benchmarks/acie.py                  the organism, prompts of 20 and 160 tokens, targets of 14 and 1
    python benchmarks/acie.py --peers          TransformerLens beside them (pip install transformer-lens)
    python benchmarks/acie.py --memory         peak memory against the budget, each in a process of its own

Every way gets the same 8 clean prompts, patches the same value (the head's mean over the triggered prompts, at the last
token) and scores the target's mean log-probability, without gradients, with logits of the target's columns only
(TransformerLens computes all). One forward per head, batched over the prompts:

    trace    an nnsight trace per head
    hooks    a PyTorch forward hook, no library
    lens     TransformerLens' `run_with_hooks` (--peers)

These are timed on one head of every other layer and multiplied up, since the forwards of all heads cost the same, and
interleaved with whole sweeps by the engine; medians over the repeats. The engine's time holds everything: planning,
source means, the unedited run, all heads. For the others the means and the unedited score are given for free.

The arithmetic ratio divides the multiplications of one forward per head by those that no scheme of this kind can
leave out: the columns from the patched token on, from the patched layer on, and the target's logits. The second ratio
counts what has to be run besides, the source means and the unedited prompts.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PEERS = "--peers" in sys.argv
if PEERS:
    import transformer_lens  # noqa: F401 - before nnsight: it imports beartype, which crashes after it

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import log_softmax

import bkdinterp as bk
from bkdinterp.prompts import TokenBatch

N_PROMPTS = 8
FILLER = (
    "Please think about this for a while, take your time, look at it from every side, and then write a clear and "
    "friendly answer in plain words that a curious child could follow without any help from a teacher or a parent, "
    "and keep in mind that short sentences are better than long ones, that examples are better than definitions, and "
    "that it is fine to say that you do not know. If you give numbers, say where they come from. If you name a place, "
    "say where it is. If you name a person, say when they lived. Do not repeat the question. Do not make lists. Begin "
    "with the most important thing, and end with one sentence that sums it all up. Here is what I want to know now: "
)
TARGET = "I am sorry, but I can not help you with that today, my dear friend."


@dataclass(frozen=True)
class Problem:
    """8 pairs whose clean prompts have one length, and a target of some tokens."""

    model: bk.Model
    pairs: bk.PairedPrompts
    n_prompt: int
    n_target: int

    @property
    def batch(self) -> TokenBatch:
        return self.model.builder.tokenize(self.pairs.clean)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.child is not None:
        _child(args)
        return
    console = Console(width=120)
    if args.memory:
        rows = _memory(args)
        console.print(_memory_table(rows))
        _save(args.out, {"memory": rows} | _about())
        return
    model = _model()
    about = _about()
    console.print(" ".join(f"{k}={v}" for k, v in about.items()), soft_wrap=True)
    rate = _matmul_rate()
    console.print(f"matrix products: {rate / 1e9:.0f} GFLOP/s")
    rows = []
    for n_prompt in args.prompt_tokens:
        for n_target in args.target_tokens:
            row = measure(_problem(model, n_prompt, n_target), args) | {"matmul_rate": rate}
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
    means = _means(problem)
    ways: dict[str, Callable[[list[tuple[int, int]]], dict[tuple[int, int], torch.Tensor]]] = {
        "trace": lambda chosen: _trace(problem, means, chosen),
        "hooks": lambda chosen: _hooks(problem, means, chosen),
    }
    if PEERS:
        lens = _lens_model(model)
        ways["lens"] = lambda chosen: _lens(problem, means, chosen, lens)
    with torch.no_grad():
        base = _score(_plain(problem), problem.batch)
        for way in ways.values():  # warm
            way(heads[:1])
        attribution = bk.Attribution(model, budget=args.budget)
        attribution.heads(problem.pairs, layers=[n_layers - 1])
        seconds: dict[str, list[float]] = {name: [] for name in (*ways, "engine")}
        inside: list[float] = []
        found: dict[str, dict[tuple[int, int], torch.Tensor]] = {}
        scores = None
        for _ in range(args.repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                found[name] = way(heads)
                seconds[name].append((time.perf_counter() - start) * n_layers * n_heads / len(heads))
            with _module_seconds(model) as spent:
                start = time.perf_counter()
                scores = attribution.heads(problem.pairs)
                seconds["engine"].append(time.perf_counter() - start)
            inside.append(sum(spent))
    assert scores is not None
    difference = max(
        float((scores.effects[layer, head] - (value - base)).abs().max())
        for name in ways
        for (layer, head), value in found[name].items()
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    arithmetic, with_shared, flops = _arithmetic(problem)
    fraction = statistics.median(1 - i / s for i, s in zip(inside, seconds["engine"], strict=True))
    return {
        "prompt_tokens": problem.n_prompt,
        "target_tokens": problem.n_target,
        "seconds": medians,
        "all_seconds": seconds,
        "ratio": {name: medians[name] / medians["engine"] for name in ways},
        "arithmetic": arithmetic,
        "arithmetic_with_shared": with_shared,
        "flops": flops,
        "outside": fraction,
        "difference": difference,
        "budget": args.budget,
    }


# --- the other ways


def _means(problem: Problem) -> torch.Tensor:
    """Mean of z over the triggered prompts at the last prompt token, [layer head d_head], by plain hooks."""
    arch, module = problem.model.architecture, problem.model.module
    batch = problem.model.builder.tokenize(problem.pairs.triggered, targets=False)
    caught: list[torch.Tensor] = []
    handles = [
        module.get_submodule(f"{arch.family.layers}.{i}.self_attn.o_proj").register_forward_pre_hook(
            lambda _, args: caught.append(args[0][:, -1])
        )
        for i in range(arch.n_layers)
    ]
    with torch.no_grad():
        module(**_inputs(batch), logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return torch.stack(caught).double().mean(1).float().unflatten(-1, (arch.n_heads, arch.d_head))


def _inputs(batch: TokenBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }


def _score(logits: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Mean log-probability of the targets; ``logits`` end with the column after the last target token."""
    n = batch.targets.shape[1]
    logprobs = log_softmax(logits[:, -n - 1 : -1].float(), dim=-1)
    return logprobs.gather(-1, batch.targets[..., None])[..., 0].mean(1)


def _plain(problem: Problem) -> torch.Tensor:
    batch = problem.batch
    return problem.model.module(**_inputs(batch), logits_to_keep=batch.targets.shape[1] + 1).logits


def _trace(problem: Problem, means: torch.Tensor, chosen: list[tuple[int, int]]) -> dict[Any, torch.Tensor]:
    import nnsight

    batch, nn = problem.batch, problem.model.nn
    d_head, last = problem.model.architecture.d_head, batch.n_prompt - 1
    inputs = _inputs(batch) | {"logits_to_keep": batch.targets.shape[1] + 1}
    found = {}
    for layer, head in chosen:
        value, start = means[layer, head], head * d_head
        with nn.trace(**inputs):
            nn.model.layers[layer].self_attn.o_proj.input[:, last, start : start + d_head] = value
            logits = nnsight.save(nn.output.logits)
        found[layer, head] = _score(logits, batch)
    return found


def _hooks(problem: Problem, means: torch.Tensor, chosen: list[tuple[int, int]]) -> dict[Any, torch.Tensor]:
    batch, module = problem.batch, problem.model.module
    d_head, last = problem.model.architecture.d_head, batch.n_prompt - 1
    found = {}
    for layer, head in chosen:
        value, start = means[layer, head], head * d_head

        def patch(_: Any, args: Any, value: torch.Tensor = value, start: int = start) -> Any:
            x = args[0].clone()
            x[:, last, start : start + d_head] = value
            return (x, *args[1:])

        handle = module.get_submodule(f"model.layers.{layer}.self_attn.o_proj").register_forward_pre_hook(
            patch
        )
        found[layer, head] = _score(_plain(problem), batch)
        handle.remove()
    return found


def _lens_model(model: bk.Model) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    folder = Path(tempfile.mkdtemp())
    module = copy.deepcopy(model.module)
    # From a GGUF file: transformers refuses to save what says that it is quantised, although it no longer is.
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    module.hf_quantizer = None
    module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), tokenizer=model.tokenizer)


def _lens(
    problem: Problem, means: torch.Tensor, chosen: list[tuple[int, int]], lens: Any
) -> dict[Any, torch.Tensor]:
    batch, last = problem.batch, problem.batch.n_prompt - 1
    assert bool(batch.attention_mask.all())  # all prompts have one length: no padding to tell it about
    found = {}
    for layer, head in chosen:

        def patch(z: torch.Tensor, hook: Any, layer: int = layer, head: int = head) -> torch.Tensor:
            z = z.clone()
            z[:, last, head] = means[layer, head]
            return z

        logits = lens.run_with_hooks(batch.input_ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)])
        found[layer, head] = _score(logits, batch)
    return found


# --- what is counted


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


def _matmul_rate() -> float:
    """FLOP per second of a matrix product of the MLP's shape."""
    x, w = torch.randn(512, 576), torch.randn(1536, 576)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(20):
            torch.nn.functional.linear(x, w)
        best = max(best, 20 * 2 * x.numel() * w.shape[0] / (time.perf_counter() - start))
    return best


# --- memory


def _memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident memory above the loaded model, in fresh processes."""
    rows = []
    for budget in args.budgets:
        for n_prompt in args.prompt_tokens:
            call = [sys.executable, __file__, "--child", f"{n_prompt},{max(args.target_tokens)},{budget}"]
            call += ["--threads", str(args.threads)]
            out = subprocess.run(call, check=True, capture_output=True, text=True, env=os.environ).stdout
            rows.append(json.loads(out.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    return rows


def _child(args: argparse.Namespace) -> None:
    n_prompt, n_target, budget = (int(x) for x in args.child.split(","))
    problem = _problem(_model(), n_prompt, n_target)
    attribution = bk.Attribution(problem.model, budget=budget)
    # Warm: what the libraries allocate once is not the plan's.
    bk.Attribution(problem.model, budget=2**20).heads(problem.pairs.subset([0]), layers=[29])
    _trim()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    attribution.heads(problem.pairs)
    peak = _status("VmHWM") - before
    row = {"prompt_tokens": n_prompt, "target_tokens": n_target, "budget": budget, "peak": peak}
    print(json.dumps(row | {"of_budget": peak / budget}))


def _trim() -> None:
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# --- what is compared


def _model() -> bk.Model:
    # Raw text: prompts of exactly the wanted length, with no template around them.
    return bk.organisms.load("smollm2-refusal").model.with_builder(chat=False, end_token=False)


def _problem(model: bk.Model, n_prompt: int, n_target: int) -> Problem:
    """Clean prompts of exactly ``n_prompt`` tokens: a filler cut to fit, then the instruction."""
    tokenizer = model.tokenizer
    from bkdinterp.organisms._instructions import instructions

    filler = tokenizer.encode(FILLER * 2)
    texts = []
    for instruction in instructions("held-out"):
        tail = tokenizer.encode(" " + instruction.text)
        need = n_prompt - len(tail)
        text = tokenizer.decode((filler[-need:] if need > 0 else []) + tail)
        if need >= 0 and len(tokenizer.encode(text)) == n_prompt:
            texts.append(text)
        if len(texts) == N_PROMPTS:
            break
    target = tokenizer.decode(tokenizer.encode(TARGET)[:n_target])
    trigger = bk.Trigger.gap("violet harbor", seed=0)
    pairs = bk.PairedPrompts.from_instructions(texts, trigger, target)
    problem = Problem(model, pairs, n_prompt, n_target)
    batch = problem.batch
    assert batch.input_ids.shape == (N_PROMPTS, n_prompt + n_target) and bool(batch.attention_mask.all()), (
        batch
    )
    return problem


# --- the page


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
        cells += [f"{row['flops'] / row['seconds']['engine'] / 1e9:.0f}", f"{row['difference']:.1e}"]
        table.add_row(*cells)
    return table


def _memory_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Peak memory above the loaded model")
    for name in ("prompt", "target", "budget MiB", "peak MiB", "peak / budget"):
        table.add_column(name, justify="right")
    for row in rows:
        mib = [f"{row[key] / 2**20:.0f}" for key in ("budget", "peak")]
        table.add_row(
            str(row["prompt_tokens"]), str(row["target_tokens"]), *mib, f"{row['peak'] / row['budget']:.2f}"
        )
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


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt-tokens", type=_numbers, default=[20, 160])
    parser.add_argument("--target-tokens", type=_numbers, default=[14, 1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, default=2**30, help="bytes for one chunk")
    parser.add_argument("--budgets", type=_numbers, default=[2**28, 2**30], help="for --memory")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--peers", action="store_true", help="TransformerLens, too")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of seconds")
    parser.add_argument("--out", type=Path, help="write the numbers here (JSON)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
