"""Short reprs: one line that fits a terminal, whatever the object contains. No torch, no forwards.

A class sets ``__repr__ = short_repr`` in its body (a dataclass then keeps it). Tensors are shown by their shape, and long
texts and collections are cut. Control characters are escaped, because a name may come from an untrusted file.
"""

from collections.abc import Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

LIMIT = 300
"""Most characters of a whole repr; the rest is cut off."""

FIELD = 60
"""Most characters of one field."""


def short_repr(self: Any) -> str:
    """``Name(field=value, ...)`` for a dataclass; shows the public fields that have ``repr=True``."""
    shown = [f.name for f in fields(self) if f.repr and not f.name.startswith("_")]
    parts = [f"{name}={short(getattr(self, name))}" for name in shown]
    return cut(f"{type(self).__name__}({', '.join(parts)})", LIMIT)


def short(value: Any) -> str:
    """One value in about `FIELD` characters at most: a tensor as its shape, a long collection as its size."""
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"[{' x '.join(map(str, shape))}]" if len(shape) else "[scalar]"
    if isinstance(value, str):
        return cut(repr(str(value)), FIELD)
    if isinstance(value, Mapping | tuple | list | set | frozenset):
        # Counted before they are printed: the repr of a million numbers takes a second.
        if len(value) <= 8 and not any(_heavy(item) for item in _items(value)):
            text = repr(value)
            if len(text) <= FIELD:
                return text
        return f"<{len(value)} {'items' if len(value) != 1 else 'item'}>"
    if callable(value) and hasattr(value, "__name__"):
        return cut(f"<{value.__name__}>", FIELD)
    if _heavy(value) and type(value).__repr__ is object.__repr__:
        return f"<{type(value).__name__}>"
    if is_dataclass(value) or type(value).__module__.partition(".")[0] in ("bkdinterp", "builtins"):
        return cut(repr(value), FIELD)
    return f"<{type(value).__name__}>"  # from another library: a tokenizer's repr is its whole vocabulary


def cut(text: str, limit: int) -> str:
    """One line of at most ``limit`` characters, control characters escaped."""
    # Escape only the part that is shown: a megabyte would take long.
    piece = "".join(c if c.isprintable() else _escaped(c) for c in text[: limit + 1])
    if len(piece) <= limit and len(text) <= limit:
        return piece
    return f"{piece[: limit - 3]}..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _items(value: Any) -> list[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)


def _heavy(value: Any) -> bool:
    """Whether the repr of a value may be long."""
    if value is None or isinstance(value, bool | int | float):
        return False
    if isinstance(value, str):
        return len(value) > FIELD
    return not (is_dataclass(value) and not isinstance(value, Sized))
