"""PaperTable: a paper's table with our values beside its figures, and whether they agree. No forward pass."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.results import write_whole
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import rich.table


class Agreement(StrEnum):
    """How our value stands to the paper's."""

    within = "within"  # the paper's figure lies in our interval, which is narrow enough to say something
    agrees = "agrees"  # another size, but the same sign or order
    differs = "differs"
    unknown = "unknown"  # the paper gives no figure, none that can be compared, or ours says too little

    @property
    def sign(self) -> str:
        """One character for tables."""
        return {"within": "=", "agrees": "~", "differs": "≠", "unknown": ""}[self.value]


# An interval as wide as this, or wider, says too little for "the paper's figure lies in it" to be agreement.
WIDEST = 0.3
# For a terminal, where the paper's figure stands in brackets.
LEGEND = (
    "A cell: ours [95 % interval] (the paper's). The interval is left out where all values are the same. = the paper's figure "
    "lies in our interval, which is narrower than .3; ~ same sign or order; ≠ disagrees."
)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        ours: our value with its interval and n; None where there is none.
        paper: the paper's figure; None where it gives none.
        agreement: see `Agreement`.
        text: shown instead of, or after, our value, e.g. graded outcomes.
    """

    ours: Interval | None = None
    paper: float | None = None
    agreement: Agreement = Agreement.unknown
    text: str = ""

    @classmethod
    def judge(
        cls,
        ours: Interval | None,
        paper: float | None = None,
        *,
        agrees: bool | None = None,
        tolerance: float = 0.0,
        text: str = "",
    ) -> Self:
        """A cell with its mark: ``within`` if our interval, widened by ``tolerance``, holds the paper's figure.

        An interval of `WIDEST` or more holds almost any figure: there the mark is that of sign or order.

        Args:
            ours: our value; a rate, or a ratio near 1.
            paper: the paper's figure.
            agrees: whether sign or order agree, as the caller's claim defines it; None: there is no such claim, so a
                figure outside the interval differs, and one inside a wide interval gets no mark.
            tolerance: e.g. half a unit of the paper's last digit.
            text: as in `Cell`.
        """
        if ours is None or (paper is None and agrees is None):
            return cls(ours, paper, Agreement.unknown, text)
        held = paper is not None and ours.low - tolerance <= paper <= ours.high + tolerance
        if held and ours.high - ours.low < WIDEST:
            return cls(ours, paper, Agreement.within, text)
        if held and agrees is None:
            return cls(ours, paper, Agreement.unknown, text)
        return cls(ours, paper, Agreement.agrees if agrees else Agreement.differs, text)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        ours = None if d["ours"] is None else Interval.from_dict(d["ours"])
        return cls(ours, d["paper"], Agreement(d["agreement"]), d["text"])


EMPTY = Cell()


@dataclass(frozen=True)
class PaperTable:
    """Rows by columns of cells.

    Args:
        name: unique, also the name of the marks in the docs, e.g. ``"lamparth-I"``.
        title: what is shown.
        rows: their headings.
        columns: their headings.
        cells: one tuple per row.
        over: what n counts, e.g. ``"5 seeds"`` or ``"n=100 prompts"``.
        corner: heading of the row headings.
        note: what does not reproduce, and why; Markdown.
        percent: show rates as per cent.
        digits: after the point.

    Raises:
        BkdinterpError: cells that do not fit rows and columns.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    over: str = ""
    corner: str = ""
    note: str = ""
    percent: bool = False
    digits: int = 2

    def __post_init__(self) -> None:
        sizes = {len(row) for row in self.cells}
        if len(self.cells) != len(self.rows) or sizes - {len(self.columns)}:
            raise BkdinterpError(
                f"Table {self.name}: {len(self.rows)} rows x {len(self.columns)} columns, but cells of {len(self.cells)} "
                f"rows with {sorted(sizes)} columns."
            )

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        cells: Mapping[tuple[str, str], Cell],
        *,
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        **settings: Any,
    ) -> Self:
        """From ``(row, column) -> cell``; what is not there stays empty. Rows and columns in order of appearance."""
        rows = tuple(dict.fromkeys(r for r, _ in cells) if rows is None else rows)
        columns = tuple(dict.fromkeys(c for _, c in cells) if columns is None else columns)
        grid = tuple(tuple(cells.get((r, c), EMPTY) for c in columns) for r in rows)
        return cls(name, title, rows, columns, grid, **settings)

    def __getitem__(self, place: tuple[str, str]) -> Cell:
        """The cell of a row and a column by their headings.

        Raises:
            BkdinterpError: no such row or column.
        """
        row, column = place
        if row not in self.rows or column not in self.columns:
            raise BkdinterpError(f"Table {self.name} has no cell {place}.")
        return self.cells[self.rows.index(row)][self.columns.index(column)]

    def count(self) -> dict[Agreement, int]:
        """Mark -> number of cells that carry it, cells without one left out."""
        found = [cell.agreement for row in self.cells for cell in row]
        return {mark: found.count(mark) for mark in Agreement if mark is not Agreement.unknown}

    def text(self, cell: Cell, *, markdown: bool = False) -> str:
        """A cell as it is shown."""
        ours = "" if cell.ours is None else self._interval(cell.ours)
        parts = [" ".join(x for x in (ours, cell.text) if x)]
        if cell.paper is not None:
            paper = self._number(cell.paper)
            parts.append(f"*{paper}*" if markdown else f"({paper})")
        line = (" · " if markdown else " ").join(x for x in parts if x)
        return f"{line} {cell.agreement.sign}".strip()

    def rich(self) -> "rich.table.Table":
        """For a terminal."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(
            title=escape(self._heading()),
            caption=escape(self.note) or None,
            title_justify="left",
            caption_justify="left",
        )
        table.add_column(self.corner)
        for column in self.columns:
            table.add_column(column)
        for heading, row in zip(self.rows, self.cells, strict=True):
            table.add_row(heading, *(escape(self.text(cell)) for cell in row))
        return table

    def markdown(self) -> str:
        """A heading in bold, a pipe table, the note."""
        lines = [f"**{self._heading()}**", ""]
        lines.append("| " + " | ".join(_pipe(x) for x in (self.corner, *self.columns)) + " |")
        lines.append("|" + "---|" * (1 + len(self.columns)))
        for heading, row in zip(self.rows, self.cells, strict=True):
            lines.append("| " + " | ".join(_pipe(x) for x in (heading, *map(self._markdown, row))) + " |")
        return "\n".join([*lines, "", self.note] if self.note else lines)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        cells = tuple(tuple(Cell.from_dict(cell) for cell in row) for row in d["cells"])
        return cls(**{**d, "rows": tuple(d["rows"]), "columns": tuple(d["columns"]), "cells": cells})

    def _heading(self) -> str:
        return f"{self.title} ({self.over})" if self.over else self.title

    def _markdown(self, cell: Cell) -> str:
        return self.text(cell, markdown=True)

    def _interval(self, i: Interval) -> str:
        if i.low == i.high == i.estimate:
            return self._number(i.estimate)
        return f"{self._number(i.estimate)} [{self._number(i.low)}, {self._number(i.high)}]"

    def _number(self, x: float) -> str:
        shown = f"{100 * x if self.percent else x:.{self.digits}f}"
        return shown.removeprefix("-") if float(shown) == 0 else shown


def save_tables(tables: Iterable[PaperTable], path: str | Path) -> Path:
    """Write tables as one JSON file, whole or not at all."""
    path = Path(path)
    text = json.dumps([t.to_dict() for t in tables], indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
    return path


def load_tables(path: str | Path) -> tuple[PaperTable, ...]:
    """Inverse of `save_tables`.

    Raises:
        ArtefactError: no such file, or not one of ours.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return tuple(PaperTable.from_dict(d) for d in found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path} holds no saved tables ({error!r}); run the reproduction again."
        ) from error


def summary(tables: Iterable[PaperTable], name: str, *, title: str = "Agreement, in cells") -> PaperTable:
    """How many cells of each table carry each mark, as one more table."""
    shown = (Agreement.within, Agreement.agrees, Agreement.differs)
    names = {
        Agreement.within: "paper in our interval (=)",
        Agreement.agrees: "sign or order (~)",
        Agreement.differs: "disagrees (≠)",
    }
    cells = {
        (table.title, names[mark]): Cell(text=str(table.count()[mark]))
        for table in tables
        for mark in shown
        if any(table.count().values())
    }
    return PaperTable.of(name, title, cells, columns=[names[mark] for mark in shown], corner="table")


def _pipe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
