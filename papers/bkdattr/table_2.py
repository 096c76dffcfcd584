"""The paper's Table 2: the vector at its best layer, with its nulls, beside the paper's figures. No forward pass."""

from collections.abc import Sequence

from papers.bkdattr.published import LLAMA, QWEN, VECTOR
from papers.bkdattr.study import Study
from papers.bkdattr.table_1 import AGREEMENT, OUTCOMES, extreme_text
from papers.bkdattr.vector_units import DIRECTIONS, RANDOM_DIRECTION, RANDOM_HEADS
from papers.bkdattr.wording import counts
from papers.paper_table import Cell, PaperTable


def vector_rates(found: Sequence[Study]) -> PaperTable:
    """Table 2: the vector at its best layer, with its nulls."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        for (kind, direction), said in s.table_2.items():
            sign, side = DIRECTIONS[direction]
            row, layer = f"{s.name}, {kind}, {direction}", s.choices.layer(kind, direction)
            before, after = said.rate(side, "none"), said.rate(side, "vector")
            moved = after.low > before.high if sign > 0 else after.high < before.low
            paper = VECTOR[direction] if kind == "raw" and s.name == "refusal" else None
            cells |= {
                (row, "layer"): Cell(text=str(layer)),
                (row, "unedited"): Cell(before),
                (row, "with the vector"): Cell.judge(
                    after, paper, agrees=moved if paper is not None else None
                ),
                (row, "outcomes"): Cell(text=said.shares(side, "vector")),
            }
            for column, kind_of_null in (
                ("random heads", RANDOM_HEADS),
                ("random directions", RANDOM_DIRECTION),
            ):
                names = nulls(s, kind_of_null)
                cells[row, column] = Cell(
                    said.rate(side, *names), text=extreme_text(said, side, names, highest=sign > 0)
                )
            if direction == "add":
                cells[row, "on the twin"] = Cell(s.twin.rate("clean", f"add {kind}"))
            else:
                cells[row, "agreement on clean"] = Cell(said.agreement("vector"))
                cells[row, "agreement, unedited"] = Cell(said.agreement("none"))
    columns = ["layer", "unedited", "with the vector", "outcomes", "random heads", "random directions"]
    columns += ["on the twin", "agreement on clean", "agreement, unedited"]
    n = counts(s.table_2["raw", "add"].rate("clean", "vector").n for s in found)
    return PaperTable.of(
        "bkdattr-2",
        "Table 2: payload rate with the vector at one layer, %",
        cells,
        columns=columns,
        over=f"{n} held-out prompts; nulls: {found[0].sizes.vector_nulls} of each kind, n={found[0].sizes.n_null}",
        corner="organism, vector, direction",
        percent=True,
        digits=0,
        note=(
            "Added to clean prompts, subtracted from triggered ones. Nulls: pooled, intervals count prompts; in brackets, the "
            f"one that moved the rate the most. {AGREEMENT}. Raw: the {found[0].sizes.k_vector} heads of the "
            "paper's ranking, their mean over triggered prompts; difference: heads and mean of triggered minus clean. "
            "Layer: of every third one, best on the selection split; of equals, when subtracting, the one whose answers agree "
            "best with the references. Of the paper's Table 2 only two figures for the "
            f"fixed output were obtained, through the replication: subtracted, {LLAMA} below 5 at layer 20 and {QWEN} "
            f"about 25; added, about 100. Outcomes: {OUTCOMES}. Fig. 4: `fig4.png`."
        ),
    )


def nulls(s: Study, name: str) -> list[str]:
    """Conditions of a kind of null."""
    return [f"{name} #{i}" for i in range(s.sizes.vector_nulls)]
