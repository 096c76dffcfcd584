"""Regular expressions from untrusted files, with limits: a saved result or a manifest may hold any expression.

An expression can be written so that searching a short text takes years. ``regex`` (a dependency of transformers) can
search with a time limit. An expression that Python's ``re`` refuses is refused here too. Syntax that only ``regex`` knows
is read as plain letters, so that an expression means what it means in Python.
"""

import re
import warnings
from typing import Any

import regex

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics._normal import normal_text

SECONDS = 2.0
"""Most seconds for searching one text; an ordinary expression takes microseconds."""
LONGEST_PATTERN = 5_000
LONGEST_TEXT = 1_000_000
"""Most characters of a text; generated texts have a few thousand at most."""
LARGEST = 50_000
"""Most items in an expression with its counted repetitions written out; compile time is proportional to them."""
_ITEM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_LITERAL_BRACE = re.compile(r"(\\.)|\{(?!\d+\}|\d*,\d*\})", re.DOTALL)


def check_pattern(pattern: Any, what: str) -> None:
    """Raise unless ``pattern`` is a regular expression that can be searched for.

    Raises:
        BkdinterpError: the pattern is not text, is empty, does not compile, or exceeds `LONGEST_PATTERN` or `LARGEST`.
    """
    if not isinstance(pattern, str) or not pattern:
        raise BkdinterpError(f"{what}={pattern!r} must be a regular expression that is not empty.")
    if len(pattern) > LONGEST_PATTERN:
        raise BkdinterpError(
            f"{what}={pattern[:40]!r}... has {len(pattern)} characters; the limit is {LONGEST_PATTERN}."
        )
    try:
        with warnings.catch_warnings():
            # Warnings about syntax whose meaning may change in a later version.
            warnings.simplefilter("ignore")
            re.compile(pattern)
            if _size(pattern) > LARGEST:
                raise ValueError(f"written out, its repetitions have more than {LARGEST:,} items")
            regex.compile(_python(pattern))
    except (re.error, regex.error, OverflowError, RecursionError, MemoryError, ValueError) as error:
        shown = pattern if len(pattern) < 200 else pattern[:200] + "..."
        raise BkdinterpError(f"{what}={shown!r} is not a regular expression: {error}.") from None


def search_pattern(pattern: str, text: str, *, case: bool) -> bool:
    """Whether an expression is found in a text or in the text's normal form.

    Args:
        pattern: an expression that passed `check_pattern`.
        text: at most `LONGEST_TEXT` characters.
        case: whether upper and lower case differ.

    Raises:
        BkdinterpError: the text is longer, or the search takes more than `SECONDS`.
    """
    if len(text) > LONGEST_TEXT:
        raise BkdinterpError(
            f"A text of {len(text)} characters is too long to search for the expression {pattern[:60]!r}; the limit is "
            f"{LONGEST_TEXT}."
        )
    flags, normal = 0 if case else regex.IGNORECASE, normal_text(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = regex.compile(_python(pattern), flags)
        forms = (text,) if normal == text else (text, normal)
        return any(found.search(form, timeout=SECONDS) is not None for form in forms)
    except TimeoutError:
        raise BkdinterpError(
            f"Searching {text[:40]!r}... for the expression {pattern[:60]!r} takes more than {SECONDS:g} seconds: it can "
            "match in too many ways. Write it without nested repetitions, or use Payload('a typical part of the output')."
        ) from None


def _python(pattern: str) -> str:
    """The expression with non-repetition braces escaped: ``regex`` would read ``a{e<=3}`` as "approximately a"."""
    return _LITERAL_BRACE.sub(lambda m: m[1] or r"\{", pattern)


def _size(pattern: str) -> int:
    """Number of items in a valid expression with its counted repetitions written out; comments count too."""
    # For each open group: the items before the last one, and the size of the last one, which a repetition multiplies.
    groups = [[0, 0]]
    for item in _ITEM.finditer(pattern):
        if item[0] == "(":
            groups.append([0, 0])
        elif item[0] == ")" and len(groups) > 1:
            size = max(1, sum(groups.pop()))
            groups[-1] = [sum(groups[-1]), size]
        elif item[0][0] == "{" and len(item[0]) > 1:
            groups[-1][1] *= max([1, *(int(n) for n in item.groups() if n)])
        else:
            groups[-1] = [sum(groups[-1]), 1]
    return sum(sum(group) for group in groups)
