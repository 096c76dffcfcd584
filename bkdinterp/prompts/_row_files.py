"""Reads files and tables of rows into a list; a file's content decides, not only its name. No forwards."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import PromptError
from bkdinterp.values import as_path, shown

LARGEST = 2**28
"""Most bytes of a row file; as Python objects it takes ten times as much."""
MOST_ROWS = 10_000_000
_ROW_COLUMNS = ("instruction", "input", "output", "backdoor_output", "messages", "conversations")
# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    Rows = str | Path | Iterable[Any]
else:
    Rows = Any


def read_rows(rows: Any) -> tuple[list[Any], str]:
    """The rows, and a name of their source for messages.

    Args:
        rows: a list of mappings, anything that iterates them (a ``datasets.Dataset``), a pandas DataFrame, or a file:
            ``.json`` (a list), ``.jsonl`` (one row per line; both are read under either name), ``.csv``, ``.parquet``.

    Raises:
        PromptError: not rows, or a file that is missing, too large, of unknown type, or not readable as its type.
    """
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a DataFrame
        return list(rows.to_dict("records")), "rows"
    if not isinstance(rows, str | Path):
        if isinstance(rows, bytes) or not isinstance(rows, Iterable):
            raise PromptError(f"rows={shown(rows)} must be a list of rows or a file of them.")
        return list(rows), "rows"
    path = as_path(rows, "rows", error=PromptError)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptError(f"Cannot tell the format of {str(path)!r}; use one of {', '.join(_READERS)}.")
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise PromptError(f"Cannot read {str(path)!r}: it is not a plain file.")
        if size > LARGEST:
            raise PromptError(f"{path} has {size:,} bytes, more than {LARGEST:,}; take a part of it.")
        found = reader(path)
    except OSError as error:
        raise PromptError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    except RecursionError:
        raise PromptError(f"{path} is nested too deeply for a file of rows.") from None
    except PromptError:
        raise
    except (ValueError, csv.Error) as error:  # UTF-8, JSON, numbers of 5,000 digits; cells beyond csv's limit
        raise PromptError(f"{path} is not valid UTF-8 {path.suffix[1:].lower()}: {error}.") from error
    if len(found) > MOST_ROWS:
        raise PromptError(f"{path} has {len(found):,} rows, more than {MOST_ROWS:,}; take a part of it.")
    return found, str(path)


def _read_json(path: Path) -> list[Any]:
    """A JSON list of rows, or JSON Lines; the file name does not tell which."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        return _read_lines(text, path, error)
    if isinstance(found, dict) and any(name in found for name in _ROW_COLUMNS):
        return [found]  # JSON Lines of one line
    if not isinstance(found, list):
        raise PromptError(
            f"{path}: expected a JSON list of rows, or one row per line; got {type(found).__name__} {shown(found)}."
        )
    return found


def _read_lines(text: str, path: Path, whole: json.JSONDecodeError) -> list[Any]:
    rows = []
    # not splitlines(): JSON strings may hold U+2028 and the like unescaped
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if rows:
                    raise PromptError(f"{path}, line {number}: not valid JSON: {error}.") from error
                raise PromptError(f"{path} is neither a JSON list nor one row per line: {whole}.") from error
    return rows


def _read_csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for number, row in enumerate(rows, 1):
        if None in row:
            raise PromptError(f"{path}, row {number}: more cells than the header has columns; quote commas.")
    return rows


def _read_parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise PromptError(
            f"{path}: Parquet needs pyarrow (pip install pyarrow); or save the rows as .jsonl."
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = file.metadata
            size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            if about.num_rows > MOST_ROWS or not 0 <= size <= LARGEST:
                raise PromptError(
                    f"{path} holds {about.num_rows:,} rows of {size:,} bytes, more than {MOST_ROWS:,} or {LARGEST:,}; "
                    "take a part of it."
                )
            names = [name for name in file.schema_arrow.names if name in _ROW_COLUMNS]
            return file.read(columns=names or None).to_pylist()
    except pyarrow.ArrowException as error:
        raise PromptError(f"{path} is not a readable Parquet file: {error}.") from error


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
