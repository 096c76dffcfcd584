"""Table XII: causal patching between p+p and p+t, every module by itself, over the seeds of both toys.

The paper shows the toys with three sentiments; those with two are an extra. Cost: per toy twelve patched runs of its pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bkdinterp.methods import Attribution
from bkdinterp.stats import Interval, bootstrap_mean
from papers.lamparth.published import MODULES, TABLE_XII
from papers.lamparth.toy_measurements import NONE, agrees
from papers.lamparth.toys import Toy, load_toys, over_seeds, sizes
from papers.paper import Job
from papers.paper_table import Cell, PaperTable

# The paper's p+t with nothing patched.
UNPATCHED = 0.23
PATCHED = "p+t with the module from p+p"
EFFECT = "indirect effect"
NOISED = "p+p with the module from p+t, effect"
Patching = Mapping[str, dict]


def patched(job: Job, toy: Toy) -> Patching:
    """The unit behind the tables: ``"denoising L2 MLP"`` and so on, and the unpatched values as ``"denoising base"``."""

    def compute() -> dict[str, Any]:
        pairs = toy.pairs("p")
        out: dict[str, Any] = {}
        for direction in ("denoising", "noising"):
            run = Attribution(toy.model, metric=toy.negativity, source="pair", direction=direction)
            for kind, found in (("MLP", run.mlps(pairs)), ("attention", run.attentions(pairs))):
                out[f"{direction} base"] = bootstrap_mean(found.base.double()).to_dict()
                for layer, effects in enumerate(found.effects.double()):
                    out[f"{direction} L{layer + 1} {kind}"] = bootstrap_mean(effects).to_dict()
        return out

    return job.unit(f"patching/{toy.name}", toy.reported(unit=1), compute)


def table_xii(job: Job) -> list[PaperTable]:
    """Three sentiments with the paper's figures, then two; each over seeds and seed by seed."""
    out = []
    for k, name in ((3, "lamparth-XII"), (2, "lamparth-XII-2")):
        units = [patched(job, toy) for toy in load_toys(job, k)]
        out += tables_of(units, k, name=name, n=sizes(job).n, paper=TABLE_XII if k == 3 else {})
    return out


def tables_of(
    units: Sequence[Patching], k: int, *, name: str, n: int, paper: Mapping[str, float]
) -> list[PaperTable]:
    """Means over seeds, and the effect of every seed; marks where there are figures."""
    before = _before(units)
    figure = UNPATCHED if paper else None
    same = None if figure is None else agrees(before.estimate, figure)
    cells = {(NONE, PATCHED): Cell.judge(before, figure, agrees=same, tolerance=0.005)}
    for m in MODULES:
        effect, after = _pooled(units, f"denoising {m}"), _after(units, m)
        figure = paper.get(m)
        if figure is None:
            cells[m, PATCHED], cells[m, EFFECT] = Cell(after), Cell(effect)
        else:
            same = agrees(after.estimate, figure, before.estimate, UNPATCHED)
            cells[m, PATCHED] = Cell.judge(after, figure, agrees=same, tolerance=0.005)
            cells[m, EFFECT] = Cell.judge(effect, figure - UNPATCHED, agrees=same, tolerance=0.005)
        cells[m, NOISED] = Cell(_pooled(units, f"noising {m}"))
    over = f"{len(units)} seeds, {n} prompts each" if len(units) > 1 else f"seed 0, n={n} prompts"
    title = f"Table XII{'' if paper else ', not in the paper'}: causal patching, {k} sentiments"
    main = PaperTable.of(name, title, cells, corner="patched", over=over)
    seeds = {}
    for seed, unit in enumerate(units):
        seeds[f"seed {seed}", "p+t unpatched"] = Cell(Interval.from_dict(unit["denoising base"]))
        for m in MODULES:
            seeds[f"seed {seed}", m] = Cell(Interval.from_dict(unit[f"denoising {m}"]))
    return [
        main,
        PaperTable.of(
            f"{name}-seeds",
            f"Causal patching, {k} sentiments: indirect effect of every module in every seed",
            seeds,
            over=f"n={n} prompts",
        ),
    ]


def _pooled(units: Sequence[Patching], key: str) -> Interval:
    """Over seeds; with one seed over its prompts."""
    if len(units) == 1:
        return Interval.from_dict(units[0][key])
    return over_seeds([unit[key]["estimate"] for unit in units])


def _before(units: Sequence[Patching]) -> Interval:
    return _share(_pooled(units, "denoising base"))


def _after(units: Sequence[Patching], module: str) -> Interval:
    """The share under the patch: each seed's effect added to what it has unpatched."""
    key = f"denoising {module}"
    if len(units) == 1:
        effect, base = Interval.from_dict(units[0][key]), units[0]["denoising base"]["estimate"]
        low, high = base + effect.low, base + effect.high
        return _share(Interval(base + effect.estimate, low, high, effect.n, effect.method))
    return _share(over_seeds([u["denoising base"]["estimate"] + u[key]["estimate"] for u in units]))


def _share(x: Interval) -> Interval:
    """Student's interval, cut to what a share can be."""
    return Interval(x.estimate, max(0.0, x.low), min(1.0, x.high), x.n, x.method)
