"""Which function makes which table, and which tables have something to train or to tune before them."""

from collections.abc import Callable, Sequence

from papers.lamparth.pcp_units import tune as tune_replacements
from papers.lamparth.table_freezing import table_freezing
from papers.lamparth.table_freezing import train as train_frozen
from papers.lamparth.table_i import table_i
from papers.lamparth.table_ii import table_ii
from papers.lamparth.table_iii_iv import table_iii, table_iv
from papers.lamparth.table_v_vi_vii import table_v, table_vi, table_vii
from papers.lamparth.table_viii_to_xi import table_ix, table_viii, table_x, table_xi
from papers.lamparth.table_viii_to_xi import train as train_defended
from papers.lamparth.table_viii_to_xi import tune as tune_prose
from papers.lamparth.table_xii import table_xii
from papers.lamparth.table_xiii_xiv import table_xiii, table_xiv
from papers.paper import Job
from papers.paper_table import PaperTable

Maker = Callable[[Job], PaperTable | Sequence[PaperTable]]

ON_TOYS: dict[str, Maker] = {
    "I": table_i,
    "II": table_ii,
    "III": table_iii,
    "IV": table_iv,
    "V": table_v,
    "VI": table_vi,
    "VII": table_vii,
    "XII": table_xii,
    "XIII": table_xiii,
    "XIV": table_xiv,
    "freezing": table_freezing,
}
# On the natural-language organism.
ON_PROSE: dict[str, Maker] = {"VIII": table_viii, "IX": table_ix, "X": table_x, "XI": table_xi}
TABLES = ON_TOYS | ON_PROSE
# Table -> the work of a stage that it stands on; several tables may share it.
TRAINS: dict[str, Callable[[Job], None]] = {
    "freezing": train_frozen,
    "XI": train_defended,
}
TUNES: dict[str, Callable[[Job], None]] = {
    **dict.fromkeys(("III", "IV", "V", "VI", "VII", "XIII", "XIV"), tune_replacements),
    **dict.fromkeys(("IX", "X"), tune_prose),
}


def make_tables(job: Job) -> list[PaperTable]:
    """Every table that is wanted."""
    out: list[PaperTable] = []
    for name, make in TABLES.items():
        if job.wanted(name):
            made = make(job)
            out += [made] if isinstance(made, PaperTable) else made
    return out


def run_stage(job: Job, works: dict[str, Callable[[Job], None]]) -> None:
    """`TRAINS` or `TUNES` of the wanted tables, each once."""
    for work in dict.fromkeys(work for name, work in works.items() if job.wanted(name)):
        work(job)
