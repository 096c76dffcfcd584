"""What a hover figure says at the pointer: the rows of a result's own table as text. No forward pass.

Names come from tokens, prompts and models of strangers, and plotly reads part of HTML in every text of a figure, links among
it. So nothing reaches a figure that did not pass `escaped`.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import cut
from bkdinterp.stats import interval_columns

if TYPE_CHECKING:
    import pandas

LONGEST = 80  # characters of a name


def hover_texts(frame: "pandas.DataFrame", name: Sequence[str]) -> list[str]:
    """One text per row: its name, then every column of numbers with its interval, and n; for plotly, already escaped.

    Args:
        frame: a result's table; see `bkdinterp.stats.interval_columns` for its intervals.
        name: the columns that name a row. Other columns of texts or of whole numbers, which say the same again, are left out.

    Raises:
        BkdinterpError: the table lacks one of the columns.
    """
    from pandas.api.types import is_bool_dtype, is_float_dtype

    need_columns(frame, *name)
    intervals = interval_columns(frame)
    ends = {end for pair in intervals.values() for end in pair}
    kept = [
        c
        for c in frame.columns
        if c not in {*name, *ends} and (c == "n" or is_float_dtype(frame[c]) or is_bool_dtype(frame[c]))
    ]
    return [
        "<br>".join(
            [
                f"<b>{escaped(_named(row, name))}</b>",
                *(escaped(f"{words(c)}: {_number(row, c, intervals)}") for c in kept if not _lacking(row[c])),
            ]
        )
        for row in frame.to_dict("records")
    ]


def need_columns(frame: "pandas.DataFrame", *columns: str) -> None:
    """Stop where a table lacks a column.

    Raises:
        BkdinterpError: it lacks one; the message lists those that it has.
    """
    for column in columns:
        if column not in frame.columns:
            raise BkdinterpError(f"The table has no column {column!r}; it has {', '.join(map(str, frame))}.")


def words(column: str) -> str:
    """A column's name as words."""
    return str(column).replace("_", " ")


def escaped(text: object) -> str:
    """Text that plotly shows as it is: no tag, no entity and no formula of it is read, and its line breaks are kept."""
    # plotly knows &amp; &lt; &gt; and numbers, but not &quot;. A pair of dollar signs is a formula where a page has MathJax.
    lines = str(text).split("\n")
    return "<br>".join(html.escape(line, quote=False).replace("$", "&#36;") for line in lines)


def wrapped(text: str, letters: int) -> str:
    """Text with its long lines broken between words."""
    lines = [
        textwrap.fill(line, max(10, letters), break_on_hyphens=False) if line else ""
        for line in text.split("\n")
    ]
    return "\n".join(lines)


def one_line(text: str) -> str:
    """A name on one line, cut and with control characters escaped; spaces at its ends are visible."""
    whole = cut(text, LONGEST)
    inner = whole.strip(" ")
    before = len(whole) - len(whole.lstrip(" ")) if inner else len(whole)
    after = len(whole) - len(inner) - before
    return "\N{OPEN BOX}" * before + inner + "\N{OPEN BOX}" * after


def _named(row: dict[Any, Any], name: Sequence[str]) -> str:
    # Text says what it is; a number needs its column's name.
    parts = [
        row[c] if isinstance(row[c], str) else f"{words(c)} {row[c]}" for c in name if not _lacking(row[c])
    ]
    return ", ".join(one_line(part) for part in parts if part)


def _number(row: dict[Any, Any], column: str, intervals: dict[str, tuple[str, str]]) -> str:
    value = row[column]
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if column == "n" else f"{value:.4g}"
    low, high = (row[end] for end in intervals.get(column, (column, column)))
    if column not in intervals or _lacking(low) or _lacking(high):
        return text
    return f"{text} [{low:.4g}, {high:.4g}]"


def _lacking(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
