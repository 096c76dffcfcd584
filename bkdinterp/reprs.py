"""Short reprs: one line that fits a terminal, whatever the object holds. No torch, no forwards.

A class says ``__repr__ = short_repr`` in its body (a dataclass then keeps it). Tensors are shown by shape, long texts
and collections are cut, and control characters are escaped: a name may come from a file that nobody has read yet.
"""

from collections.abc import Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

LIMIT = 300
"""Characters of a whole repr; cut off behind."""

FIELD = 60
"""Characters of one field."""


def short_repr(self: Any) -> str:
    """``Name(field=value, ...)`` of a dataclass: fields with repr, private ones left out."""
    shown = [f.name for f in fields(self) if f.repr and not f.name.startswith("_")]
    parts = [f"{name}={short(getattr(self, name))}" for name in shown]
    return cut(f"{type(self).__name__}({', '.join(parts)})", LIMIT)


def short(value: Any) -> str:
    """One value in at most `FIELD` characters or so: shapes of tensors, sizes of what is too long."""
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
    return f"<{type(value).__name__}>"  # another library's: a tokenizer's repr is its whole vocabulary


def cut(text: str, limit: int) -> str:
    """One line of at most ``limit`` characters, control characters escaped."""
    # Only a piece of it: escaping a megabyte takes long, too.
    piece = "".join(c if c.isprintable() else _escaped(c) for c in text[: limit + 1])
    if len(piece) <= limit and len(text) <= limit:
        return piece
    return f"{piece[: limit - 3]}..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _items(value: Any) -> list[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)


def _heavy(value: Any) -> bool:
    """Whether a repr may be long: neither a short scalar nor a value with few characters."""
    if value is None or isinstance(value, bool | int | float):
        return False
    if isinstance(value, str):
        return len(value) > FIELD
    return not (is_dataclass(value) and not isinstance(value, Sized))
