"""Which function makes which table. To add one: ``name -> "module:function"``, the function takes a `Job`.

A module may also define ``train(job)`` and ``tune(job)``; `STAGED` names those.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from bkdinterp.reproduce._paper import Job
from bkdinterp.reproduce._table import PaperTable

TABLES: dict[str, str] = {
    "I": "_localise:table_i",
    "II": "_localise:table_ii",
    "III": "_pcp_tables:table_iii",
    "IV": "_pcp_tables:table_iv",
    "V": "_pcp_tables:table_v",
    "VI": "_pcp_tables:table_vi",
    "VII": "_pcp_tables:table_vii",
    "XII": "_patching:table_xii",
    "XIII": "_pcp_tables:table_xiii",
    "XIV": "_pcp_tables:table_xiv",
    "freezing": "_freezing:table_freezing",
    # The natural-language organism; each function returns one PaperTable named "lamparth-VIII" and so on.
    "VIII": "_natural:table_viii",
    "IX": "_natural:table_ix",
    "X": "_natural:table_x",
    "XI": "_natural:table_xi",
}
# Modules that define ``train(job)`` or ``tune(job)``, and the tables that need it.
STAGED: dict[str, tuple[str, ...]] = {
    "_freezing": ("freezing",),
    "_pcp": ("III", "IV", "V", "VI", "VII", "XIII", "XIV"),
    "_natural": ("VIII", "IX", "X", "XI"),
}


def make_tables(job: Job) -> list[PaperTable]:
    """Every table that is wanted and whose module is there."""
    out: list[PaperTable] = []
    for name, where in TABLES.items():
        if not job.wanted(name):
            continue
        module, function = where.split(":")
        found = _module(module)
        if found is None:
            job.log(f"table {name}: {module} is not part of this version")
            continue
        made: PaperTable | Sequence[PaperTable] = getattr(found, function)(job)
        out += [made] if isinstance(made, PaperTable) else made
    return out


def run_stage(job: Job, stage: str) -> None:
    """``train`` or ``tune`` of every staged module that defines it."""
    for name, tables in STAGED.items():
        found = _module(name) if any(job.wanted(table) for table in tables) else None
        step: Callable[[Job], None] | None = getattr(found, stage, None)
        if step is not None:
            step(job)


def _module(name: str) -> Any:
    full = f"{__name__.rpartition('.')[0]}.{name}"
    return None if importlib.util.find_spec(full) is None else importlib.import_module(full)
