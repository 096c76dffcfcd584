"""Tables XIII and XIV: attention replaced by rank 4."""

from collections.abc import Mapping

from papers.lamparth.pcp_units import ATTENTION, replaced
from papers.lamparth.published import TABLE_XIII, TABLE_XIV
from papers.lamparth.toy_measurements import edits_table
from papers.lamparth.toys import load_toy
from papers.paper import Job
from papers.paper_table import PaperTable


def table_xiii(job: Job) -> PaperTable:
    """Attention replaced, two sentiments."""
    return _attention(job, 2, "XIII", TABLE_XIII)


def table_xiv(job: Job) -> PaperTable:
    """Attention replaced, three sentiments."""
    return _attention(job, 3, "XIV", TABLE_XIV)


def _attention(job: Job, k: int, number: str, paper: Mapping[str, Mapping[str, float]]) -> PaperTable:
    toy = load_toy(job, k, 0)
    unit = replaced(job, toy, ATTENTION)
    return edits_table(
        [unit],
        {c: c for c in paper},
        paper,
        k,
        name=f"lamparth-{number}",
        title=f"Table {number}: attention replaced by rank 4, {k} sentiments",
        n=toy.sizes.n,
    )
