"""Checks of a caller's arguments: texts, numbers, seeds and paths, normalised or refused. No torch, no forwards.

Each function returns the plain Python value (a numpy integer becomes an int, a numpy string a str), or raises an
error that names the argument, the value and the fix. Callers check at the boundary, once, before any expensive work.
"""

import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from bkdinterp.errors import BkdinterpError, PromptError

SEEDS = 2**32
"""Seeds must be below this; numpy and scikit-learn accept no larger ones."""

DEEPEST_PATH = 300
"""Most folders in a path: pathlib creates missing parents recursively, one level of Python's stack each."""


def as_text(value: Any, what: str, *, error: type[BkdinterpError] = PromptError) -> str:
    """A str that can be written as UTF-8.

    Raises:
        error: the value is not a str (None, NaN, a number, bytes), or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise error(f"{what} must be text; got {shown(value)} ({type(value).__name__}).")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise error(
            f"{what} holds half of a surrogate pair at character {problem.start} ({value[problem.start]!a}); "
            "decode the text again, or drop the character."
        ) from None
    return str(value)


def as_texts(values: Any, what: str, *, error: type[BkdinterpError] = PromptError) -> tuple[str, ...]:
    """Several texts as a tuple; a single string is refused, because it would be read letter by letter.

    Raises:
        error: a single string, a mapping, a set (its order differs between processes), a value that cannot be
            iterated, or an item that is not text; the message gives the item's index.
    """
    if isinstance(values, str | bytes):
        raise error(f"{what} must be a list of texts; got {shown(values)}. For one text give a list of one.")
    if isinstance(values, Mapping | Set) or not is_listing(values):
        raise error(f"{what} must be a list of texts; got {shown(values)} ({type(values).__name__}).")
    return tuple(as_text(value, f"{what}[{i}]", error=error) for i, value in enumerate(values))


def is_listing(value: Any) -> bool:
    """Whether ``value`` is a collection of items; text, bytes and arrays or tensors without a dimension are not."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, str | bytes | bytearray | type)
        and getattr(value, "ndim", 1) != 0
    )


def as_items(values: Any, what: str, *, error: type[BkdinterpError] = BkdinterpError) -> tuple[Any, ...]:
    """Several values as a tuple.

    Raises:
        error: text, a mapping, or a value that cannot be iterated.
    """
    if isinstance(values, Mapping) or not is_listing(values):
        raise error(f"{what}={shown(values)} must be a list; for one value give a list of one.")
    return tuple(values)


def as_integers(values: Any, what: str, *, error: type[BkdinterpError] = BkdinterpError) -> Iterator[int]:
    """Several integers, one at a time, so that the caller can stop at the first one out of range.

    Raises:
        error: as `as_items`, or an item is not an integer (1.7 is not rounded).
    """
    if isinstance(values, Mapping) or not is_listing(values):
        raise error(f"{what}={shown(values)} must be a list of integers; for one give a list of one.")
    return (as_integer(value, f"{what}[{i}]", error=error) for i, value in enumerate(values))


def as_integer(
    value: Any,
    what: str,
    *,
    low: int | None = None,
    high: int | None = None,
    error: type[BkdinterpError] = BkdinterpError,
) -> int:
    """An int from ``low`` to ``high``, both included; accepts integers of numpy and torch, but not True or 3.0.

    Raises:
        error: the value is not an integer, or is out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise error(f"{what}={shown(value)} must be an integer.")
    try:
        whole = value.__index__()
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several, or of floats
        raise error(f"{what}={shown(value)} must be one integer.") from None
    if whole.bit_length() > 10_000:  # Python writes no integer of more than 4,300 digits into a message
        raise error(f"{what} is an integer of {whole.bit_length()} bits; give a smaller one.")
    if (low is not None and whole < low) or (high is not None and whole > high):
        raise error(f"{what}={shown(whole)} must be {_range(low, high)}.")
    return whole


def as_number(
    value: Any,
    what: str,
    *,
    low: float | int | None = None,
    high: float | int | None = None,
    error: type[BkdinterpError] = BkdinterpError,
) -> float:
    """A finite float from ``low`` to ``high``, both included; accepts numpy numbers and one-element tensors.

    Raises:
        error: the value is not a number, is NaN or infinite, or is out of range.
    """
    if isinstance(value, bool | str | bytes) or not (
        isinstance(value, numbers.Real) or hasattr(value, "__float__")
    ):
        raise error(f"{what}={shown(value)} must be a number.")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise error(f"{what}={shown(value)} must be one number.") from None
    if not math.isfinite(number):
        raise error(f"{what}={number} must be a finite number.")
    if (low is not None and number < low) or (high is not None and number > high):
        raise error(f"{what}={number:g} must be {_range(low, high)}.")
    return number


def as_seed(value: Any, what: str = "seed", *, error: type[BkdinterpError] = BkdinterpError) -> int:
    """A seed: an integer from 0 to 2**32 - 1.

    Raises:
        error: anything else.
    """
    return as_integer(value, what, low=0, high=SEEDS - 1, error=error)


def as_flag(value: Any, what: str, *, error: type[BkdinterpError] = BkdinterpError) -> bool:
    """True or False; accepts numpy's booleans, but not other values that Python treats as true or false.

    Raises:
        error: anything else, e.g. ``"no"``, which Python treats as true.
    """
    if isinstance(value, bool) or (
        type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
    ):
        return bool(value)
    raise error(f"{what}={shown(value)} must be True or False.")


def as_path(value: Any, what: str, *, error: type[BkdinterpError] = BkdinterpError) -> Path:
    """A path with ``~`` expanded.

    Raises:
        error: the value is neither text nor a path, is empty, or holds a NUL character.
    """
    if not isinstance(value, str | os.PathLike):
        raise error(f"{what}={shown(value)} must be a path.")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise error(f"{what}={shown(text)} must be a path: non-empty text without a NUL character.")
    if len(parts := Path(text).parts) > DEEPEST_PATH:
        raise error(f"{what}={shown(text)} is {len(parts)} folders deep; the limit is {DEEPEST_PATH}.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise error(f"{what}={shown(text)} must be a path that can be written as UTF-8.") from None
    try:
        return Path(text).expanduser()
    except RuntimeError as problem:  # the home folder cannot be found
        raise error(f"{what}={text!r}: {problem}") from None


def as_choice(
    value: Any, what: str, allowed: Iterable[str], *, error: type[BkdinterpError] = BkdinterpError
) -> str:
    """One of the allowed words.

    Raises:
        error: anything else; the message lists the allowed words.
    """
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise error(f"Unknown {what} {shown(value)}; choose one of {', '.join(words)}.")
    return str(value)


def shown(value: Any, limit: int = 60) -> str:
    """A value for an error message: its repr, shortened, with characters escaped that UTF-8 cannot hold."""
    try:
        text = repr(value)
    except Exception as error:  # a foreign object's own repr
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _range(low: float | int | None, high: float | int | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"
