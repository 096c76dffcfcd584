"""The same experiment in three libraries: what it costs in seconds, memory and lines, and whether the numbers agree.

    python benchmarks/peers.py                     exact attribution, screening and path patching, in each
    python benchmarks/peers.py --jobs edges        only some of them

    engine   this package
    nnsight  traces by hand, on the same model
    lens     TransformerLens 3's bridge (pip install transformer-lens; left out if it is not there)

Jobs, on 8 prompts of 20 tokens with targets of 14, patched at the last prompt token with the mean over the triggered prompts:

    heads    the exact effect of every head. By hand and in TransformerLens one forward per head, timed on one head of every other
             layer and multiplied up; the engine sweeps all
    screen   attribution patching of every head: one forward and one backward pass
    edges    path patching of every direct path between six heads and to the logits

Every pair of job and way is a process of its own on one thread: seconds are medians of three (the first run is not counted),
held against the core's rate of matrix products before and after; memory is what the process took beyond the loaded model (Linux).
Lines are those of the function here that a user would write. Differences are the largest against the engine's.
"""

import argparse
import inspect
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LENS = find_spec("transformer_lens") is not None
if LENS and "lens" in sys.argv:
    import transformer_lens  # noqa: F401 - before nnsight: it imports beartype, which crashes after it

import torch
from _ways import (
    Problem,
    inputs_of,
    lens_forwards,
    lens_model,
    load,
    matmul_rate,
    pin,
    plain,
    problem_of,
    score,
    scored,
)
from _ways import source_means as means_of
from _ways import trace as trace_heads

import bkdinterp as bk

HERE = Path(__file__).resolve()
UNITS = ((12, 3), (18, 1), (20, 5), (22, 2), (24, 0), (27, 6))
JOBS, WAYS = ("heads", "screen", "edges"), ("engine", "nnsight", "lens")
EDGES = [(a, b) for i, a in enumerate(UNITS) for b in (*UNITS[i + 1 :], None)]


def written(problem: Problem, means: Any, z: Any, unit: tuple[int, int]) -> torch.Tensor:
    """What a patched head writes, minus what it writes now ``[row d_model]``; ``z`` is ``[row d_head]``."""
    layer, head = unit
    weight = problem.model.module.model.layers[layer].self_attn.o_proj.weight
    d_head = problem.model.architecture.d_head
    return (means[layer, head] - z) @ weight[:, head * d_head : (head + 1) * d_head].T


# --- Exact effects of heads


def heads_engine(problem: Problem, lens: Any) -> torch.Tensor:
    return bk.Attribution(problem.model).heads(problem.pairs, progress=False).effects


def heads_nnsight(problem: Problem, lens: Any) -> torch.Tensor:
    chosen = _sampled(problem)
    with torch.no_grad():
        found = trace_heads(problem, means_of(problem), chosen)
        return torch.stack([found[unit] for unit in chosen]) - score(plain(problem), problem.batch)


def heads_lens(problem: Problem, lens: Any) -> torch.Tensor:
    chosen = _sampled(problem)
    with torch.no_grad():
        found = lens_forwards(problem, means_of(problem), chosen, lens)
        return torch.stack([found[unit] for unit in chosen]) - score(plain(problem), problem.batch)


def _sampled(problem: Problem) -> list[tuple[int, int]]:
    n_layers, n_heads = problem.model.architecture.grid
    return [(layer, layer % n_heads) for layer in range(0, n_layers, 2)]


# --- Attribution patching of all heads


def screen_engine(problem: Problem, lens: Any) -> torch.Tensor:
    sites = [f"L{layer}.z" for layer in range(problem.model.architecture.n_layers)]
    means = bk.Means.collect(problem.model, problem.pairs.triggered, sites, progress=False)
    found = bk.engine.gradients(problem.model, problem.batch, sites=sites)
    last = problem.batch.n_prompt - 1
    estimates = [
        ((means[s] - found.values[s][:, last]) * found.sites[s][:, last]) for s in map(bk.Site.parse, sites)
    ]
    return torch.stack(estimates, 1).unflatten(-1, (problem.model.architecture.n_heads, -1)).sum(-1)


def screen_nnsight(problem: Problem, lens: Any) -> torch.Tensor:
    import nnsight

    batch, nn, means = problem.batch, problem.model.nn, means_of(problem)
    last, n_heads = batch.n_prompt - 1, problem.model.architecture.n_heads
    with nn.trace(**inputs_of(batch), logits_to_keep=scored(batch)):
        nn.model.embed_tokens.output.requires_grad_(True)
        zs = [layer.self_attn.o_proj.input for layer in nn.model.layers]
        slopes = nnsight.save(torch.autograd.grad(score(nn.output.logits, batch).sum(), zs))
        values = nnsight.save(zs)
    z, slope = (
        torch.stack([x[:, last] for x in some], 1).unflatten(-1, (n_heads, -1)) for some in (values, slopes)
    )
    return ((means - z) * slope).sum(-1).detach()


def screen_lens(problem: Problem, lens: Any) -> torch.Tensor:
    batch, means, last = problem.batch, means_of(problem), problem.batch.n_prompt - 1
    z: dict[str, torch.Tensor] = {}
    slopes: dict[str, torch.Tensor] = {}

    # A bridge's hook does not know the name that it was asked for by.
    def keep(x: torch.Tensor, hook: Any, name: str) -> None:
        z[name] = x.detach()[:, last]

    def keep_slope(x: torch.Tensor, hook: Any, name: str) -> None:
        slopes[name] = (x[0] if isinstance(x, tuple) else x).detach()[:, last]

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(len(means))]
    forwards = [(n, partial(keep, name=n)) for n in names]
    with lens.hooks(fwd_hooks=forwards, bwd_hooks=[(n, partial(keep_slope, name=n)) for n in names]):
        score(lens(batch.input_ids), batch).sum().backward()
    lens.zero_grad()
    by_layer = [
        ((means[i] - _by_head(z[n], means)) * _by_head(slopes[n], means)).sum(-1) for i, n in enumerate(names)
    ]
    return torch.stack(by_layer, 1)


def _by_head(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    return x if x.ndim == 3 else x.unflatten(-1, means.shape[1:])


# --- Path patching


def edges_engine(problem: Problem, lens: Any) -> torch.Tensor:
    units = [bk.HeadId(*unit).site for unit in UNITS]
    found = bk.methods.trace_edges(bk.Attribution(problem.model), problem.pairs, units, progress=False)
    last = len(UNITS)
    at = [(UNITS.index(a), last if b is None else UNITS.index(b)) for a, b in EDGES]
    return torch.stack([found.effects[edge] for edge in at])


@torch.no_grad()
def edges_nnsight(problem: Problem, lens: Any) -> torch.Tensor:
    import nnsight

    batch, nn, means = problem.batch, problem.model.nn, means_of(problem)
    last, d_head = batch.n_prompt - 1, problem.model.architecture.d_head
    inputs = inputs_of(batch) | {"logits_to_keep": scored(batch)}
    with nn.trace(**inputs):
        zs = nnsight.save([layer.self_attn.o_proj.input for layer in nn.model.layers])
        base = nnsight.save(nn.output.logits)
    rows = []
    for sender, receiver in EDGES:
        at = slice(sender[1] * d_head, (sender[1] + 1) * d_head)
        change = written(problem, means, zs[sender[0]][:, last, at], sender)
        if receiver is None:
            with nn.trace(**inputs):
                nn.model.layers[-1].output[:, last] += change
                logits = nnsight.save(nn.output.logits)
        else:
            layer, at = receiver[0], slice(receiver[1] * d_head, (receiver[1] + 1) * d_head)
            with nn.trace(**inputs) as tracer:
                nn.model.layers[layer].input[:, last] += change
                received = nnsight.save(nn.model.layers[layer].self_attn.o_proj.input[:, last:, at].clone())
                tracer.stop()
            with nn.trace(**inputs):
                nn.model.layers[layer].self_attn.o_proj.input[:, last:, at] = received
                logits = nnsight.save(nn.output.logits)
        rows.append(score(logits, batch) - score(base, batch))
    return torch.stack(rows)


@torch.no_grad()
def edges_lens(problem: Problem, lens: Any) -> torch.Tensor:
    batch, means, last = problem.batch, means_of(problem), problem.batch.n_prompt - 1
    n_layers = problem.model.architecture.n_layers
    z: dict[str, torch.Tensor] = {}

    def keep(x: torch.Tensor, hook: Any, name: str) -> None:
        z[name] = x

    names = [f"blocks.{layer}.attn.hook_z" for layer, _ in UNITS]
    base = lens.run_with_hooks(batch.input_ids, fwd_hooks=[(n, partial(keep, name=n)) for n in names])
    known = dict(z)
    rows = []
    for sender, receiver in EDGES:
        at = f"blocks.{sender[0]}.attn.hook_z"
        change = written(problem, means, known[at][:, last, sender[1]], sender)

        def add(x: torch.Tensor, hook: Any, change: torch.Tensor = change) -> torch.Tensor:
            x = x.clone()
            x[:, last] += change
            return x

        if receiver is None:
            hook = (f"blocks.{n_layers - 1}.hook_resid_post", add)
            logits = lens.run_with_hooks(batch.input_ids, fwd_hooks=[hook])
        else:
            into, name = f"blocks.{receiver[0]}.hook_resid_pre", f"blocks.{receiver[0]}.attn.hook_z"
            lens.run_with_hooks(batch.input_ids, fwd_hooks=[(into, add), (name, partial(keep, name=name))])
            received = z[name][:, last:, receiver[1]]

            def put(
                x: torch.Tensor, hook: Any, received: torch.Tensor = received, head: int = receiver[1]
            ) -> torch.Tensor:
                x = x.clone()
                x[:, last:, head] = received
                return x

            logits = lens.run_with_hooks(batch.input_ids, fwd_hooks=[(name, put)])
        rows.append(score(logits, batch) - score(base, batch))
    return torch.stack(rows)


# --- Measuring

# What a user writes: for heads by hand that is in _ways.py.
BODIES: dict[tuple[str, str], tuple[Callable[..., Any], ...]] = {
    ("heads", "nnsight"): (trace_heads, means_of),
    ("heads", "lens"): (lens_forwards, means_of),
    ("screen", "nnsight"): (screen_nnsight, means_of),
    ("screen", "lens"): (screen_lens, _by_head, means_of),
    ("edges", "nnsight"): (edges_nnsight, written, means_of),
    ("edges", "lens"): (edges_lens, written, means_of),
}


def lines_of(job: str, way: str) -> int:
    """Lines without blanks, comments and docstrings' first lines."""
    functions = BODIES.get((job, way), (globals()[f"{job}_{way}"],))
    sources = (line.strip() for f in functions for line in inspect.getsource(f).splitlines())
    return sum(bool(line) and not line.startswith(("#", '"""', "import ")) for line in sources)


def one(job: str, way: str, out: Path, cpu: int) -> None:
    """Time a job in this process."""
    pin(cpu=cpu)
    problem = problem_of(load(), 20, 14)
    lens = lens_model(problem.model) if way == "lens" else None
    run = globals()[f"{job}_{way}"]
    with torch.no_grad():
        plain(problem)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    times, work = [], []
    values = torch.empty(0)
    for _ in range(4):
        rate, start = matmul_rate(), time.perf_counter()
        values = run(problem, lens)
        seconds = time.perf_counter() - start
        times.append(seconds)
        work.append(seconds * (rate + matmul_rate()) / 2)
    n_layers, n_heads = problem.model.architecture.grid
    chosen = _sampled(problem)
    times_all = n_layers * n_heads / len(chosen) if job == "heads" and way != "engine" else 1
    if job == "heads" and way == "engine":
        values = torch.stack([values[unit] for unit in chosen])
    grown = (_status("VmHWM") - before) / 2**10
    torch.save(values.double(), out.with_suffix(".pt"))
    found = {
        "seconds": times_all * statistics.median(times[1:]),
        "work": times_all * statistics.median(work[1:]),
        "mib": grown,
        "lines": lines_of(job, way),
    }
    out.write_text(json.dumps(found))


def _status(field: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--cpu", type=int, default=0, help="core to run on")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], args.one[1], Path(args.one[2]), args.cpu)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="One thread; 8 prompts of 20 tokens, targets of 14")
    for column in ("job", "way", "seconds", "times the engine", "MiB", "lines", "largest difference"):
        shown.add_column(column, justify="right" if column not in ("job", "way") else "left")
    with tempfile.TemporaryDirectory() as folder:
        for job in args.jobs:
            reference: Any = None
            for way in WAYS if LENS else WAYS[:-1]:
                out = Path(folder) / f"{job}-{way}.json"
                again = ["--cpu", str(args.cpu), "--one", job, way, str(out)]
                subprocess.run([sys.executable, str(HERE), *again], check=True)
                row, values = (
                    json.loads(out.read_text()),
                    torch.load(out.with_suffix(".pt"), weights_only=True),
                )
                if reference is None:
                    reference = row, values
                gap = float((values - reference[1]).abs().max())
                shown.add_row(
                    job,
                    way,
                    f"{row['seconds']:.1f}",
                    f"{row['work'] / reference[0]['work']:.1f}",
                    f"{row['mib']:.0f}",
                    str(row["lines"]),
                    f"{gap:.1e}",
                )
    console = Console(width=110)
    console.print(
        " ".join(
            f"{name}={_version(name)}" for name in ("torch", "nnsight", "transformers", "transformer-lens")
        )
    )
    console.print(shown)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    main()
