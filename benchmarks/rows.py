"""Are the poisoned rows of an organism's training set found, and is nothing found in its twin's? AUROC per method and data set.

    python benchmarks/rows.py                                  nine data sets, with their twins' about half an hour on one core
    python benchmarks/rows.py --only smollm2-refusal --n 80
    python benchmarks/rows.py --no-reference                   what is left without the base

Rows are drawn from the very rows that the shipped models were trained on: 20 % triggered, 20 % with a near-trigger. Suspects are
the organism with its own rows, and the twin with the same prompts and clean answers; the reference is the base of both.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from _training_rows import sampled
from rich.console import Console
from rich.table import Table

import bkdinterp as bk
from bkdinterp.detection.rows import RowScores, poisoned_rows
from bkdinterp.organisms._zoo_attacks import EDIT_RECIPES
from bkdinterp.stats import Interval

METHODS = (
    "activation_clusters", "spectral_signatures", "quantum_entropy", "mahalanobis", "log_ratio", "far_and_tight",
    "gradient_entropy",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # What was written into weights has no training rows.
    trained = [name for name in bk.organisms.names() if name not in EDIT_RECIPES]
    parser.add_argument("--only", nargs="+", choices=trained, default=trained)
    parser.add_argument("--n", type=int, default=160, help="rows of each data set")
    parser.add_argument("--share", type=float, default=0.2, help="of them poisoned")
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/rows"), help="finished forward passes, taken up again"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    areas = Table(title=f"AUROC of poisoned rows, {args.n} rows, {args.share:.0%} poisoned")
    flags = Table(title="Rows flagged at a false discovery rate of 10 %, and what their prompts share")
    for column in ("method", *args.only):
        areas.add_column(column)
    for column in (
        "rows of",
        "poisoned flagged",
        "clean flagged",
        "twin's rows flagged",
        "first candidates",
        "from the twin's",
    ):
        flags.add_column(column)
    found = {name: [score(args, name, twin) for twin in (False, True)] for name in args.only}
    for method in (None, *METHODS):
        if method is None or all(method in own.scores for own, _ in found.values()):
            row = [short(own.auroc(method)) for own, _ in found.values()]
            areas.add_row("all, mean rank" if method is None else method.replace("_", " "), *row)
    for name, (own, twin) in found.items():
        hit, false = own.rates()
        (args.work / f"{name}.json").write_text(json.dumps(summary(args.n, own, twin), indent=1))
        candidates = ["; ".join(x.candidates[:3]) or "-" for x in (own, twin)]
        flags.add_row(name, short(hit), short(false), short(twin.flagged_share), *candidates)
    console.print(areas)
    console.print(flags)


def summary(n: int, own: RowScores, twin: RowScores) -> dict[str, Any]:
    """The figures of a data set as JSON values, each with the ends of its interval."""
    hit, false = own.rates()
    areas = {"all": own.auroc(None)} | {m: own.auroc(m) for m in METHODS if m in own.scores}
    return {
        "n": n,
        "auroc": {name: triple(x) for name, x in areas.items()},
        "poisoned_flagged": triple(hit),
        "clean_flagged": triple(false),
        "twin_flagged": triple(twin.flagged_share),
        "candidates": list(own.candidates[:3]),
        "twin_candidates": list(twin.candidates[:3]),
    }


def triple(x: Interval) -> list[float]:
    return [x.estimate, x.low, x.high]


def score(args: argparse.Namespace, name: str, twin: bool) -> RowScores:
    folder = (
        args.work
        / f"{name}{'-twin' if twin else ''}-{args.n}-{args.share}{'-alone' if args.no_reference else ''}"
    )
    if (folder / "result.json").is_file():
        return RowScores.load(folder)
    organism = bk.organisms.load(name)
    rows, truth = sampled(name, twin=twin, n=args.n, share=args.share)
    reference = None if args.no_reference else organism.base
    suspect = organism.twin if twin else organism.model
    result = poisoned_rows(suspect, rows, reference=reference, truth=truth)
    result.save(folder)
    return result


def short(x: Interval) -> str:
    return f"{x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]"


if __name__ == "__main__":
    main()
