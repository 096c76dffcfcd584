"""The probe's tables: accuracy and transfer between layers (ICLA), and what fires the organism's probe. No forward pass."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from papers.bkdattr.probe_units import SHOWN
from papers.bkdattr.published import PROBE
from papers.bkdattr.study import Study
from papers.bkdattr.wording import counts
from papers.paper_table import Cell, PaperTable


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


def _transfer(icla: Float[Tensor, "layer layer"], *, later: bool) -> float:
    """Mean accuracy above, or below, the diagonal, layer 0 left out."""
    part = icla[1:, 1:].triu(1) if later else icla[1:, 1:].tril(-1)
    n = len(part)
    return float(part.sum() / max(1, n * (n - 1) // 2))
