"""Table II: the logit lens, what each module alone says on p+t. Cost: one forward per batch of prompts."""

from collections.abc import Mapping
from typing import Any

from bkdinterp.methods import logit_lens
from bkdinterp.stats import Interval
from papers.lamparth.published import TABLE_II
from papers.lamparth.toys import REPORT, TOP_K, load_toy
from papers.paper import Job
from papers.paper_table import Cell, PaperTable


def table_ii(job: Job) -> PaperTable:
    """Logit lens on p+t, seed 0 of the toys with three sentiments."""
    toy = load_toy(job, 3, 0)

    def compute() -> dict[str, Any]:
        language = toy.organism.language
        vocabularies = {"negative": language.ids("n"), "positive": language.ids("p")}
        sites = {row: _lens_site(row) for row in TABLE_II}
        out: dict[str, Any] = {row: {} for row in sites}
        for token, where in (("t", (-1,)), ("p", (-2,))):
            lens = logit_lens(
                toy.model,
                toy.prompts("pt", REPORT),
                list(sites.values()),
                k=TOP_K,
                vocabularies=vocabularies,
                where=where,
            )
            for row, site in sites.items():
                for v in vocabularies:
                    out[row][f"{token} {v}"] = lens.interval(site, v).to_dict()
        return out

    found = job.unit(f"lens/{toy.name}", toy.reported(unit=1), compute)
    cells = {}
    for row, (at_t, at_p) in TABLE_II.items():
        for token, figures in (("t", at_t), ("p", at_p)):
            for i, v in enumerate(("negative", "positive")):
                ours = Interval.from_dict(found[row][f"{token} {v}"])
                figure = None if figures is None else figures[i]
                same = None if figures is None else _larger(found[row], token) == (figures[0] > figures[1])
                column = f"{'trigger' if token == 't' else 'p'} token, {v}"
                cells[row, column] = Cell.judge(ours, figure, agrees=same, tolerance=0.005)
    return PaperTable.of(
        "lamparth-II",
        "Table II: what each module alone says on p+t, 3 sentiments",
        cells,
        corner="read",
        over=f"seed 0, n={toy.sizes.n} prompts",
        note="Shares of negative and of positive words among the top 10; ~ where the larger of the two is the paper's.",
    )


def _lens_site(row: str) -> str:
    if row == "whole model":
        return "L2.resid_post"
    layer = int(row[1]) - 1
    return f"L{layer}.mlp_out" if row.endswith("MLP") else f"L{layer}H{int(row.split()[-1]) - 1}"


def _larger(found: Mapping[str, dict], token: str) -> bool:
    return found[f"{token} negative"]["estimate"] > found[f"{token} positive"]["estimate"]
