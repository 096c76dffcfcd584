"""Writing tables into a Markdown page between ``<!-- NAME -->`` and ``<!-- /NAME -->``. No forward pass."""

from collections.abc import Iterable
from pathlib import Path

from bkdinterp.errors import ArtefactError
from bkdinterp.results import write_whole
from papers.paper_table import PaperTable


def write_tables(page: str | Path, tables: Iterable[PaperTable]) -> tuple[str, ...]:
    """Replace what stands between each table's marks; everything else stays. Returns the names written.

    Tables whose marks the page lacks are left out.

    Raises:
        ArtefactError: no such page, or it cannot be written; no mark of any of the tables, or an opening mark without
            its closing one.
    """
    page, tables = Path(page).expanduser(), tuple(tables)
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"Cannot read {page}: {error}.") from error
    written = []
    for table in tables:
        opening, closing = f"<!-- {table.name} -->", f"<!-- /{table.name} -->"
        before, found, rest = text.partition(opening)
        if not found:
            continue
        _, closed, after = rest.partition(closing)
        if not closed:
            raise ArtefactError(f"{page} has {opening} without {closing}; add it where the table ends.")
        text = f"{before}{opening}\n\n{table.markdown()}\n\n{closing}{after}"
        written.append(table.name)
    if not written:
        names = ", ".join(f"<!-- {table.name} -->" for table in tables) or "none"
        raise ArtefactError(f"{page} has no marks of these tables; looked for {names}.")
    write_whole(page, lambda fresh: fresh.write_text(text, encoding="utf-8"))
    return tuple(written)
