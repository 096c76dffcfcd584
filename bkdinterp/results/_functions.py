"""Dependencies of a user's function: helpers, constants and classes of the user's own modules. No forwards.

Libraries are left out (the standard library, installed packages and this package), because they have versions.
"""

import functools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")


def names_of(code: CodeType) -> list[str]:
    """Sorted names of globals and attributes that a function's code uses, including inner functions."""
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names.update(names_of(inner))
    return sorted(names)


def leans_on(function: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each of the user's globals that a function uses, including attributes of the user's modules.

    Attributes are not followed through variables, and names made at run time are not seen.
    """
    names, known = names_of(function.__code__), function.__globals__
    for name in names:
        if name not in known:
            continue
        value = known[name]
        if not isinstance(value, ModuleType):
            if _counts(value):
                yield name, value
        elif own_module(value.__name__):
            inside = vars(value)
            yield from ((f"{name}.{x}", inside[x]) for x in names if x in inside and _counts(inside[x]))


def own_methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Methods and constants, by name, of a user's class and of those of its bases that are the user's."""
    for base in cls.__mro__:
        if own_module(base.__module__):
            for name, value in sorted(vars(base).items()):
                if not (name.startswith("__") and name.endswith("__") and not callable(value)):
                    inner = getattr(value, "__func__", getattr(value, "fget", value))
                    yield f"{base.__qualname__}.{name}", inner


@functools.cache
def own_module(name: str | None) -> bool:
    """Whether a module is the user's own: a script, a notebook, or a file that is not installed."""
    top = (name or "").partition(".")[0]
    if not top or (top in sys.stdlib_module_names and top != "__main__") or top == "bkdinterp":
        return False
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    if file is None:  # a notebook, or made at run time; built-in modules have known names
        return True
    places = [Path(p).resolve() for key in _PLACES if (p := sysconfig.get_paths().get(key))]
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in places)


def _counts(value: Any) -> bool:
    """Whether a value counts: constants do, and the user's functions, classes and objects."""
    if isinstance(value, type) or hasattr(value, "__code__"):
        return own_module(getattr(value, "__module__", None))
    return not isinstance(value, ModuleType)
