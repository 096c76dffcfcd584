"""Tables VIII-XI of Lamparth & Reuel on natural language: SmolLM2-135M in place of GPT-2 medium, advertising for toxicity.

Modules and layers are chosen on the selection split, every figure is of held-out prompts. The paper's layers count from 1,
and so do the headings here. Stages: ``train`` (table XI's fine-tunes), ``tune`` (choice of modules, PCP factors), ``report``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bkdinterp.stats import Interval
from papers.lamparth.albert_case import case
from papers.lamparth.prose_case import ProseCase
from papers.lamparth.prose_units import (
    TUNED,
    WORSE,
    ablated,
    chosen,
    coherent,
    defences,
    defended,
    edited,
    factors,
    shown_layers,
)
from papers.lamparth.published import TABLE_IX, TABLE_VIII, TABLE_X, TABLE_XI, UNEDITED_VIII
from papers.paper import Job
from papers.paper_table import Cell, PaperTable

MEASURES = ("ASR", "ATR", "validation loss")
HEADINGS = {
    "none": "none",
    "mean": "mean ablation",
    "reinsert": "PCP r=2, reinserted",
    "down": "PCP r=2, tuned down",
    "reinsert-mean": "reinserted, means added back",
    "pcp": "PCP r=2",
    "surgery": "PCP r=2 and surgery",
}
NOTICE = 0.05
"""A change of a rate below this counts as none when signs are compared."""


def train(job: Job) -> None:
    """Table XI's fine-tunes."""
    train_case(job, case(job))


def tune(job: Job) -> None:
    """The two MLPs, and the scaling factors."""
    tune_case(job, case(job))


def table_viii(job: Job) -> PaperTable:
    """Mean ablation of single modules."""
    return make_viii(job, case(job))


def table_ix(job: Job) -> PaperTable:
    """PCP in the poisoned model."""
    return make_ix(job, case(job))


def table_x(job: Job) -> PaperTable:
    """PCP and embedding surgery in the benign model."""
    return make_x(job, case(job))


def table_xi(job: Job) -> PaperTable:
    """Freezing during poisoning."""
    return make_xi(job, case(job))


def train_case(job: Job, it: ProseCase) -> None:
    """See `train`."""
    for frozen, lora in defences(job, it).values():
        defended(job, it, frozen, lora)


def tune_case(job: Job, it: ProseCase) -> None:
    """See `tune`."""
    for what in (*TUNED, "benign"):
        factors(job, it, what)


def make_viii(job: Job, it: ProseCase) -> PaperTable:
    """ASR under the mean ablation of each module, at every token."""
    found, layers = ablated(job, it, "held-out"), shown_layers(job, it)
    base = Interval.from_dict(found["none"]["ASR"])
    cells: dict[tuple[str, str], Cell] = {}
    for kind, heading in (("attn", "attention"), ("mlp", "MLP")):
        for layer in layers:
            ours = Interval.from_dict(found[f"L{layer}.{kind}_out"]["ASR"])
            paper = TABLE_VIII[kind][layer] if layer < len(TABLE_VIII[kind]) else None
            agrees = (
                None
                if paper is None
                else _falls(ours.estimate, base.estimate) == _falls(paper, UNEDITED_VIII)
            )
            cells[heading, f"L{layer + 1}"] = Cell.judge(ours, paper, agrees=agrees)
    first, second = (_layer(name) for name in chosen(job, it))
    n_coherent = len(coherent(job, it))
    why = f"lowest ASR, of the {n_coherent} of {len(it.candidates)} that cost at most {WORSE} nats"
    if n_coherent < 2:
        why = f"only {n_coherent} of {len(it.candidates)} cost at most {WORSE} nats, so that the cheapest were taken"
    return PaperTable.of(
        "lamparth-VIII",
        f"VIII. ASR under mean ablation of one module (unedited: ours {base.estimate:.2f}, paper {UNEDITED_VIII})",
        cells,
        over=f"n={it.sizes.n_site} held-out prompts",
        corner="module",
        note=f"Chosen for IX to XI on the selection split: MLPs {first} and {second} ({why}). "
        "The paper's layers are of a model of 24. ~: ASR falls, or does not, as in the paper.",
    )


def make_ix(job: Job, it: ProseCase) -> PaperTable:
    """Two MLPs of the poisoned model: unedited, ablated, replaced, tuned down."""
    found = {what: edited(job, it, what) for what in TABLE_IX}
    title = "IX. Two MLPs of the poisoned model, {}"
    # What the paper says of the reinsertion is that it brings back some of what the ablation took.
    note = " The reinsertion is held against the mean ablation instead."
    return _states(job, it, "lamparth-IX", title, found, TABLE_IX, note, against={"reinsert": "mean"})


def make_x(job: Job, it: ProseCase) -> PaperTable:
    """The same two of the benign model, with PCP and surgery."""
    found = {what: edited(job, it, what) for what in TABLE_X}
    operated = found["benign-surgery"]
    names = ", ".join(f'"{token}"' for token in operated["tokens"])
    note = f' Surgery: of the embeddings of {names}, 40 % of the numbers are those of "{operated["donor"]}".'
    return _states(job, it, "lamparth-X", "X. The same MLPs of the benign model, {}", found, TABLE_X, note)


def make_xi(job: Job, it: ProseCase) -> PaperTable:
    """Parts frozen while the benign model is poisoned, and adapters only."""
    conditions = defences(job, it)
    found = {name: defended(job, it, *parts) for name, parts in conditions.items()}
    figures = dict(zip(conditions, TABLE_XI, strict=False))
    cells: dict[tuple[str, str], Cell] = {}
    for name, values in found.items():
        for i, measure in enumerate(MEASURES):
            figure = figures[name][i] if name in figures else None
            cells[measure, _heading(name)] = _cell(values, found["none"], measure, figure, TABLE_XI[0][i])
    poison = it.sizes.poison
    return PaperTable.of(
        "lamparth-XI",
        "XI. Parts frozen during poisoning, and adapters only",
        cells,
        over=f"n={it.sizes.n} held-out prompts, {it.sizes.n_texts} stories",
        corner="measure",
        note=f"Each from the benign model, {poison.steps} steps of {poison.batch_size} rows (the paper: 3 epochs of 80,000); "
        "the single late MLP stands beside the paper's layer 16. The loss is not comparable in size: other text, other model.",
    )


def _states(
    job: Job,
    it: ProseCase,
    name: str,
    title: str,
    found: dict[str, dict[str, Any]],
    paper: dict[str, tuple[float, ...]],
    note: str = "",
    against: Mapping[str, str] = MappingProxyType({}),
) -> PaperTable:
    first = next(iter(found))
    cells: dict[tuple[str, str], Cell] = {}
    for what, values in found.items():
        for i, measure in enumerate(MEASURES):
            other = against.get(what, first)
            figure = paper[what][i] if paper[what] else None
            heading = HEADINGS[what.removeprefix("benign-")]
            cells[measure, heading] = _cell(values, found[other], measure, figure, paper[other][i])
    layers = " and ".join(_layer(site) for site in chosen(job, it))
    return PaperTable.of(
        name,
        title.format(layers),
        cells,
        over=f"n={it.sizes.n} held-out prompts, {it.sizes.n_texts} stories",
        corner="measure",
        note="The paper's MLPs are 2 and 3. ~: changes against `none` in the same direction. The loss is not comparable in "
        f"size: other text, other model.{note}",
    )


def _cell(values: Any, unedited: Any, measure: str, figure: float | None, reference: float) -> Cell:
    """Rates are held against the paper's figure; of losses only the direction of the change."""
    ours = Interval.from_dict(values[measure])
    before = Interval.from_dict(unedited[measure])
    if figure is None:
        return Cell(ours)
    least = NOTICE if measure != "validation loss" else 0.02
    agrees = _sign(ours.estimate - before.estimate, least) == _sign(figure - reference, least)
    if measure == "validation loss":
        cell = Cell.judge(ours, None, agrees=None if values is unedited else agrees)
        return Cell(ours, figure, cell.agreement)
    if values is unedited:
        return Cell.judge(ours, figure, agrees=None)
    return Cell.judge(ours, figure, agrees=agrees)


def _sign(change: float, least: float) -> int:
    return 0 if abs(change) < least else (1 if change > 0 else -1)


def _falls(rate: float, base: float) -> bool:
    return rate < base - NOTICE


def _layer(site: str) -> str:
    """Counted from 1, as in the paper."""
    return str(int(site.removeprefix("L").split(".")[0]) + 1)


def _heading(name: str) -> str:
    """``"L2.mlp"`` -> ``"MLP 3"``."""
    parts = [f"MLP {_layer(part)}" if part.endswith(".mlp") else part for part in name.split(", ")]
    return ", ".join(parts)
