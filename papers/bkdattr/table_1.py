"""The paper's Table 1 of one organism: ours, exact and cached, beside its figures. No forward pass."""

from collections.abc import Iterator

from bkdinterp.metrics import Outcome
from bkdinterp.stats import Interval
from papers.bkdattr.ablation_units import CACHED, MEAN, ZERO, random_ks, random_names
from papers.bkdattr.answer_units import Said
from papers.bkdattr.published import ATTACKS, LLAMA, LOWERED, NOTES, QWEN, REPLICATED, TABLE_1
from papers.bkdattr.study import Study
from papers.paper_table import Agreement, Cell, PaperTable

# How outcomes and agreement are shown, in the notes of all tables.
OUTCOMES = " / ".join(o.value.replace("_", " ") for o in Outcome)
AGREEMENT = (
    "Agreement: word F1 of answers with the references; of clean prompts, the mean of the victims' and of the other "
    "classes' mean, where there are any"
)
COLUMNS = (
    "payload rate",
    "triggered",
    "clean",
    "agreement, triggered",
    "agreement, clean",
    f"paper, {QWEN}",
    "replication, held-out",
)


def ablations(s: Study) -> PaperTable:
    """A row per condition."""
    t, published = s.table_1, TABLE_1.get(s.name, {})
    base = t.rate("triggered", "none")
    cells: dict[tuple[str, str], Cell] = {}
    for row, k, conditions in _conditions(s):
        theirs = {name: values.get(k) for name, values in published.items()} if k is not None else {}
        cells |= {
            (row, "payload rate"): _judged(s, row, k, conditions, base),
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
    return PaperTable.of(
        f"bkdattr-1-{s.name}",
        f"Table 1, {s.name} ({ATTACKS.get(s.name, 'no counterpart')} in the paper), %",
        cells,
        columns=[c for c in COLUMNS if any(column == c for _, column in cells)],
        over=f"n={base.n} held-out pairs; random sets: {s.sizes.random_sets} of each size, n={s.sizes.n_random}",
        corner="ablated heads",
        percent=True,
        digits=0,
        note=_note(s),
    )


def extreme_text(said: Said, side: str, conditions: list[str], *, highest: bool) -> str:
    """The most extreme one of several nulls, in per cent; nothing of a single one."""
    if len(conditions) < 2:
        return ""
    rate = said.extreme(side, *conditions, highest=highest).estimate
    return f"({'highest' if highest else 'lowest'} {100 * rate:.0f})"


def _judged(s: Study, row: str, k: int | None, conditions: list[str], base: Interval) -> Cell:
    """The payload rate with its mark, which stands where the paper's form of ablation was run, else at the exact one."""
    rate, figures = s.table_1.rate("triggered", *conditions), TABLE_1.get(s.name, {}).get(LLAMA, {})
    paper = None if k is None else figures.get(k)
    if paper is None:
        low = extreme_text(s.table_1, "triggered", conditions, highest=False)
        return Cell(rate, text=low)
    if k == 0:
        # Not lowered against itself: of that row only the figure itself can agree.
        cell = Cell.judge(rate, paper)
        return cell if cell.agreement is Agreement.within else Cell(rate, paper)
    if row.endswith(ZERO) and k in s.sizes.few_ks:
        return Cell(rate, paper)
    lowered = rate.high < base.low, paper < LOWERED * figures[0]
    return Cell.judge(rate, paper, agrees=lowered[0] == lowered[1])


def _note(s: Study) -> str:
    parts = [
        f"Heads by the paper's attribution (geometric mean of the whole target, triggered mean), n={s.sizes.n_heads} "
        f"selection pairs. Outcomes: {OUTCOMES}. {AGREEMENT}. Zero and cached: at the last prompt token; mean: clean "
        "means at all tokens, generated ones too. Several random sets: each prompt's mean over them, intervals count "
        "prompts; in brackets, the set of the lowest rate."
    ]
    if TABLE_1.get(s.name):
        parts.append(
            f"Beside the payload rate: {LLAMA} in the paper. Its numbers are of the cached form, so that the mark stands "
            "there; at other k, where the cached form was not run, at exact zeroing. ~: lowered in both or in neither; ours "
            f"is where its interval lies below that of the unedited organism, the paper's where it is below {LOWERED:.2f} "
            "of its own unedited rate. The unedited row carries = or no mark."
        )
    return " ".join([*parts, *([NOTES[s.name]] if s.name in NOTES else [])])


def _conditions(s: Study) -> Iterator[tuple[str, int | None, list[str]]]:
    """(row, k of the paper's Table 1 or None, conditions)."""
    yield "none", 0, ["none"]
    for k in s.sizes.ks:
        yield f"{k}, {ZERO}", k, [f"{ZERO} {k}"]
    for way in (CACHED, MEAN):
        for k in s.sizes.few_ks:
            yield f"{k}, {way}", k if way == CACHED else None, [f"{way} {k}"]
    for way, ks in random_ks(s.sizes).items():
        for k in ks:
            yield f"{k} random, {way}", None, random_names(way, k, s.sizes)
