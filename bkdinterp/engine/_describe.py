"""A plan in words: one line per kind of chunk, in the order in which they run."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

Chunk = dict[str, Any]


def describe(chunks: Iterable[Chunk]) -> list[str]:
    """Lines for a reader; neighbouring chunks of one kind share a line."""
    return [_line(list(group)) for _, group in groupby(chunks, key=_kind)]


def _kind(chunk: Chunk) -> str:
    if chunk["kind"] == "generate":
        return f"generate {chunk['decode']['n_tokens']} tokens"
    if chunk["kind"] == "base":
        return "unedited, kept for the edited ones"
    if chunk["kind"] == "start":
        return "start that rows have in common"
    if "pack" in chunk:
        return "edited, from the edit on"
    return "only read" if chunk["score"] is None else "whole"


def _line(chunks: Sequence[Chunk]) -> str:
    first = chunks[0]
    shapes = [chunk["inputs"]["input_ids"].shape for chunk in chunks]
    columns = [
        chunk["pack"]["columns"] if "pack" in chunk else s[1] for chunk, s in zip(chunks, shapes, strict=True)
    ]
    rows = [s[0] * s[1] // c for s, c in zip(shapes, columns, strict=True)]
    layers = [chunk["layers"] for chunk in chunks]
    runs = sum(len(chunk["nodes"]) for chunk in chunks)
    parts = [
        f"{len(chunks)} x" if len(chunks) > 1 else "",
        f"{_kind(first)}:",
        f"{runs} run{'s' * (runs != 1)}," if runs else "",
        f"{_span(rows)} rows of {_span(columns)} tokens,",
        f"{_span(layers)} layers",
    ]
    return " ".join(part for part in parts if part)


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
