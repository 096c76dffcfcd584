"""The paper's tables: behaviour, probe, Table 2; ours with intervals beside its figures. No forward pass."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from bkdinterp.reproduce._table import Cell, PaperTable
from bkdinterp.reproduce.bkdattr._probe import SHOWN
from bkdinterp.reproduce.bkdattr._published import LLAMA, PROBE, QWEN, VECTOR
from bkdinterp.reproduce.bkdattr._study import Study
from bkdinterp.reproduce.bkdattr._table_1 import AGREEMENT, OUTCOMES, extreme_text
from bkdinterp.reproduce.bkdattr._vector import DIRECTIONS, RANDOM_DIRECTION, RANDOM_HEADS
from bkdinterp.reproduce.bkdattr._wording import counts


def probes(found: Sequence[Study]) -> PaperTable:
    """In-layer accuracy at the layer that the selection split chooses; the twin's own probe beside it."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        for kind, p in s.choices.probes.items():
            row, layer, twins = f"{s.name}, {kind.upper()}", p.best("organism"), p.best("twin")
            own = p.accuracy("organism", layer)
            best = max(p.unit["organism"]["right"]) / p.unit["organism"]["n"]
            cells |= {
                (row, "best layer"): Cell(text=str(layer)),
                (row, "organism"): Cell.judge(own, PROBE, agrees=own.estimate >= PROBE),
                (row, "best on held-out"): Cell(text=f"{best:.2f}"),
                (row, "layer 0"): Cell(p.accuracy("organism", 0)),
                (row, "twin's own"): Cell(p.accuracy("twin", twins), text=f"at {twins}"),
                (row, "random directions"): Cell(text=f"{p.random_best('organism', layer):.2f}"),
                (row, "to later layers"): Cell(text=f"{_transfer(p.icla('organism'), later=True):.2f}"),
                (row, "to earlier layers"): Cell(text=f"{_transfer(p.icla('organism'), later=False):.2f}"),
            }
    n = counts(next(iter(s.choices.probes.values())).unit["organism"]["n"] for s in found)
    return PaperTable.of(
        "bkdattr-probe",
        "Probe: in-layer accuracy, and ICLA",
        cells,
        over=f"{n} held-out prompts",
        corner="organism, classifier",
        note=(
            "The best layer is chosen by test accuracy on the selection split, the accuracy there is measured on held-out "
            'prompts; "best on held-out" is the largest of all layers there, so chosen on what it reports, as in the '
            'paper (at least .95). "Random directions": the best of 1,000 at that layer. "To later layers": mean ICLA of '
            "probes tested on layers above their own, layer 0 left out; to earlier ones likewise. Figures: "
            "`icla-*.png`, `probe.png`."
        ),
    )


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


def fires(found: Sequence[Study]) -> PaperTable:
    """What share of which prompts the organism's probe calls triggered, from early layers to late ones."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        for kind, p in s.choices.probes.items():
            best = p.best("organism")
            for layer in sorted({best, *(round(q * (p.n_layers - 1) / 4) for q in range(1, 5))}):
                row = f"{s.name}, {kind.upper()}, layer {layer}{' (best)' if layer == best else ''}"
                for shown in SHOWN:
                    cells[row, shown] = Cell(p.fires(shown, layer))
    return PaperTable.of(
        "bkdattr-fires",
        "Share of prompts that the organism's probe calls triggered, %",
        cells,
        columns=SHOWN,
        over=counts(next(iter(s.choices.probes.values())).fires(SHOWN[0], 0).n for s in found)
        + " held-out prompts of each kind",
        corner="probe",
        percent=True,
        digits=0,
        note=(
            "At the layer chosen on the selection split, and at four depths. The twin saw the trigger in training too, always "
            'with clean answers. "Near": near-triggers that neither saw. A probe of the backdoor would fire on the first '
            "column only; one of the trigger's text on the twin's triggered prompts as well. A probe that fires on nothing of "
            "the twin's may merely not know the twin's activations: far from its examples an RBF machine answers with its "
            "bias. Near-triggers on the organism itself do not have this flaw. All layers: `fires-*.png`."
        ),
    )


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


def nulls(s: Study, name: str) -> list[str]:
    """Conditions of a kind of null."""
    return [f"{name} #{i}" for i in range(s.sizes.vector_nulls)]


def _transfer(icla: Float[Tensor, "layer layer"], *, later: bool) -> float:
    """Mean accuracy above, or below, the diagonal, layer 0 left out."""
    part = icla[1:, 1:].triu(1) if later else icla[1:, 1:].tril(-1)
    n = len(part)
    return float(part.sum() / max(1, n * (n - 1) // 2))
