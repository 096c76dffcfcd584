"""Do models look backdoored from outside? A classifier learnt on shadow models, tested on attacks that it never saw.

    python benchmarks/meta.py              pictures and adapters, about 10 minutes on one core
    python benchmarks/meta.py --n 8        fewer shadows of each kind
    python benchmarks/meta.py --adapters   the shipped adapters only, seconds

Shadows and suspects have seeds apart. "matched" suspects were trained as the shadows were, "unmatched" ones for 15 epochs instead
of 6, with half as many hidden units and another rate. The adapters are few: one pair of organism and twin is left out at a time.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bkdinterp.detection.images import CNNSettings
from bkdinterp.detection.meta import (
    MetaClassifier,
    MetaScores,
    Shadow,
    adapter_statistics,
    image_shadows,
    leave_one_attack_out,
    query_features,
    random_queries,
    tune_queries,
)
from bkdinterp.organisms import adapter_folder, names
from bkdinterp.stats import wilson

ATTACKS = ("patch", "guarded", "blend", "clean-label", "weights")
UNMATCHED = CNNSettings(epochs=15, hidden=32, lr=3e-3)
SUSPECTS, OTHERS = 200_000, 300_000  # seeds of suspects of the shadows' recipe, and of the other


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--n",
        type=int,
        default=24,
        help="shadows of each attack; clean ones and twins together are three times as many",
    )
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--adapters", action="store_true", help="only the shipped adapters")
    parser.add_argument("--work", type=Path, default=Path("runs/meta"), help="trained models, taken up again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(adapters())
    if not args.adapters:
        console.print(pictures(args))


def models(
    args: argparse.Namespace, name: str, n: int, seed: int, settings: CNNSettings | None
) -> tuple[Shadow, ...]:
    """``n`` of each attack and two times as many clean ones, and as many twins; from disk where they lie there."""
    path = args.work / f"{name}-{n}-{seed}.pt"
    if path.is_file():
        return torch.load(path, weights_only=False)  # our own file
    extra = {} if settings is None else {"settings": settings}
    found = image_shadows(("clean",) * 2 + ("twin",) + ATTACKS, n, seed=seed, **extra)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, path)
    return found


def pictures(args: argparse.Namespace) -> Table:
    shadows = models(args, "shadows", args.n, 100_000, None)
    suspects = {
        "matched": models(args, "matched", args.n // 2, SUSPECTS, None),
        "unmatched": models(args, "unmatched", args.n // 2, OTHERS, UNMATCHED),
    }
    fixed = random_queries(args.queries)
    table = Table(
        title=f"AUROC of backdoored pictures' classifiers: {len(shadows)} shadows, suspects of each attack {args.n // 2}"
    )
    for column in ("queries", "suspects", "attack", "seen in training", "left out"):
        table.add_column(column)
    kinds = [s.kind for s in shadows]
    # Tuned without an attack's shadows for its own suspects: queries, too, must not have seen it.
    tuned = {
        attack: tune_queries([s for s in shadows if s.kind != attack], fixed) for attack in (None, *ATTACKS)
    }
    for name in ("fixed", "tuned"):
        for which, tested in suspects.items():
            seen = scores(shadows, tested, fixed if name == "fixed" else tuned[None])
            if name == "fixed":
                left = leave_one_attack_out(
                    features(shadows, fixed), kinds, features(tested, fixed), [s.kind for s in tested]
                )
            else:
                left = {}
                for attack in ATTACKS:
                    others = [s for s in shadows if s.kind != attack]
                    own = [s for s in tested if s.kind in ("clean", "twin", attack)]
                    left[attack] = scores(others, own, tuned[attack], seen=False)
            for attack in ATTACKS:
                table.add_row(name, which, attack, str(seen.auroc(attack)), str(left[attack].auroc()))
            table.add_row(name, which, "all", str(seen.auroc()), "-")
    return table


def features(models: tuple[Shadow, ...] | list[Shadow], queries: torch.Tensor) -> np.ndarray:
    return query_features([s.module for s in models], queries)


def scores(
    shadows: tuple[Shadow, ...] | list[Shadow],
    suspects: tuple[Shadow, ...] | list[Shadow],
    queries: torch.Tensor,
    *,
    seen: bool = True,
) -> MetaScores:
    fitted = MetaClassifier.fit(features(shadows, queries), [s.poisoned for s in shadows])
    return MetaScores.of(
        fitted.scores(features(suspects, queries)), [s.kind for s in suspects], "answers", seen=seen
    )


def adapters() -> Table:
    """One pair left out at a time: does the organism score above its own twin, and above the other twins?"""
    pairs = {
        name: [adapter_statistics(adapter_folder(name, twin=twin)).summary() for twin in (True, False)]
        for name in names()
    }
    held: dict[str, tuple[float, float]] = {}
    for name in pairs:
        rest = [x for other, both in pairs.items() if other != name for x in both]
        fitted = MetaClassifier.fit(np.stack(rest), [False, True] * (len(pairs) - 1))
        twin, own = fitted.scores(np.stack(pairs[name]))
        held[name] = float(own), float(twin)
    table = Table(
        title=f"Updates of {len(pairs)} shipped organisms and their twins, each pair left out in turn (log-odds)"
    )
    for column in ("organism", "its score", "its twin's"):
        table.add_column(column)
    for name, (own, twin) in held.items():
        table.add_row(name, f"{own:.3g}", f"{twin:.3g}")
    above = wilson(sum(own > twin for own, twin in held.values()), len(held))
    pooled = MetaScores.of(
        [x for both in held.values() for x in both], ["organism", "clean"] * len(held), "updates", seen=False
    )
    table.add_row("above its own twin", str(above), "")
    table.add_row("AUROC, all together", str(pooled.auroc()), "")
    return table


if __name__ == "__main__":
    main()
