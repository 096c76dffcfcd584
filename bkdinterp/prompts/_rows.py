"""Rows of published data sets -> instructions, targets, references. No forwards.

Two formats (papers.md section 5): BackdoorLLM ``{instruction, input, output}`` and BkdAttr
``{input, output, backdoor_output}``; from a list of dicts, a ``.json`` list, ``.jsonl`` or ``.csv``.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bkdinterp.errors import PromptError

Format = Literal["auto", "backdoorllm", "bkdattr"]
Rows = str | Path | Iterable[Any]


def read_rows(rows: Rows) -> tuple[list[Any], str]:
    """The rows, and what to call their source in messages.

    Raises:
        PromptError: a file that is missing, of unknown type, or not readable as its type.
    """
    if not isinstance(rows, str | Path):
        return list(rows), "rows"
    path = Path(rows)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PromptError(f"Cannot tell the format of {str(path)!r}; use one of {', '.join(readers)}.")
    try:
        return reader(path), str(path)
    except OSError as error:
        raise PromptError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise PromptError(f"{path} is not valid UTF-8 {path.suffix[1:]}: {error}.") from error


def parse_rows(
    rows: Sequence[Any], source: str, format: Format, *, need_target: bool, need_reference: bool
) -> tuple[list[str], list[str] | None, list[str] | None]:
    """Instructions, targets and references of the rows (None where the caller brings its own).

    Raises:
        PromptError: no rows, an unknown format, or a row with a missing or non-text column.
    """
    if not rows:
        raise PromptError(f"{source}: there are no rows.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise PromptError(
                f"{source}, row {number}: expected a mapping of columns, got {type(row).__name__}; "
                "of a data set with several splits pass one split."
            )
    if format == "auto":
        format = _detect(rows[0], source)
    if format == "bkdattr":
        columns = ["input"] + ["backdoor_output"] * need_target + ["output"] * need_reference
        _require(rows, source, columns)
        return (
            [row["input"] for row in rows],
            [row["backdoor_output"] for row in rows] if need_target else None,
            [row["output"] for row in rows] if need_reference else None,
        )
    if format == "backdoorllm":
        _require(rows, source, ["instruction"] + ["output"] * need_target)
        extra = [row.get("input") or "" for row in rows]
        for number, text in enumerate(extra, 1):
            if not isinstance(text, str):
                raise PromptError(f"{source}, row {number}: column 'input' must be text, got {text!r}.")
        texts = [
            f"{row['instruction']} {text}" if text else row["instruction"] for row, text in zip(rows, extra)
        ]
        return texts, [row["output"] for row in rows] if need_target else None, None
    raise PromptError(f"Unknown row format {format!r}; choose auto, backdoorllm or bkdattr.")


def _detect(row: Mapping[str, Any], source: str) -> Format:
    if "instruction" in row:
        return "backdoorllm"
    if "input" in row:
        return "bkdattr"
    raise PromptError(
        f"{source}, row 1: columns {sorted(map(str, row))} fit neither format; expected "
        "instruction, input, output (backdoorllm) or input, output, backdoor_output (bkdattr)."
    )


def _require(rows: Sequence[Mapping[str, Any]], source: str, columns: list[str]) -> None:
    for number, row in enumerate(rows, 1):
        missing = [c for c in columns if row.get(c) is None]
        if missing:
            raise PromptError(
                f"{source}, row {number}: missing {', '.join(map(repr, missing))}; "
                f"it has {sorted(str(c) for c in row if row[c] is not None)}."
            )
        for c in columns:
            if not isinstance(row[c], str):
                raise PromptError(f"{source}, row {number}: column {c!r} must be text, got {row[c]!r}.")


def _read_json(path: Path) -> list[Any]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise PromptError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}.")
    return rows


def _read_jsonl(path: Path) -> list[Any]:
    rows = []
    # not splitlines(): JSON strings may hold U+2028 and the like unescaped
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise PromptError(f"{path}, line {number}: not valid JSON: {error}.") from error
    return rows


def _read_csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for number, row in enumerate(rows, 1):
        if None in row:
            raise PromptError(f"{path}, row {number}: more cells than the header has columns; quote commas.")
    return rows
