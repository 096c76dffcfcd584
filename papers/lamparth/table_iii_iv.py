"""Tables III and IV: MLPs replaced by rank 1 and rank 2, and what decides which replacement recovers what."""

from collections.abc import Mapping, Sequence

from bkdinterp.stats import wilson
from papers.lamparth.factor_notes import said_of, shown_factors
from papers.lamparth.pcp_units import replaced, specs, tuned
from papers.lamparth.published import TABLE_III, TABLE_IV
from papers.lamparth.toy_measurements import NONE, SAME, Measured, edits_table, per_seed, value
from papers.lamparth.toys import KINDS, load_toys, sizes
from papers.paper import Job
from papers.paper_table import Cell, PaperTable


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
