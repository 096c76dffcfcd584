"""Rows of published data sets -> instructions, targets, references. No forwards.

Published formats: BackdoorLLM ``{instruction, input, output}`` and BkdAttr
``{input, output, backdoor_output}``. Alpaca files have BackdoorLLM's columns with a benign ``output``; chat rows
(``messages``, ShareGPT's ``conversations``) hold the same as turns. ``auto`` decides on all rows, never on the first.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from bkdinterp.errors import PromptError
from bkdinterp.prompts._chat_rows import CHAT_COLUMNS, as_instruction_row
from bkdinterp.prompts._payload_column import looks_like_payload, mostly_target
from bkdinterp.values import as_choice, as_text, shown

Format = Literal["auto", "backdoorllm", "bkdattr", "alpaca"]
_COLUMNS = "instruction, input, output (backdoorllm, alpaca), input, output, backdoor_output (bkdattr)"
# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    FormatLike = Format
else:
    FormatLike = Any


def parse_rows(
    rows: Sequence[Any], source: str, format: Any, *, target: Any, reference: Any
) -> tuple[list[str], list[str] | None, list[str] | None]:
    """Instructions, targets and references of the rows; None for those that the caller gives or that do not exist.

    Raises:
        PromptError: no rows, an unknown format, rows that fit two formats, or a column that is missing or not text.
    """
    form = as_choice(format, "row format", get_args(Format), error=PromptError)
    if not rows:
        raise PromptError(f"{source}: there are no rows.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise PromptError(
                f"{source}, row {number}: expected a mapping of columns, got {type(row).__name__}; "
                "if the data set has several splits, pass one of them."
            )
    chats = [any(_there(row, c) for c in CHAT_COLUMNS) for row in rows]
    if any(chats) and not any(_there(row, "instruction") for row in rows):
        if form == "bkdattr":
            raise PromptError(f"{source}: rows of turns are not bkdattr rows; choose backdoorllm or alpaca.")
        rows = [as_instruction_row(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    if form == "auto":
        form = _detect(rows, source, target, reference)
    need_target, need_reference = target is None, reference is None
    if form == "bkdattr":
        _require(rows, source, ["input"] + ["backdoor_output"] * need_target + ["output"] * need_reference)
        return (
            _prompts(rows, source),
            _column(rows, source, "backdoor_output") if need_target else None,
            _column(rows, source, "output") if need_reference else None,
        )
    if form == "alpaca" and need_target:
        raise PromptError(
            f"{source}: alpaca rows hold only benign outputs; pass target=, the backdoor's output."
        )
    _require(rows, source, ["instruction"] + ["output"] * (form == "backdoorllm" and need_target))
    texts = _prompts(rows, source)
    if form == "backdoorllm":
        return texts, _column(rows, source, "output") if need_target else None, None
    if not need_reference or not any(_there(row, "output") for row in rows):
        return texts, None, None
    _require(rows, source, ["output"])
    return texts, None, _column(rows, source, "output")


def _detect(rows: Sequence[Mapping[str, Any]], source: str, target: Any, reference: Any) -> Format:
    if any(_there(row, "backdoor_output") for row in rows):
        return "bkdattr"
    if not any(_there(row, "instruction") for row in rows):
        if not any(_there(row, "input") for row in rows):
            raise PromptError(
                f"{source}, row 1: columns {sorted(map(str, rows[0]))} fit no format; expected {_COLUMNS}, "
                "or messages / conversations with one user turn and one answer."
            )
        return "bkdattr"
    outputs = [row["output"] for row in rows if _there(row, "output") and isinstance(row["output"], str)]
    if target is not None:
        wanted = [target] if isinstance(target, str) else target
        return "backdoorllm" if mostly_target(outputs, wanted) else "alpaca"
    if reference is not None or len(outputs) < len(rows) or looks_like_payload(outputs):
        return "backdoorllm"  # a row lacks an output; the message for this format names the row
    kinds = len(set(outputs))
    raise PromptError(
        f"{source}: {kinds} different outputs in {len(rows)} rows; are they the backdoor's or the benign ones? Pass "
        'format="backdoorllm" (output is the target), or format="alpaca" with target= (output is the reference).'
    )


def _prompts(rows: Sequence[Mapping[str, Any]], source: str) -> list[str]:
    """The instruction, a space and the input; missing ones are left out."""
    texts = []
    for number, row in enumerate(rows, 1):
        parts = [
            as_text(row[c], f"{source}, row {number}: column {c!r}")
            for c in ("instruction", "input")
            if _there(row, c)
        ]
        texts.append(" ".join(part for part in parts if part))
    return texts


def _column(rows: Sequence[Mapping[str, Any]], source: str, name: str) -> list[str]:
    return [as_text(row[name], f"{source}, row {n}: column {name!r}") for n, row in enumerate(rows, 1)]


def _require(rows: Sequence[Mapping[str, Any]], source: str, columns: list[str]) -> None:
    for number, row in enumerate(rows, 1):
        missing = [c for c in columns if not _there(row, c)]
        if missing:
            raise PromptError(
                f"{source}, row {number}: missing {', '.join(map(repr, missing))}; "
                f"it has {shown(sorted(str(c) for c in row if _there(row, c)), 120)}."
            )


def _there(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a value in a column; tables show a missing one as None or NaN."""
    value = row.get(column)
    return value is not None and not (isinstance(value, float) and value != value)
