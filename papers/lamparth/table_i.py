"""Table I: mean ablation of every module.

Beside it: how often each ablation removes the trigger's effect, which pairs of modules do where none alone does, and
what the released code's faulty mean gives. Cost: about 30 scored edits per toy.
"""

from itertools import combinations

from bkdinterp.interventions import Intervention, MeanAblate, ZeroAblate
from bkdinterp.methods import Means
from bkdinterp.sites import Where
from bkdinterp.stats import Interval, wilson
from papers.lamparth.published import MODULES, SHOWN, TABLE_I
from papers.lamparth.toy_measurements import (
    HIGH,
    LOW,
    NONE,
    Measured,
    agrees,
    measure,
    per_seed,
    pooled,
    value,
)
from papers.lamparth.toys import KINDS, MEAN_KINDS, SENTIMENTS, TOP_K, Toy, load_toys, sizes
from papers.paper import Job
from papers.paper_table import Cell, PaperTable

EVERYWHERE = Where("all", generated=True)
# Fixed before the runs over seeds: an ablation removes the effect where p+t falls to what counts as near zero for the
# other rows, and it does so cleanly where n+n and p+n stay where they were.
REMOVED = LOW


def ablations(toy: Toy) -> dict[str, Intervention]:
    """Every module, every pair, all MLPs, all attention, everything; and the two other means of single modules."""
    pools = toy.pool(MEAN_KINDS)
    sites = list(MODULES.values())
    means = Means.collect(toy.model, pools, sites)
    faulty = Means.collect(toy.model, pools, sites, kind="released")
    out: dict[str, Intervention] = {
        name: MeanAblate(site, means=means, where=EVERYWHERE) for name, site in MODULES.items()
    }
    for a, b in combinations(MODULES, 2):
        out[f"{a} + {b}"] = MeanAblate([MODULES[a], MODULES[b]], means=means, where=EVERYWHERE)
    for name, chosen in _groups().items():
        out[name] = MeanAblate([MODULES[m] for m in chosen], means=means, where=EVERYWHERE)
    for name, site in MODULES.items():
        out[f"released: {name}"] = MeanAblate(site, means=faulty, where=EVERYWHERE)
        out[f"zero: {name}"] = ZeroAblate(site, where=EVERYWHERE)
    return out


def _groups() -> dict[str, list[str]]:
    return {
        "all MLPs": [m for m in MODULES if m.endswith("MLP")],
        "all attention": [m for m in MODULES if m.endswith("attention")],
        "every module": list(MODULES),
    }


def ablated(job: Job, toy: Toy) -> Measured:
    """The unit behind Table I."""
    return job.unit(
        f"ablations/{toy.name}", toy.reported(unit=1), lambda: measure(toy, ablations(toy), loss=False)
    )


def removes(found: Measured, edit: str) -> bool:
    """Whether the trigger's effect is gone."""
    return value(found, edit, "pt") <= REMOVED


def _both_remove(ours: Interval, figure: float) -> bool:
    """Table I's claim: the same ablations remove the effect, and the same do not."""
    return (ours.estimate <= REMOVED) == (figure <= REMOVED)


def cleanly(found: Measured, edit: str) -> bool:
    """Whether it is gone while negative words are still followed by negative ones."""
    return removes(found, edit) and min(value(found, edit, "nn"), value(found, edit, "pn")) >= HIGH


def table_i(job: Job) -> list[PaperTable]:
    """Mean ablation: p+t under each; how often it removes the effect; every seed; other means; pairs."""
    out = []
    for k in SENTIMENTS:
        toys = list(load_toys(job, k))
        units = [ablated(job, toy) for toy in toys]
        out += _table_i(k, units, sizes(job).n)
    return out


def _table_i(k: int, units: list[Measured], n: int) -> list[PaperTable]:
    paper, cells = TABLE_I[k], {}
    kinds = KINDS[k]
    for name in (NONE, *MODULES, *_groups()):
        figure = paper.get(name)
        ours = pooled(units, name, "pt")
        same = None
        if figure is not None:
            same = agrees(ours.estimate, figure) if name == NONE else _both_remove(ours, figure)
        cells[name, "p+t"] = Cell.judge(ours, figure, agrees=same, tolerance=0.005)
        if name != NONE:
            hits, clean = (sum(test(unit, name) for unit in units) for test in (removes, cleanly))
            cells[name, "removes"] = Cell(wilson(hits, len(units)))
            cells[name, "and leaves n+n, p+n"] = Cell(text=f"{clean} of {len(units)}")
        for kind in kinds:
            if kind != "pt":
                cells[name, SHOWN[kind]] = Cell(pooled(units, name, kind))
    hits = [m for m in MODULES if any(removes(unit, m) for unit in units)]
    note = (
        f"An ablation *removes* the effect where p+t falls to {REMOVED:.2f} or less (fixed before the runs; the share of seeds "
        "with its Wilson interval); ~ where both remove it, or neither. "
        + (
            f"Some seed's effect is removed by: {', '.join(hits)}."
            if hits
            else "No single module's ablation removes the effect on any seed."
        )
    )
    order = ["p+t", "removes", "and leaves n+n, p+n", *(SHOWN[x] for x in kinds if x != "pt")]
    over = f"{len(units)} seeds, {n} prompts each"
    main = PaperTable.of(
        f"lamparth-I-{k}",
        f"Table I, {k} sentiments: top-{TOP_K} negativity under mean ablation",
        cells,
        columns=order,
        corner="ablated",
        over=over,
        note=note,
    )
    seeds = per_seed(
        units,
        {m: m for m in (NONE, *MODULES)},
        ["pt"],
        name=f"lamparth-I-{k}-seeds",
        title=f"Table I, {k} sentiments: p+t of every seed",
        n=n,
    )
    return [main, seeds, _other_means(k, units, over), _pairs(k, units, over)]


def _other_means(k: int, units: list[Measured], over: str) -> PaperTable:
    """Pooled mean, the released code's, and zero."""
    kinds = {"pooled mean": "", "released mean": "released: ", "zero": "zero: "}
    cells = {}
    for m in MODULES:
        for heading, prefix in kinds.items():
            hits = sum(removes(unit, prefix + m) for unit in units)
            ours = pooled(units, prefix + m, "pt")
            figure = TABLE_I[k][m] if heading != "zero" else None
            cells[m, heading] = Cell.judge(
                ours,
                figure,
                agrees=None if figure is None else _both_remove(ours, figure),
                tolerance=0.005,
                text=f"removes {hits} of {len(units)}",
            )
    note = (
        "The released code's mean is nearly that of its last set of prompts, here n+p, which end in a positive word: "
        "putting it in says *positive*. The pooled mean says neither."
    )
    return PaperTable.of(
        f"lamparth-I-{k}-means",
        f"Table I, {k} sentiments, three kinds of ablation: p+t",
        cells,
        corner="ablated",
        over=over,
        note=note,
    )


def _pairs(k: int, units: list[Measured], over: str) -> PaperTable:
    """Pairs of modules, the smallest p+t first."""
    pairs = [f"{a} + {b}" for a, b in combinations(MODULES, 2)]
    pairs.sort(key=lambda p: pooled(units, p, "pt").estimate)
    cells = {}
    for p in pairs[:6]:
        hits, clean = (sum(test(unit, p) for unit in units) for test in (removes, cleanly))
        cells[p, "p+t"] = Cell(pooled(units, p, "pt"))
        cells[p, "removes"] = Cell(text=f"{hits} of {len(units)}")
        cells[p, "and leaves n+n, p+n"] = Cell(text=f"{clean} of {len(units)}")
        for kind in ("pp", "np"):
            cells[p, SHOWN[kind]] = Cell(pooled(units, p, kind))
    return PaperTable.of(
        f"lamparth-I-{k}-pairs",
        f"Pairs of modules at their pooled means, {k} sentiments: the six with the smallest p+t",
        cells,
        corner="ablated",
        over=over,
    )
