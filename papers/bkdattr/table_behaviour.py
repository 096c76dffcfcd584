"""What organism and twin do unedited. No forward pass."""

from collections.abc import Sequence

from papers.bkdattr.study import Study
from papers.bkdattr.table_1 import AGREEMENT, OUTCOMES
from papers.bkdattr.wording import counts
from papers.paper_table import Cell, PaperTable


def behaviour(found: Sequence[Study]) -> PaperTable:
    """Payload rates and clean answers of the unedited models."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        for name, said, c in (("organism", s.table_2["raw", "add"], "none"), ("twin", s.twin, "none")):
            row = f"{s.name}, {name}"
            for side in ("triggered", "clean"):
                cells[row, f"payload rate, {side}"] = Cell(said.rate(side, c))
                cells[row, f"outcomes, {side}"] = Cell(text=said.shares(side, c))
            cells[row, "agreement"] = Cell(said.agreement(c))
    return PaperTable.of(
        "bkdattr-behaviour",
        "Unedited, %",
        cells,
        over=counts(s.table_2["raw", "add"].rate("clean", "none").n for s in found) + " held-out pairs",
        corner="organism, model",
        percent=True,
        digits=0,
        note=f"Twins: n={found[0].sizes.n}. Outcomes: {OUTCOMES}. {AGREEMENT}.",
    )
