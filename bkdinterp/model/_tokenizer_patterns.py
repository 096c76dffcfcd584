"""Check of a suspect tokenizer's patterns: one that can take exponential time is refused before it is used.

The tokenizer's regex engine backtracks, in compiled code that cannot be interrupted. Exponential time needs a repeated
group that can match a text in several ways, because it holds a repetition or a choice. Tokenizers do not need such groups.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bkdinterp.errors import UnsafeWeightsError

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_LONGEST = 5_000


def check_patterns(tokenizer: dict[str, Any], where: Path) -> None:
    """Check every regular expression in a tokenizer.json, outside of its vocabulary.

    Raises:
        UnsafeWeightsError: a pattern may take exponential time, has a back reference, or exceeds 5,000 characters.
    """
    for part in _PARTS:
        for pattern in _regexes(tokenizer.get(part)):
            if len(pattern) > _LONGEST or is_risky(pattern):
                raise UnsafeWeightsError(
                    f"{where} splits text by the pattern {pattern[:80]!r}, which could take forever on some texts "
                    "(a repeated group that holds a repetition or a choice). Refused."
                )


def is_risky(pattern: str) -> bool:
    """Whether a pattern has a back reference, or a group repeated often that holds a repetition or a choice."""
    many: list[bool] = [False]  # for each open group: whether it holds a repetition or a choice
    inner, i = False, 0  # whether the last atom read does
    while i < len(pattern):
        c = pattern[i]
        if c == "\\":
            if i + 1 < len(pattern) and (pattern[i + 1] in "123456789kg"):
                return True
            i, inner = i + 2, False
            continue
        if c == "[":
            i, inner = _after_class(pattern, i), False
            continue
        if c == "(":
            many.append(False)
        elif c == ")" and len(many) > 1:
            inner = many.pop()
            many[-1] |= inner
        elif c == "|":
            many[-1] = True
        elif c in "*+" or (c == "{" and not _few(pattern, i)):
            if inner:
                return True
            many[-1] = True
        elif c not in "?{}0123456789,":
            inner = False
        i += 1
    return False


def _few(pattern: str, start: int) -> bool:
    """Whether the ``{...}`` here is a literal brace or a repetition of at most 4."""
    body, closed, _ = pattern[start + 1 :].partition("}")
    last = body.rpartition(",")[2].strip()
    if not closed or not body.replace(",", "").strip().isdigit():
        return True
    return last.isdigit() and int(last) <= 4


def _after_class(pattern: str, start: int) -> int:
    depth, i = 0, start
    while i < len(pattern):
        if pattern[i] == "\\":
            i += 1
        elif pattern[i] == "[":
            depth += 1
        elif pattern[i] == "]" and i > start + 1:
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return i


def _regexes(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        now = waiting.pop()
        if isinstance(now, dict):
            if isinstance(now.get("Regex"), str):
                yield now["Regex"]
            waiting += now.values()
        elif isinstance(now, list):
            waiting += now
