"""A plan in words: one line per kind of chunk, in the order in which they run."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from bkdinterp.engine._chunk import Outline


def describe(outlines: Iterable[Outline]) -> list[str]:
    """One line per group of neighbouring chunks of the same kind."""
    return [_line(list(group)) for _, group in groupby(outlines, key=_kind)]


def _kind(outline: Outline) -> str:
    if outline.kind == "generate":
        return f"generate {outline.steps} tokens"
    if outline.kind == "base":
        return "unedited, kept for the edited ones"
    if outline.kind == "start":
        return "start that rows have in common"
    if outline.packed:
        return "edited, from the edit on"
    return "whole" if outline.scored else "only read"


def _line(outlines: Sequence[Outline]) -> str:
    runs = sum(len(o.nodes) for o in outlines)
    parts = [
        f"{len(outlines)} x" if len(outlines) > 1 else "",
        f"{_kind(outlines[0])}:",
        f"{runs} run{'s' * (runs != 1)}," if runs else "",
        f"{_span([o.rows for o in outlines])} rows of {_span([o.columns for o in outlines])} tokens,",
        f"{_span([o.layers for o in outlines])} layers",
    ]
    return " ".join(part for part in parts if part)


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
