"""Tables V to VII: what varying the tuned factors of a replacement does; of MLPs (V, VI) and of attention (VII)."""

from itertools import product

import torch

from bkdinterp.methods import MatchScores
from papers.lamparth.factor_notes import movement
from papers.lamparth.pcp_units import ATTENTION, L1, L3, Spec, fit, shifted, tuned, varied
from papers.lamparth.published import TABLE_III, TABLE_V, TABLE_VI, TABLE_VII
from papers.lamparth.toy_measurements import NONE, Measured, edits_table, value
from papers.lamparth.toys import Toy, load_toy, load_toys, sizes
from papers.paper import Job
from papers.paper_table import PaperTable


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
