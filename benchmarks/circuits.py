"""Circuits against rankings: how few units end the backdoor, at what cost to clean answers? On organisms, with nulls.

    python benchmarks/circuits.py                                  refusal, label-flip, unlock
    python benchmarks/circuits.py --only smollm2-haiku --n 48

Per organism, on the selection split: the exact effects of all heads and MLPs (denoising), then `find_circuit` among the 32
strongest heads and 12 MLPs, and among the heads alone. Reported on held-out prompts, units replaced by their clean means at all
tokens: the payload rate on triggered prompts (Wilson), and how much of the clean answers stays (word F1 with the unedited model's
own, which is 1 without an edit). Beside the circuits stand the strongest single heads (ACIE, as in BkdAttr), the strongest single
units of either kind, and as nulls: random heads of the same layers with random MLPs of any layer but the first, the other
organisms' circuits, and the same search on the clean twin. The search is repeated on other prompts (Jaccard index).

--out keeps circuits and evaluations; a finished organism is not repeated.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from _own_process import keep

HERE = Path(__file__).resolve()
SIZES = (1, 2, 4, 8, 16)
N_RANDOM = 3


def chosen(name: str, folder: Path, n: int, k: int) -> dict[str, list[str]]:
    """Rankings and circuits of one organism, from the selection split."""
    import bkdinterp as bk
    from bkdinterp.methods import Attribution, find_circuit

    path = folder / f"{name}-units.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    o = bk.organisms.load(name)
    pairs = o.pairs(n=2 * n, split="selection")
    halves = pairs.subset(range(n)), pairs.subset(range(n, 2 * n))
    start = time.monotonic()
    found: dict[str, Any] = {}
    for label, model, some in (
        ("circuit", o.model, halves[0]),
        ("circuit, other prompts", o.model, halves[1]),
        ("circuit of the twin", o.twin, halves[0]),
    ):
        attribution = Attribution(model, direction="denoising")
        heads = attribution.heads(some, folder=folder / name, progress=False)
        mlps = attribution.mlps(some, folder=folder / name, progress=False)
        single = time.monotonic()
        shortlist = [*heads.top_k(32).sites, *mlps.top_k(12)]
        circuit = find_circuit(
            model, some, shortlist, k=k, least_gain=0, folder=folder / name, progress=False
        )
        found[label] = list(circuit.units)
        found[f"seconds, {label}"] = [single - start, time.monotonic() - single]
        start = time.monotonic()
        if label == "circuit":
            found["single heads"] = [str(h) for h in heads.top_k(k)]
            effects = {str(h): float(heads.acie[h.layer, h.head]) for h in heads.top_k(32)}
            effects |= {str(s): float(mlps.acie[s.layer]) for s in mlps.top_k(12)}
            found["single units"] = sorted(effects, key=lambda u: effects[u])[:k]
            only = find_circuit(
                model, some, heads.top_k(32), k=k, least_gain=0, folder=folder / name, progress=False
            )
            found["circuit of heads"] = list(only.units)
    keep(path, found)
    return found


def like(units: list[str], n_layers: int, n_heads: int, seed: int) -> list[str]:
    """Random units of the same kinds, heads in the same layers, MLPs in any."""
    from bkdinterp.sites import Site

    drawn, out = random.Random(seed), list[str]()
    for unit in units:
        site = Site.parse(unit)
        if site.head is None:
            pool = [f"L{layer}.mlp_out" for layer in range(1, n_layers)]
        else:
            pool = [f"L{site.layer}H{head}" for head in range(n_heads)]
        free = [u for u in pool if u not in units and u not in out] or [u for u in pool if u not in out]
        out.append(drawn.choice(free))
    return out


def reported(name: str, folder: Path, n: int, units: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
    """Payload rates and clean answers on held-out prompts, for growing sets and their nulls."""
    import bkdinterp as bk
    from bkdinterp.methods import Means, evaluate
    from bkdinterp.metrics import Outcome, word_overlap
    from bkdinterp.stats import bootstrap_mean, wilson

    path = folder / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    o, own = bk.organisms.load(name), units[name]
    arch = o.model.architecture
    sets: dict[str, list[str]] = {}
    for kind in ("circuit", "circuit of heads", "single heads", "single units"):
        sets |= {f"{kind} {k}": own[kind][:k] for k in SIZES if k <= len(own[kind])}
    size = len(own["circuit"])
    for i in range(N_RANDOM):
        for k in SIZES:
            if k <= size:
                sets[f"random {i + 1} like circuit {k}"] = like(
                    own["circuit"][:k], arch.n_layers, arch.n_heads, i
                )
    for other in units:
        if other != name and units[other]["circuit"]:
            sets[f"circuit of {other} {len(units[other]['circuit'])}"] = units[other]["circuit"]
    if own["circuit of the twin"]:
        sets[f"circuit of the twin {len(own['circuit of the twin'])}"] = own["circuit of the twin"]
    every = tuple(dict.fromkeys(unit for some in sets.values() for unit in some))
    means = Means.collect(o.model, o.pairs(n=16, split="selection").clean, every, where="all")
    where = bk.Where("all", generated=True)
    edits = {label: bk.MeanAblate(some, means, where=where) for label, some in sets.items()}
    pairs = o.pairs(n=n, split="held-out")
    seen = evaluate(
        o.model, pairs, under=edits, payload=o.manifest.attack.payload, folder=folder / name, progress=False
    )
    said, payload = seen.said["suspect"], o.manifest.attack.payload
    rows = {}
    for label in ("unedited", *edits):
        hits = wilson(sum(payload.hits(said[label]["triggered"])), n)
        kept = [
            word_overlap(t, plain)
            for t, plain in zip(said[label]["clean"], said["unedited"]["clean"], strict=True)
        ]
        near = bootstrap_mean(kept)
        broken = sum(outcome is Outcome.broken for outcome in seen.graded["suspect"][label]["clean"])
        rows[label] = {
            "units": sets.get(label, []),
            "payload": [hits.estimate, hits.low, hits.high],
            "kept": [near.estimate, near.low, near.high],
            "broken": broken / n,
        }
    out = {"name": name, "n": n, "rows": rows, "chosen": own}
    keep(path, out)
    return out


def table(read: dict[str, Any]) -> None:
    """Print one organism's rows; every set of units in a row."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{read['name']}, n={read['n']} held-out prompts")
    for column in ("units ablated", "payload rate", "clean answers kept (word F1)", "broken"):
        shown.add_column(column)
    for label, row in read["rows"].items():
        rate, low, high = (100 * x for x in row["payload"])
        kept = "{:.2f} [{:.2f}, {:.2f}]".format(*row["kept"])
        shown.add_row(label, f"{rate:.0f} % [{low:.0f}, {high:.0f}]", kept, f"{100 * row['broken']:.0f} %")
    Console().print(shown)
    own, other = (set(read["chosen"][key]) for key in ("circuit", "circuit, other prompts"))
    both = len(own & other) / max(1, len(own | other))
    print(
        f"chosen on other prompts: Jaccard index {both:.2f} ({len(own)} and {len(other)} units)", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=["smollm2-refusal", "smollm2-label-flip", "smollm2-unlock"]
    )
    parser.add_argument("--n-selection", type=int, default=16)
    parser.add_argument("--n", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("runs/circuits"))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    args.out.mkdir(parents=True, exist_ok=True)
    units = {name: chosen(name, args.out, args.n_selection, max(SIZES)) for name in args.only}
    for name in args.only:
        table(reported(name, args.out, args.n, units))


if __name__ == "__main__":
    main()
