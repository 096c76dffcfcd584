"""Are the intervals and p-values right? Error rates on noise, coverage and power, by simulation. No model.

    python benchmarks/calibration.py              all of it, about 15 minutes on one core
    python benchmarks/calibration.py --small      a tenth of the simulations

Four tables:

    units    the best of 270 heads of noise on n prompts: how often its interval excludes 0, pointwise and simultaneous, how
             often any p_adjusted is <= .05, and how often a true effect of one standard deviation is found
    probe    30 layers of noise, 40 pairs: how often the reported layer beats chance, chosen on the test part and on
             validation, and how often its p against random directions is <= .05
    means    coverage of 95 % intervals of means, by method
    pairs    coverage of a rate whose prompts come in pairs, Wilson's and by pairs
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bkdinterp.methods import ProbeScores
from bkdinterp.methods.probe._layer_classifiers import fit_classifiers
from bkdinterp.methods.probe._random_thresholds import RandomDirections
from bkdinterp.results import Fingerprint
from bkdinterp.stats import (
    adjusted_p,
    bootstrap_mean,
    clustered_ends,
    simultaneous,
    wilson,
)

HEADS, LAYERS, PAIRS, WIDTH = 270, 30, 40, 12
SIZES = (5, 8, 12, 24, 48)
SHAPES: dict[str, Callable[[np.random.Generator, Any], np.ndarray]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "unequal spread": lambda rng, size: (
        rng.standard_normal(size)
        * np.exp(rng.standard_normal((size[0], 1)))
        * np.exp(rng.standard_normal(size[1]) / 2)
    ),
    "heavy tails (t, 3 df)": lambda rng, size: rng.standard_t(3, size),
    "skewed (lognormal, .5)": lambda rng, size: np.exp(rng.standard_normal(size) / 2) - math.exp(1 / 8),
}
MEANS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, n: rng.standard_normal(n), 0.0),
    "lognormal": (lambda rng, n: np.exp(rng.standard_normal(n)), math.exp(0.5)),
    "ties": (lambda rng, n: rng.choice([0.0, 0.5, 1.0], p=[0.1, 0.3, 0.6], size=n), 0.75),
    "yes or no, 50 %": (lambda rng, n: (rng.random(n) < 0.5).astype(float), 0.5),
    "yes or no, 80 %": (lambda rng, n: (rng.random(n) < 0.8).astype(float), 0.8),
}
METHODS = ("studentized", "bca", "percentile")


def units(simulations: int) -> Table:
    """Error rates and power of attribution's intervals."""
    table = Table(title=f"{HEADS} heads of noise: share of {simulations} studies")
    for column in ("effects", "n", "best head, pointwise", "simultaneous", "p_adjusted", "true effect found"):
        table.add_column(column)
    for name, draw in SHAPES.items():
        for n in (8, 24, 48):
            counts = np.zeros(4)
            for seed in range(simulations):
                x = draw(np.random.default_rng(seed), (HEADS, n))
                found = simultaneous(x, n_flips=999, seed=seed)
                best = x[int(np.abs(found.estimate / x.std(1)).argmax())]
                counts[0] += 0.0 not in bootstrap_mean(best, n_resamples=300)
                counts[1] += found.excludes_zero.any()
                counts[2] += adjusted_p(x, n_flips=999, seed=seed).min() <= 0.05
                x[7] += x[7].std()
                counts[3] += adjusted_p(x, n_flips=999, seed=seed)[7] <= 0.05
            table.add_row(name, str(n), *(percent(c / simulations) for c in counts))
    return table


def probe(simulations: int) -> Table:
    """Error rates of the probe's reported layer."""
    table = Table(
        title=f"{LAYERS} layers of noise, {PAIRS} pairs: share of {simulations} probes that beat chance"
    )
    for column in ("classifier", "best on test", "chosen on validation", "p of it <= .05"):
        table.add_column(column)
    for kind in ("logistic", "svm"):
        counts = np.zeros(3)
        for seed in range(simulations):
            scores = noise_probe(kind, seed)
            counts[0] += max(i.low for i in scores.in_layer) > scores.chance
            counts[1] += scores.beats_chance
            counts[2] += scores.comparison.p <= 0.05
        table.add_row(kind, *(percent(c / simulations) for c in counts))
    return table


def noise_probe(kind: str, seed: int) -> ProbeScores:
    """What `BackdoorProbe.fit(...).scores` gives on features of noise: the same classifiers, split and null."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(LAYERS, 2 * PAIRS, WIDTH, generator=rng)
    labels = torch.arange(2 * PAIRS) >= PAIRS
    order = torch.randperm(PAIRS, generator=rng)
    cut = round(0.6 * PAIRS), round(0.8 * PAIRS)
    train, held, test = (torch.cat([part, part + PAIRS]) for part in order.tensor_split(cut))
    fitted = fit_classifiers(kind, features, labels, train=train, validation=held, seed=seed)
    null = RandomDirections.fit(features, labels, train=train, n_random=39, seed=seed)

    def called(part: torch.Tensor) -> torch.Tensor:
        return torch.stack([fitted.predict(i, x[part]) for i, x in enumerate(features)])

    own = called(test)
    origin = Fingerprint("noise", None, None, "float32", "", "", None, {})
    return ProbeScores(
        fingerprint=origin,
        predicted=own[:, None].expand(-1, LAYERS, -1),
        labels=labels[test],
        pair=test % PAIRS,
        random_accuracy=null.accuracy(features[:, test], labels[test]),
        validation_right=called(held) == labels[held],
        random_validation=null.accuracy(features[:, held], labels[held]),
        directions="isotropic",
        n_train=len(train),
        classifier=kind,
        paper=False,
        generation_prompt=True,
        trained_on=origin,
    )


def means(simulations: int) -> Table:
    """Coverage of means; GitHub's table syntax, for the docs."""
    table = Table(title=f"Coverage of 95 % intervals of means, {simulations} simulations")
    for column in ("data", "method", *(f"n={n}" for n in SIZES)):
        table.add_column(column)
    for name, (draw, truth) in MEANS.items():
        for method in METHODS:
            row = []
            for n in SIZES:
                rng, hits = np.random.default_rng(n), 0
                for seed in range(simulations):
                    x = draw(rng, n)
                    if x.min() == x.max():
                        continue  # every method gives this one point
                    found = bootstrap_mean(x, n_resamples=999, seed=seed, method=method)
                    hits += found.low - 1e-12 <= truth <= found.high + 1e-12
                row.append(f"{hits / simulations:.3f}"[1:])
            table.add_row(name, method, *row)
    return table


def pairs(simulations: int) -> Table:
    """Coverage of rates of prompts that come in pairs."""
    table = Table(title=f"Coverage of 95 % intervals of a rate of .8, {simulations} simulations")
    for column in ("pairs", "pairs of one luck", "wilson, prompts", "by pairs"):
        table.add_column(column)
    for n in (4, 12, 40):
        for shared in (0.0, 0.5, 1.0):
            rng = np.random.default_rng(n)
            one, two = rng.random((2, simulations, n)) < 0.8
            right = np.concatenate([one, np.where(rng.random((simulations, n)) < shared, one, two)], axis=1)
            low, high = clustered_ends(right, np.tile(np.arange(n), 2))
            plain = {k: wilson(k, 2 * n) for k in range(2 * n + 1)}
            naive = np.mean([plain[int(k)].low <= 0.8 <= plain[int(k)].high for k in right.sum(1)])
            table.add_row(
                str(n),
                percent(shared),
                f"{naive:.3f}"[1:],
                f"{((low <= 0.8) & (high >= 0.8)).mean():.3f}"[1:],
            )
    return table


def percent(share: float) -> str:
    """To a tenth of a percent."""
    return f"{100 * share:.1f} %"


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tenth of the simulations")
    parser.add_argument("--only", choices=["units", "probe", "means", "pairs"], help="one table")
    args = parser.parse_args()
    console, sizes = Console(width=110), {units: 400, probe: 400, means: 4000, pairs: 20_000}
    torch.set_num_threads(1)
    for table, simulations in sizes.items():
        if args.only in (None, table.__name__):
            start = time.perf_counter()
            console.print(table(simulations // 10 if args.small else simulations))
            console.print(f"{time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
