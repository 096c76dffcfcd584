"""Where a table has the ends of its intervals: in ``<column>_low`` and ``<column>_high``, or in ``low`` and ``high`` right
after the column."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

_ENDS = ("low", "high")


def interval_columns(frame: "pandas.DataFrame") -> dict[str, tuple[str, str]]:
    """Column of a number -> the columns of the ends of its interval."""
    columns: list[str] = [str(c) for c in frame.columns]
    found: dict[str, tuple[str, str]] = {}
    for low in columns:
        base = low.removesuffix("low").removesuffix("_")
        high = low.removesuffix("low") + "high"
        if not (low == "low" or low.endswith("_low")) or high not in columns:
            continue
        if base in columns:
            owner = base
        elif base:  # control_low is the end of control_mean
            owner = next((c for c in columns if c.startswith(f"{base}_") and not c.endswith(_ENDS)), None)
        else:
            owner = columns[columns.index(low) - 1] if columns.index(low) else None
        if owner is not None:
            found[owner] = (low, high)
    return found
