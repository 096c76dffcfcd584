"""What a function of the user's leans on: helpers, constants and classes of the user's own modules. No forwards.

Libraries are left out (the standard one, installed packages, this one): they have versions, and no end.
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
    """Global and attribute names that a function's code, or a function inside of it, uses; sorted."""
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names.update(names_of(inner))
    return sorted(names)


def leans_on(function: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each global of the user's that a Python function uses, its modules' attributes among them.

    What an attribute is taken from is not followed through variables, and names made at run time are not seen.
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
    """What a class of the user's defines, and its bases that are the user's: methods and constants, by name."""
    for base in cls.__mro__:
        if own_module(base.__module__):
            for name, value in sorted(vars(base).items()):
                if not (name.startswith("__") and name.endswith("__") and not callable(value)):
                    inner = getattr(value, "__func__", getattr(value, "fget", value))
                    yield f"{base.__qualname__}.{name}", inner


@functools.cache
def own_module(name: str | None) -> bool:
    """Whether a module is the user's: a script, a notebook, a file outside of what is installed."""
    top = (name or "").partition(".")[0]
    if not top or (top in sys.stdlib_module_names and top != "__main__") or top == "bkdinterp":
        return False
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    if file is None:  # a notebook, or made at run time; what is built in has a known name
        return True
    places = [Path(p).resolve() for key in _PLACES if (p := sysconfig.get_paths().get(key))]
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in places)


def _counts(value: Any) -> bool:
    """Constants count, and so do functions, classes and objects of the user's."""
    if isinstance(value, type) or hasattr(value, "__code__"):
        return own_module(getattr(value, "__module__", None))
    return not isinstance(value, ModuleType)
