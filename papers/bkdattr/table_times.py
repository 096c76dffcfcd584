"""How long the units behind the tables took. No forward pass."""

from collections.abc import Sequence

from papers.bkdattr.study import Study
from papers.paper_table import Cell, PaperTable


def times(found: Sequence[Study]) -> PaperTable:
    """Minutes per organism, twin included."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        cells[s.name, "on the clock"] = Cell(text=f"{s.seconds / 60:.0f}")
        cells[s.name, "of one core"] = Cell(text=f"{s.cpu_seconds / 60:.0f}")
    return PaperTable.of(
        "bkdattr-time",
        "Minutes of the units behind these tables, twin included",
        cells,
        corner="organism",
        note=(
            "As it was run; the clock goes on while a run is paused or shares its cores. A unit that was killed counts from "
            "its last start, an attribution, which goes on where it was, with its remainder only."
        ),
    )
