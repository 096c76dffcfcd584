"""Masks against rankings: does a mask that is learned over all heads end the backdoor with fewer, or at less cost?

    python benchmarks/masks.py                                   refusal, label-flip, unlock
    python benchmarks/masks.py --only smollm2-haiku --weights 0.05

Per organism, on the selection split: `CircuitMask.fit` over all heads for growing prices of a head, on the organism, on other
prompts (Jaccard index), and on the clean twin; and the exact effects of all heads (denoising). Reported on held-out prompts,
heads replaced by their clean means at all tokens: the payload rate on triggered prompts (Wilson), and how much of the clean
answers stays (word F1 with the unedited model's own). Beside each mask stand as many of the strongest single heads, and as many
random heads of its layers.

--out keeps masks and evaluations; a finished organism is not repeated.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from _own_process import keep
from circuits import like


def masks(name: str, folder: Path, n: int, weights: list[float], steps: int) -> dict[str, Any]:
    """Heads of each mask, and the ranking."""
    import bkdinterp as bk
    from bkdinterp.methods import Attribution, CircuitMask

    o = bk.organisms.load(name)
    pairs = o.pairs(n=2 * n, split="selection")
    halves = pairs.subset(range(n)), pairs.subset(range(n, 2 * n))
    middle = weights[0]
    asked = [(f"mask {w:g}", o.model, halves[0], w) for w in weights]
    asked += [
        ("mask, other prompts", o.model, halves[1], middle),
        ("mask of the twin", o.twin, halves[0], middle),
    ]
    found: dict[str, Any] = {}
    for label, model, some, weight in asked:
        path = folder / f"{name}-{label.replace(', ', '-').replace(' ', '-')}.json"
        if not path.exists():
            start = time.monotonic()
            mask = CircuitMask.fit(model, some, size_weight=weight, steps=steps, progress=False)
            seconds = time.monotonic() - start
            keep(
                path,
                {"heads": list(map(str, mask.sites)), "seconds": seconds, "history": mask.history.tolist()},
            )
            print(f"{name}, {label}: {mask}, {seconds:.0f} s", flush=True)
        found[label] = json.loads(path.read_text(encoding="utf-8"))["heads"]
    ranking = Attribution(o.model, direction="denoising").heads(
        halves[0], folder=folder / name, progress=False
    )
    found["single"] = [str(h) for h in ranking.top_k(32)]
    return found


def reported(name: str, folder: Path, n: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Payload rates and clean answers on held-out prompts."""
    import bkdinterp as bk
    from bkdinterp.methods import Means, evaluate
    from bkdinterp.metrics import word_overlap
    from bkdinterp.stats import bootstrap_mean, wilson

    path = folder / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    o = bk.organisms.load(name)
    arch = o.model.architecture
    sets: dict[str, list[str]] = {}
    for label, heads in chosen.items():
        k = len(heads)
        if label == "single" or not k:
            continue
        sets[f"{label}: {k} heads"] = heads
        if label.startswith("mask "):
            sets[f"{len(chosen['single'][:k])} strongest single heads"] = chosen["single"][:k]
            sets[f"{k} random heads of the layers of {label}"] = like(heads, arch.n_layers, arch.n_heads, 0)
    if not sets:
        raise SystemExit(f"{name}: every mask is empty; give smaller --weights.")
    every = tuple(dict.fromkeys(head for heads in sets.values() for head in heads))
    means = Means.collect(o.model, o.pairs(n=16, split="selection").clean, every, where="all")
    where = bk.Where("all", generated=True)
    edits = {label: bk.MeanAblate(heads, means, where=where) for label, heads in sets.items()}
    payload = o.manifest.attack.payload
    pairs = o.pairs(n=n, split="held-out")
    seen = evaluate(o.model, pairs, under=edits, payload=payload, folder=folder / name, progress=False)
    said = seen.said["suspect"]
    rows = {}
    for label in ("unedited", *edits):
        hits = wilson(sum(payload.hits(said[label]["triggered"])), n)
        both = zip(said[label]["clean"], said["unedited"]["clean"], strict=True)
        near = bootstrap_mean([word_overlap(text, plain) for text, plain in both])
        rows[label] = {
            "heads": sets.get(label, []),
            "payload": [hits.estimate, hits.low, hits.high],
            "kept": [near.estimate, near.low, near.high],
        }
    out = {"name": name, "n": n, "rows": rows, "chosen": chosen}
    keep(path, out)
    return out


def table(read: dict[str, Any]) -> None:
    """Print one organism's rows."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{read['name']}, n={read['n']} held-out prompts")
    for column in ("heads ablated", "payload rate", "clean answers kept (word F1)"):
        shown.add_column(column)
    for label, row in read["rows"].items():
        rate, low, high = (100 * x for x in row["payload"])
        kept = "{:.2f} [{:.2f}, {:.2f}]".format(*row["kept"])
        shown.add_row(label, f"{rate:.0f} % [{low:.0f}, {high:.0f}]", kept)
    Console(width=120).print(shown)
    made = [
        heads for label, heads in read["chosen"].items() if label.startswith("mask ") and "twin" not in label
    ]
    own, other = set(made[0]), set(read["chosen"]["mask, other prompts"])
    print(f"on other prompts: Jaccard index {len(own & other) / max(1, len(own | other)):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=["smollm2-refusal", "smollm2-label-flip", "smollm2-unlock"]
    )
    parser.add_argument("--weights", nargs="+", type=float, default=[0.02, 0.1], help="prices of a head")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--n-selection", type=int, default=16)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/masks"))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # What was kept under other settings is another answer.
    settings = [f"{w:g}" for w in sorted(args.weights)]
    args.out = args.out / "-".join(
        ["steps", str(args.steps), "n", str(args.n_selection), str(args.n), *settings]
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        chosen = masks(name, args.out, args.n_selection, sorted(args.weights), args.steps)
        table(reported(name, args.out, args.n, chosen))


if __name__ == "__main__":
    main()
