"""Tables III to VII, XIII and XIV: PCP replacements of MLPs and attention, and what varying their factors does."""

from collections.abc import Mapping, Sequence
from itertools import product

import torch

from bkdinterp.methods import MatchScores
from bkdinterp.reproduce._paper import Job
from bkdinterp.reproduce._table import Cell, PaperTable
from bkdinterp.reproduce.lamparth._factors import movement, said_of, shown_factors
from bkdinterp.reproduce.lamparth._figures import (
    TABLE_III,
    TABLE_IV,
    TABLE_V,
    TABLE_VI,
    TABLE_VII,
    TABLE_XIII,
    TABLE_XIV,
)
from bkdinterp.reproduce.lamparth._measured import (
    NONE,
    SAME,
    Measured,
    edits_table,
    measure,
    per_seed,
    value,
)
from bkdinterp.reproduce.lamparth._pcp import ATTENTION, L1, L3, Spec, edit_of, fit, shifted, specs, tuned
from bkdinterp.reproduce.lamparth._toys import KINDS, Toy, load_toy, load_toys, sizes
from bkdinterp.stats import wilson

Row = Sequence[float]


def replaced(job: Job, toy: Toy, chosen: Mapping[str, Spec]) -> Measured:
    """Every replacement with its tuned factors, measured on the other draw of prompts."""
    factors = {column: tuned(job, toy, spec)["factors"] for column, spec in chosen.items()}
    settings = toy.reported(unit=2, n_loss=toy.sizes.n_loss, specs=[s.name for s in chosen.values()])
    return job.unit(
        f"replaced/{toy.name}/{next(iter(chosen.values())).name}",
        settings | {"factors": factors},
        lambda: measure(
            toy, {column: edit_of(toy, spec, factors[column]) for column, spec in chosen.items()}
        ),
    )


def recovers(found: Measured, edit: str, kinds: Sequence[str]) -> bool:
    """Whether every set lies within .05 of the unedited model."""
    return all(abs(value(found, edit, k) - value(found, NONE, k)) <= SAME + 1e-9 for k in kinds)


def table_iii(job: Job) -> list[PaperTable]:
    """Rank 1, two sentiments."""
    return _replacements(job, 2, "III", TABLE_III)


def table_iv(job: Job) -> list[PaperTable]:
    """Rank 2, three sentiments."""
    return _replacements(job, 3, "IV", TABLE_IV)


def _replacements(
    job: Job, k: int, number: str, paper: Mapping[str, Mapping[str, float]]
) -> list[PaperTable]:
    chosen, n = specs(k), sizes(job).n
    toys = list(load_toys(job, k))
    units = [replaced(job, toy, chosen) for toy in toys]
    studies = {c: [tuned(job, toy, spec) for toy in toys] for c, spec in chosen.items()}

    def counted(kinds: Sequence[str]) -> str:
        hits = {c: sum(recovers(unit, c, kinds) for unit in units) for c in chosen}
        return ", ".join(f"{c} {hit} of {len(units)}" for c, hit in hits.items())

    columns = {c: c for c in paper}
    main = edits_table(
        units,
        columns,
        paper,
        k,
        name=f"lamparth-{number}",
        title=f"Table {number}: MLPs replaced by rank {k - 1}, {k} sentiments",
        n=n,
        note=f"All rows within .05 of the unedited model, seeds: {counted(KINDS[k])}. p+t alone: {counted(['pt'])}.",
    )
    seeds = per_seed(
        units,
        {c: c for c in (NONE, *chosen)},
        ["pt"],
        name=f"lamparth-{number}-seeds",
        title=f"Table {number}: p+t of every seed",
        n=n,
    )
    return [main, seeds, _why(k, number, units, studies)]


def _why(
    k: int, number: str, units: Sequence[Measured], studies: Mapping[str, Sequence[Mapping]]
) -> PaperTable:
    """Which replacement recovers what, and how much of the module's output follows from its input."""
    cells = {}
    for column, found in studies.items():
        hits = sum(recovers(unit, column, KINDS[k]) for unit in units)
        worst = [max(abs(value(u, column, x) - value(u, NONE, x)) for x in KINDS[k]) for u in units]
        cells[column, "seeds with all rows within .05"] = Cell(wilson(hits, len(units)))
        cells[column, "largest gap of a row, median seed"] = Cell(
            text=f"{sorted(worst)[len(worst) // 2]:.2f}"
        )
        cells[column, "factors, by seed"] = Cell(text=", ".join(shown_factors(s["factors"]) for s in found))
        cells[column, "objective at its best, by seed"] = Cell(
            text=", ".join(f"{s['value']:.2g}" for s in found)
        )
        shares = [share for s in found for share in s["explained"].values()]
        cells[column, "variance explained"] = Cell(text=f"{min(shares):.2f} to {max(shares):.2f}")
        linear = [min(abs(r) for site in s["linear"].values() for r in site) for s in found]
        cells[column, "correlation of e.h with e.m(h), by seed"] = Cell(
            text=", ".join(f"{r:.2f}" for r in linear)
        )
    rows = [s["factors"] for found in studies.values() for s in found]
    return PaperTable.of(
        f"lamparth-{number}-why",
        f"Table {number}: what was found, paper's definition and two variants",
        cells,
        over=f"{len(units)} seeds" if len(units) > 1 else "seed 0",
        note="A factor rescales the input's own coordinate along e; where the correlation (its size, of several "
        f"directions the smallest) is low, the input's coordinate does not tell the output's.{said_of(rows)}",
    )


def varied(job: Job, toy: Toy, spec: Spec, multiples: Mapping[str, Row | float]) -> Measured:
    """The tuned factors times something."""
    factors = torch.tensor(tuned(job, toy, spec)["factors"], dtype=torch.float64)
    settings = toy.reported(unit=2, n_loss=toy.sizes.n_loss, spec=spec.name, factors=factors.tolist())

    def compute() -> Measured:
        pcp, shift = fit(toy, spec)
        edits = {
            column: shifted(pcp.replace(factors * torch.as_tensor(m, dtype=torch.float64)), shift)
            for column, m in multiples.items()
        }
        return measure(toy, edits)

    shown = {name: list(m) if isinstance(m, Sequence) else m for name, m in multiples.items()}
    return job.unit(f"varied/{toy.name}/{spec.name}", settings | {"multiples": shown}, compute)


def table_v(job: Job) -> list[PaperTable]:
    """One factor varied, two sentiments; for the L1 MLP as in the paper, and for the form that recovers most."""
    paper = {f"x {f:g}": f for f in (0.0, 0.6, 0.75, 0.8, 1.0, 1.1, 1.5)}
    out = []
    for form, spec in (
        ("L1 MLP", Spec(L1, 1)),
        ("L1 MLP, mean added back", Spec(L1, 1, "mean")),
        ("L3 MLP", Spec(L3, 1)),
    ):
        toys = list(load_toys(job, 2))
        factors = [tuned(job, toy, spec)["factors"] for toy in toys]
        units = [varied(job, toy, spec, paper) for toy in toys]
        columns = list(paper)
        suffix = "" if form == "L1 MLP" else "-" + form.lower().replace(", ", "-").replace(" ", "-")
        out.append(
            edits_table(
                units,
                {NONE: NONE, **{c: c for c in columns}},
                ({NONE: TABLE_III[NONE]} | TABLE_V) if form == "L1 MLP" else {},
                2,
                name=f"lamparth-V{suffix}",
                title=f"Table V: the tuned factor times x, {form}, 2 sentiments",
                n=sizes(job).n,
                note=movement(factors, [[value(u, c, "pt") for c in columns] for u in units]),
            )
        )
    return out


MULTIPLES = (-2.0, -1.2, -0.5, 0.0, 0.5, 1.0, 2.0)


def suppressing(job: Job, toy: Toy, spec: Spec) -> tuple[list[float], float]:
    """Of a grid of multiples with a negative one among them: that which suppresses n+n and p+n most, p+p kept low.

    Chosen on the fitting prompts; the value is the sum of squares reached.
    """
    factors = torch.tensor(tuned(job, toy, spec)["factors"], dtype=torch.float64)
    settings = toy.settings(unit=2, spec=spec.name, factors=factors.tolist(), multiples=list(MULTIPLES))

    def compute() -> list:
        pcp, shift = fit(toy, spec)
        sets = {name: toy.fit_sets[name] for name in ("pp", "nn", "pn")}
        goal = MatchScores.of(toy.model, sets, toy.negativity, wanted=dict.fromkeys(sets, 0.0))
        grid = [row for row in product(MULTIPLES, repeat=len(factors)) if min(row) < 0]
        edits = [
            shifted(pcp.replace(factors * torch.tensor(row, dtype=torch.float64)), shift) for row in grid
        ]
        found = goal.many(edits)
        best = min(range(len(grid)), key=lambda i: (round(found[i], 6), max(map(abs, grid[i]))))
        return [list(grid[best]), found[best]]

    row, reached = job.unit(f"suppressing/{toy.name}/{spec.name}", settings, compute)
    return row, reached


def table_vi(job: Job) -> list[PaperTable]:
    """Two factors varied, three sentiments: the paper's pair, and the best with a negative factor."""
    spec, units, rows = Spec(L1, 2), [], []
    toys = list(load_toys(job, 3))
    for toy in toys:
        row, _ = suppressing(job, toy, spec)
        rows.append(row)
        units.append(
            varied(job, toy, spec, {"x (1, 1)": [1.0, 1.0], "x (-1.2, 0.5)": [-1.2, 0.5], "best": row})
        )
    hits = {c: sum(_suppressed(u, c) for u in units) for c in ("x (-1.2, 0.5)", "best")}
    found = "; ".join(
        f"seed {toy.seed}: ({', '.join(f'{x:g}' for x in row)})" for toy, row in zip(toys, rows)
    )
    main = edits_table(
        units,
        {NONE: NONE, "x (1, 1)": "x (1, 1)", "x (-1.2, 0.5)": "x (-1.2, 0.5)", "best negative pair": "best"},
        TABLE_VI,
        3,
        name="lamparth-VI",
        title="Table VI: both factors varied, L1 MLP, 3 sentiments",
        n=sizes(job).n,
        note=f"n-outputs are suppressed (n+n and p+n at most .10) in {hits['x (-1.2, 0.5)']} of {len(units)} seeds with the "
        f"paper's pair and in {hits['best']} with the best pair of a grid that has a negative factor ({found}), chosen on "
        "other prompts.",
    )
    return [main]


def _suppressed(found: Measured, edit: str) -> bool:
    return max(value(found, edit, "nn"), value(found, edit, "pn")) <= 0.10


def table_vii(job: Job) -> PaperTable:
    """Attention of L2, rank 4, two settings of the factors, three sentiments."""
    toy = load_toy(job, 3, 0)
    unit = varied(job, toy, ATTENTION["L2 attention"], {"x 1": 1.0, "x 2": 2.0, "x 0.5": 0.5})
    return edits_table(
        [unit],
        {c: c for c in (NONE, "x 1", "x 2", "x 0.5")},
        TABLE_VII,
        3,
        name="lamparth-VII",
        title="Table VII: L2 attention replaced by rank 4, factors varied, 3 sentiments",
        n=toy.sizes.n,
        note="The paper's two settings are not known; doubled and halved factors stand for them.",
    )


def table_xiii(job: Job) -> PaperTable:
    """Attention replaced, two sentiments."""
    return _attention(job, 2, "XIII", TABLE_XIII)


def table_xiv(job: Job) -> PaperTable:
    """Attention replaced, three sentiments."""
    return _attention(job, 3, "XIV", TABLE_XIV)


def _attention(job: Job, k: int, number: str, paper: Mapping[str, Mapping[str, float]]) -> PaperTable:
    toy = load_toy(job, k, 0)
    unit = replaced(job, toy, ATTENTION)
    return edits_table(
        [unit],
        {c: c for c in paper},
        paper,
        k,
        name=f"lamparth-{number}",
        title=f"Table {number}: attention replaced by rank 4, {k} sentiments",
        n=toy.sizes.n,
    )
