"""What tables of claims and answers share: a column per organism, numbers in words. No forward pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from bkdinterp.stats import Interval
from papers.bkdattr.study import Study
from papers.paper_table import Agreement, Cell, PaperTable

# Whether a claim holds (None: nothing to judge, or undecided), and the numbers that say so.
Claim = Callable[[Study], tuple[bool | None, str]]


def by_organism(
    name: str, title: str, rows: Mapping[str, Claim], found: Sequence[Study], corner: str, note: str = ""
) -> PaperTable:
    """A row per claim, a column per organism."""
    marks = {True: Agreement.agrees, False: Agreement.differs, None: Agreement.unknown}
    cells = {}
    for row, answer in rows.items():
        for s in found:
            holds, text = answer(s)
            cells[row, s.name] = Cell(agreement=marks[holds], text=text)
    return PaperTable.of(name, title, cells, corner=corner, note=note)


def small_k(s: Study) -> int:
    """The fewest heads that every way of ablation was tried with."""
    return s.sizes.few_ks[0]


def large_k(s: Study) -> int:
    """The most of them."""
    return s.sizes.few_ks[-1]


def percent(i: Interval) -> str:
    """A rate."""
    return f"{100 * i.estimate:.0f} % [{100 * i.low:.0f}, {100 * i.high:.0f}]"


def share(i: Interval) -> str:
    """A share or ratio."""
    return f"{i.estimate:.2f} [{i.low:.2f}, {i.high:.2f}]"


def counts(numbers: Iterable[int]) -> str:
    """``n=200`` where all organisms have as many, ``n=200 / 210`` otherwise."""
    found = list(numbers)
    return "n=" + " / ".join(str(n) for n in (found if len(set(found)) > 1 else found[:1]))
