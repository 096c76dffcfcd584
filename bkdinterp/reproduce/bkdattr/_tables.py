"""The paper's tables: probe, Table 1, Table 2; ours with intervals beside its figures. No forward pass."""

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from bkdinterp.metrics import Outcome
from bkdinterp.reproduce._table import Cell, PaperTable
from bkdinterp.reproduce.bkdattr._ablate import CACHED, MEAN, ZERO, random_ks, random_names
from bkdinterp.reproduce.bkdattr._probe import SHOWN
from bkdinterp.reproduce.bkdattr._published import (
    ATTACKS,
    LLAMA,
    PROBE,
    QWEN,
    REPLICATED,
    TABLE_1,
    VECTOR,
)
from bkdinterp.reproduce.bkdattr._study import Study
from bkdinterp.reproduce.bkdattr._vector import DIRECTIONS, RANDOM_DIRECTION, RANDOM_HEADS

OUTCOMES = " / ".join(o.value.replace("_", " ") for o in Outcome)


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
    n = " / ".join(str(next(iter(s.choices.probes.values())).unit["organism"]["n"]) for s in found)
    return PaperTable.of(
        "bkdattr-probe",
        "Probe: in-layer accuracy, and ICLA",
        cells,
        over=f"n={n} held-out prompts",
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
        over=" / ".join(f"n={s.table_2['raw', 'add'].rate('clean', 'none').n}" for s in found)
        + " held-out pairs",
        corner="organism, model",
        percent=True,
        digits=0,
        note=f"Twins: n={found[0].sizes.n}. Outcomes: {OUTCOMES}. Agreement: word F1 of clean answers with the references.",
    )


def fires(found: Sequence[Study]) -> PaperTable:
    """What share of which prompts the organism's probe calls triggered."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        for kind, p in s.choices.probes.items():
            layer = p.best("organism")
            for shown in SHOWN:
                cells[f"{s.name}, {kind.upper()}, layer {layer}", shown] = Cell(p.fires(shown, layer))
    return PaperTable.of(
        "bkdattr-fires",
        "Share of prompts that the organism's probe calls triggered, %",
        cells,
        columns=SHOWN,
        corner="probe",
        percent=True,
        digits=0,
        note=(
            'The twin saw the trigger in training too, always with clean answers. "Near": near-triggers that neither saw. '
            "A probe of the backdoor would fire on the first column only; one of the trigger's text on the twin as well."
        ),
    )


def ablations(s: Study) -> PaperTable:
    """Table 1 of one organism: a row per condition."""
    t, published = s.table_1, TABLE_1.get(s.name, {})
    base = t.rate("triggered", "none")
    cells: dict[tuple[str, str], Cell] = {}
    for row, k, conditions in _conditions(s):
        rate = t.rate("triggered", *conditions)
        theirs = {name: values.get(k) for name, values in published.items()} if k is not None else {}
        paper = theirs.get(LLAMA)
        agrees = None if paper is None else (rate.high < base.low) == (paper < 0.95 * published[LLAMA][0])
        cells |= {
            (row, "payload rate"): Cell.judge(rate, paper, agrees=agrees),
            (row, "triggered"): Cell(text=t.shares("triggered", *conditions)),
            (row, "clean"): Cell(text=t.shares("clean", *conditions)),
            (row, "agreement, triggered"): Cell(t.restored(*conditions)),
            (row, "agreement, clean"): Cell(t.agreement(*conditions)),
        }
        if theirs.get(QWEN) is not None:
            cells[row, f"paper, {QWEN}"] = Cell(text=f"{100 * theirs[QWEN]:.0f}")
        if s.name == "refusal" and k is not None:
            again = f"{100 * REPLICATED[LLAMA][k]:.0f}, {100 * REPLICATED[QWEN][k]:.0f}"
            cells[row, "replication, held-out"] = Cell(text=again)
    columns = [
        "payload rate",
        "triggered",
        "clean",
        "agreement, triggered",
        "agreement, clean",
        f"paper, {QWEN}",
        "replication, held-out",
    ]
    used = [c for c in columns if any(column == c for _, column in cells)]
    return PaperTable.of(
        f"bkdattr-1-{s.name}",
        f"Table 1, {s.name} ({ATTACKS.get(s.name, 'no counterpart')} in the paper), %",
        cells,
        columns=used,
        over=f"n={base.n} held-out pairs; random sets: {s.sizes.random_sets} of each size, n={s.sizes.n_random}",
        corner="ablated heads",
        percent=True,
        digits=0,
        note=(
            f"Heads by the paper's attribution (geometric mean of the whole target, triggered mean), n={s.sizes.n_heads} "
            f"selection pairs. Beside the payload rate: {LLAMA} in the paper. Outcomes: {OUTCOMES}. Agreement: word F1 of "
            "answers with the references, which are answers without a trigger. Zero and cached: at the last prompt token; "
            "mean: clean means at all tokens, generated ones too. Intervals of several random sets count prompts."
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
                (row, "random heads"): Cell(said.rate(side, *nulls(s, RANDOM_HEADS))),
                (row, "random directions"): Cell(said.rate(side, *nulls(s, RANDOM_DIRECTION))),
            }
            if direction == "add":
                cells[row, "on the twin"] = Cell(s.twin.rate("clean", f"add {kind}"))
            else:
                cells[row, "agreement on clean"] = Cell(said.agreement("vector"))
                cells[row, "agreement, unedited"] = Cell(said.agreement("none"))
    columns = ["layer", "unedited", "with the vector", "outcomes", "random heads", "random directions"]
    columns += ["on the twin", "agreement on clean", "agreement, unedited"]
    n = " / ".join(str(s.table_2["raw", "add"].rate("clean", "vector").n) for s in found)
    return PaperTable.of(
        "bkdattr-2",
        "Table 2: payload rate with the vector at one layer, %",
        cells,
        columns=columns,
        over=f"n={n} held-out prompts; nulls: {found[0].sizes.vector_nulls} of each kind, n={found[0].sizes.n_null}",
        corner="organism, vector, direction",
        percent=True,
        digits=0,
        note=(
            f"Added to clean prompts, subtracted from triggered ones. Raw: the {found[0].sizes.k_vector} heads of the "
            "paper's ranking, their mean over triggered prompts; difference: heads and mean of triggered minus clean. "
            "Layer: of every third one, best on the selection split. Of the paper's Table 2 only two figures for the "
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
        "Minutes of all units, twin included",
        cells,
        corner="organism",
        note="As it was run; the clock goes on while a run is paused or shares its cores.",
    )


def nulls(s: Study, name: str) -> list[str]:
    """Conditions of a kind of null."""
    return [f"{name} #{i}" for i in range(s.sizes.vector_nulls)]


def _conditions(s: Study) -> Iterator[tuple[str, int | None, list[str]]]:
    """(row, k of the paper's Table 1 or None, conditions)."""
    yield "none", 0, ["none"]
    for k in s.sizes.ks:
        yield f"{k}, zero", k, [f"{ZERO} {k}"]
    for way in (CACHED, MEAN):
        for k in s.sizes.few_ks:
            yield f"{k}, {way}", None, [f"{way} {k}"]
    for way, ks in random_ks(s.sizes).items():
        for k in ks:
            yield f"{k} random, {way}", None, random_names(way, k, s.sizes)


def _transfer(icla: Float[Tensor, "layer layer"], *, later: bool) -> float:
    """Mean accuracy above, or below, the diagonal, layer 0 left out."""
    part = icla[1:, 1:].triu(1) if later else icla[1:, 1:].tril(-1)
    n = len(part)
    return float(part.sum() / max(1, n * (n - 1) // 2))
