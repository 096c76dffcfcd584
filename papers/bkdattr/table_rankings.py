"""How alike four rankings of heads are, and what ablating the heads of each one does. No forward pass."""

from collections.abc import Sequence

from papers.bkdattr.ablation_units import MEAN, ZERO
from papers.bkdattr.attribution_units import PAPER, RANKINGS
from papers.bkdattr.ranking import compare, split_half
from papers.bkdattr.study import Study
from papers.bkdattr.wording import large_k, small_k
from papers.paper_table import Cell, PaperTable


def localise(found: Sequence[Study]) -> PaperTable:
    """Four rankings: how alike they are, and what ablating each one's heads does."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        few, many = small_k(s), large_k(s)
        paper = s.choices.rankings[PAPER]
        for name in RANKINGS:
            row, ranking = f"{s.name}, {name}", s.choices.rankings[name]
            said = s.table_1 if name == PAPER else s.by_ranking[name]
            if name != PAPER:
                cells[row, "shared, fewer"] = Cell(compare(paper, ranking, few))
                cells[row, "shared, more"] = Cell(compare(paper, ranking, many))
                cells[row, "rank correlation"] = Cell(compare(paper, ranking))
            cells |= {
                (row, "own halves"): Cell(text=f"{split_half(ranking, few):.2f}"),
                (row, "zero, fewer"): Cell(said.rate("triggered", f"{ZERO} {few}")),
                (row, "zero, more"): Cell(said.rate("triggered", f"{ZERO} {many}")),
                (row, "mean, fewer"): Cell(said.rate("triggered", f"{MEAN} {few}")),
                (row, "agreement"): Cell(said.agreement(f"{MEAN} {few}")),
            }
    few, many = small_k(found[0]), large_k(found[0])
    columns = ["shared, fewer", "shared, more", "rank correlation", "own halves"]
    columns += ["zero, fewer", "zero, more", "mean, fewer", "agreement"]
    shown = [c.replace("fewer", f"{few} heads").replace("more", f"{many} heads") for c in columns]
    renamed = {(r, shown[columns.index(c)]): cell for (r, c), cell in cells.items()}
    return PaperTable.of(
        "bkdattr-rankings",
        "Four rankings of heads: likeness to the paper's, and payload rates with their heads ablated",
        renamed,
        columns=shown,
        over=f"rankings: n={found[0].sizes.n_heads} selection pairs; rates: n={found[0].sizes.n} held-out pairs",
        corner="organism, ranking",
        note=(
            "Shared: share of the top heads that the paper's ranking (whole target, triggered mean) has too; intervals over "
            f'prompts drawn anew for both. "Own halves": share of the top {few} that random halves of the prompts have in '
            "common. Zero: at the last prompt token; mean: clean means at all tokens. Agreement, as in Table 1, of clean "
            f"answers under mean ablation of {few}."
        ),
    )
