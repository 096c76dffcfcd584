"""The one tidy form of every result: a row per number, with its name, its metric, the ends of its interval and its n.

It is read off the result's own table, where `interval_columns` finds the ends of a number's interval.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bkdinterp.stats import interval_columns

if TYPE_CHECKING:
    import pandas

COLUMNS = ("model", "name", "metric", "estimate", "low", "high", "n")


def tidy_frame(
    frame: "pandas.DataFrame", model: str, name: Sequence[str], score: str | None, n: int | None
) -> "pandas.DataFrame":
    """One row per number of ``frame``, with the columns `COLUMNS`.

    Args:
        frame: a result's table.
        model: the model in words.
        name: the columns that name a row; empty for those of text, and without any for those of whole numbers.
        score: the score behind the numbers; None if their columns say it.
        n: number of examples, where the table has no column ``n``.
    """
    import pandas as pd

    ends = interval_columns(frame)
    keys = list(name) or _keys(frame)
    used = {*keys, "n", *(end for pair in ends.values() for end in pair)}
    numbers = [c for c in frame.columns if c not in used and pd.api.types.is_float_dtype(frame[c])]
    rows = []
    for i, row in enumerate(frame.to_dict("records")):
        for column in numbers:
            low, high = ends.get(column, (None, None))
            rows.append(
                (
                    model,
                    _name(row, keys, name, i),
                    column if score in (None, column) else f"{column} ({score})",
                    row[column],
                    float("nan") if low is None else row[low],
                    float("nan") if high is None else row[high],
                    row.get("n", n),
                )
            )
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    return made.astype({"estimate": float, "low": float, "high": float, "n": "Int64"})


def _name(row: dict[Any, Any], keys: list[str], given: Sequence[str], index: int) -> str:
    if not keys:
        return f"row {index}"
    # Text says what it is; a number needs its column's name.
    parts = [row[k] if isinstance(row[k], str) else f"{k} {row[k]}" for k in keys if not _missing(row[k])]
    return ", ".join(parts) or f"row {index}"


def _missing(value: Any) -> bool:
    return value is None or value != value


def _keys(frame: "pandas.DataFrame") -> list[str]:
    import pandas as pd

    types = {c: frame[c].dtype for c in frame.columns}
    words = [
        c for c, t in types.items() if pd.api.types.is_string_dtype(t) or pd.api.types.is_object_dtype(t)
    ]
    whole = [c for c, t in types.items() if pd.api.types.is_integer_dtype(t) and c != "n"]
    return words or whole
