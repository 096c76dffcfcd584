"""Regular expressions from outside, with limits: a saved result or an organism's manifest may hold any expression.

An expression can be written so that searching a short text takes years. ``regex`` (which transformers brings along)
searches with a limit of time. What Python's ``re`` would refuse is refused here, too, and what only ``regex`` would read
as more than letters is taken as letters, so that an expression means what it means in Python.
"""

import re
import warnings
from typing import Any

import regex

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics._normal import normal_text

SECONDS = 2.0
"""A search of one text may take this long; an honest expression takes microseconds."""
LONGEST_PATTERN = 5_000
LONGEST_TEXT = 1_000_000
"""Characters; generated texts have some thousands at most."""
LARGEST = 50_000
"""Items of an expression whose counted repetitions are written out; compiling takes time in proportion to them."""
_ITEM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_LITERAL_BRACE = re.compile(r"(\\.)|\{(?!\d+\}|\d*,\d*\})", re.DOTALL)


def check_pattern(pattern: Any, what: str) -> None:
    """Raise unless it is a regular expression that can be searched for.

    Raises:
        BkdinterpError: no text, an expression that does not compile, or one larger than `LONGEST_PATTERN` or `LARGEST`.
    """
    if not isinstance(pattern, str) or not pattern:
        raise BkdinterpError(f"{what}={pattern!r} is no expression, or matches every text; give one.")
    if len(pattern) > LONGEST_PATTERN:
        raise BkdinterpError(
            f"{what}={pattern[:40]!r}... has {len(pattern)} characters; at most {LONGEST_PATTERN} are searched for."
        )
    try:
        with warnings.catch_warnings():
            # About syntax that may mean something else one day.
            warnings.simplefilter("ignore")
            re.compile(pattern)
            if _size(pattern) > LARGEST:
                raise ValueError(f"its repetitions written out are more than {LARGEST:,} items")
            regex.compile(_python(pattern))
    except (re.error, regex.error, OverflowError, RecursionError, MemoryError, ValueError) as error:
        shown = pattern if len(pattern) < 200 else pattern[:200] + "..."
        raise BkdinterpError(f"{what}={shown!r} is not a regular expression: {error}.") from None


def search_pattern(pattern: str, text: str, *, case: bool) -> bool:
    """Whether an expression is found in a text as it stands, or in its normal form.

    Args:
        pattern: one that `check_pattern` has let through.
        text: at most `LONGEST_TEXT` characters.
        case: upper and lower case count.

    Raises:
        BkdinterpError: a longer text, or a search of more than `SECONDS`.
    """
    if len(text) > LONGEST_TEXT:
        raise BkdinterpError(
            f"A text of {len(text)} characters is too long to be searched for the expression {pattern[:60]!r}; at most "
            f"{LONGEST_TEXT} are."
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
            f"Searching {text[:40]!r}... for the expression {pattern[:60]!r} takes more than {SECONDS:g} seconds: it can be "
            "matched in too many ways. Write it without repetitions of repetitions, or use Payload('a telling part')."
        ) from None


def _python(pattern: str) -> str:
    """The expression with braces that are no repetition as letters: ``regex`` would read ``a{e<=3}`` as "about a"."""
    return _LITERAL_BRACE.sub(lambda m: m[1] or r"\{", pattern)


def _size(pattern: str) -> int:
    """Items of a valid expression with its counted repetitions written out; letters of comments count, too."""
    # Of each open group: the items before the last one, and the last one's size, which a repetition multiplies.
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
