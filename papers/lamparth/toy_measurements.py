"""Edits measured on a toy, and the tables that show them: sets of prompts and the loss by edit, over seeds.

A row's mark says whether the *change* against the unedited model goes the paper's way; changes up to .05 count as none. For
the unedited model itself: whether both values are low (up to .10), high (from .90), or between.
"""

from collections.abc import Mapping, Sequence

from bkdinterp.interventions import Intervention
from bkdinterp.methods import score_edits, validation_loss
from bkdinterp.stats import Interval
from papers.lamparth.published import SHOWN
from papers.lamparth.toys import KINDS, Toy, over_seeds
from papers.paper_table import Cell, PaperTable

NONE, LOSS = "none", "loss"
SAME, LOW, HIGH = 0.05, 0.10, 0.90
# edit -> set (or "loss") -> Interval as a dict
Measured = Mapping[str, Mapping[str, dict]]


def measure(toy: Toy, edits: Mapping[str, Intervention], *, loss: bool = True) -> dict[str, dict[str, dict]]:
    """Negativity of every set and, if asked for, the validation loss: unedited and under each edit.

    Intervals are over prompts and over sentences.
    """
    scores = score_edits(toy.model, toy.sets, edits, toy.negativity)
    out: dict[str, dict[str, dict]] = {}
    for name in (NONE, *edits):
        key = None if name == NONE else name
        out[name] = {kind: scores.interval(kind, key).to_dict() for kind in toy.sets}
        if loss:
            under = None if key is None else edits[name]
            out[name][LOSS] = validation_loss(toy.model, toy.texts, under=under).interval().to_dict()
    return out


def value(found: Measured, edit: str, row: str) -> float:
    """A point estimate."""
    return float(found[edit][row]["estimate"])


def pooled(units: Sequence[Measured], edit: str, row: str) -> Interval:
    """Over seeds; with one seed over its prompts."""
    if len(units) == 1:
        return Interval.from_dict(units[0][edit][row])
    found = over_seeds([value(unit, edit, row) for unit in units])
    if row == LOSS:
        return found
    return Interval(found.estimate, max(0.0, found.low), min(1.0, found.high), found.n, found.method)


def agrees(
    ours: float, paper: float, ours_before: float | None = None, paper_before: float | None = None
) -> bool:
    """Whether a value does what the paper's does, see the module's docstring."""
    if ours_before is None or paper_before is None:
        return _band(ours) == _band(paper)
    return _direction(ours - ours_before) == _direction(paper - paper_before)


def edits_table(
    units: Sequence[Measured],
    columns: Mapping[str, str],
    paper: Mapping[str, Mapping[str, float]],
    sentiments: int,
    *,
    name: str,
    title: str,
    n: int,
    note: str = "",
    loss: bool = True,
) -> PaperTable:
    """Sets (and loss) by edits; ``columns`` maps a column's heading, as in ``paper``, to the edit's name in the units."""
    rows = [*KINDS[sentiments], *([LOSS] if loss else [])]
    cells = {}
    for column, edit in columns.items():
        for row in rows:
            ours, figure = pooled(units, edit, row), paper.get(column, {}).get(row)
            before, figure_before = pooled(units, NONE, row).estimate, paper.get(NONE, {}).get(row)
            same = None
            if figure is not None and edit != NONE:
                same = agrees(ours.estimate, figure, before, figure_before)
            elif figure is not None:
                # A loss is no share: two languages of 250 words have nearly the same.
                same = abs(ours.estimate - figure) < 0.1 if row == LOSS else agrees(ours.estimate, figure)
            shown = "validation loss" if row == LOSS else SHOWN[row]
            cells[shown, column] = Cell.judge(ours, figure, agrees=same, tolerance=0.005)
    over = f"{len(units)} seeds, {n} prompts each" if len(units) > 1 else f"seed 0, n={n} prompts"
    return PaperTable.of(name, title, cells, corner="prompts", over=over, note=note)


def per_seed(
    units: Sequence[Measured],
    columns: Mapping[str, str],
    rows: Sequence[str],
    *,
    name: str,
    title: str,
    n: int,
    note: str = "",
) -> PaperTable:
    """Every seed with its interval over prompts; no figures of the paper, which has one model."""
    cells = {}
    for seed, unit in enumerate(units):
        for row in rows:
            for column, edit in columns.items():
                heading = f"seed {seed}" if len(rows) == 1 else f"seed {seed}, {SHOWN.get(row, row)}"
                cells[heading, column] = Cell(Interval.from_dict(unit[edit][row]))
    return PaperTable.of(name, title, cells, over=f"n={n} prompts", note=note)


def _band(x: float) -> int:
    return 0 if x <= LOW else 2 if x >= HIGH else 1


def _direction(change: float) -> int:
    return 0 if abs(change) <= SAME + 1e-9 else 1 if change > 0 else -1
