"""Digests of values and of what functions compute, equal in every process: what finished work is known by. No forwards.

A function counts by its name, its byte code, its defaults, the values it has caught, and the functions and plain values
of the caller's own modules that it names, and so on through these. Functions of installed packages count by their name:
the package's version is part of every key (`Store`). Objects with a ``fingerprint`` (models, prompts, results) count by
it; others by their type, what calling them runs, and their attributes: give an object whose attributes change as it
works a ``fingerprint`` that says what it is known by.
"""

import functools
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import getattr_static
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What stands in these folders has a version of its own.
_INSTALLED = tuple(
    str(Path(p).resolve())
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (p := sysconfig.get_paths().get(key))
)
_PACKAGE = __name__.partition(".")[0]


def digest_of(value: Any) -> str:
    """16 hex digits of a value, e.g. of an objective."""
    digest = hashlib.sha256()
    _Feeder(digest).feed(value)
    return digest.hexdigest()[:16]


class _Feeder:
    """Feeds values into a hash; what is being fed already is not fed again, so that cycles end."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._open: set[int] = set()
        self._functions: set[FunctionType] = set()

    def feed(self, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
            self._tell(f"V{value!r}")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            self.feed(torch.from_numpy(np.ascontiguousarray(value)))
        elif isinstance(value, Tensor):
            self._tell(f"T{tuple(value.shape)}{value.dtype}")
            if value.numel() and not value.is_meta:
                flat = value.detach().cpu().contiguous().reshape(-1)
                self._digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, set | frozenset):
            self.feed(sorted(map(repr, value)))
        elif id(value) in self._open:
            self._tell("R")
        else:
            self._open.add(id(value))
            self._feed_object(value)
            self._open.discard(id(value))

    def _feed_object(self, value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                self._tell(f"K{key}")
                self.feed(value[key])
        elif isinstance(value, list | tuple):
            self._tell(f"L{len(value)}")
            for item in value:
                self.feed(item)
        elif isinstance(value, CodeType):
            self._digest.update(f"C{value.co_names}".encode() + value.co_code)
            self.feed(value.co_consts)
        elif isinstance(value, functools.partial):
            self.feed((value.func, value.args, value.keywords))
        elif isinstance(value, FunctionType):
            self._feed_function(value)
        elif hasattr(value, "__func__"):
            self.feed((value.__func__, value.__self__))
        elif not isinstance(value, type) and hasattr(value, "fingerprint"):
            self._tell(f"P{type(value).__qualname__}")
            found = value.fingerprint
            self.feed(found() if callable(found) else found)
        elif is_dataclass(value) and not isinstance(value, type):
            self._tell(f"D{type(value).__qualname__}")
            self.feed({field.name: getattr(value, field.name) for field in fields(value)})
        else:
            self._feed_other(value)

    def _feed_function(self, function: FunctionType) -> None:
        self._tell(f"F{function.__module__}.{function.__qualname__}")
        caught = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        self.feed((function.__code__, function.__defaults__, function.__kwdefaults__, caught))
        if function not in self._functions and not _installed(function.__globals__):
            self._functions.add(function)
            for name, value in _named(function):
                self._tell(f"N{name}")
                self.feed(value)

    def _feed_other(self, value: Any) -> None:
        # Its repr may hold an address, which is another in every process.
        named = isinstance(value, type) or hasattr(value, "__qualname__")
        kind = value if named else type(value)
        self._tell(f"O{kind.__module__}.{kind.__qualname__}")
        call = getattr_static(kind, "__call__", None)
        if isinstance(call, FunctionType):
            self.feed(call)
        if not named:
            self.feed(dict(getattr(value, "__dict__", {})))

    def _tell(self, text: str) -> None:
        self._digest.update(text.encode("utf-8", "backslashreplace"))


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Functions and plain values of the caller's own modules that a function names, in the order of their names."""
    names = sorted(set(_names(function.__code__)))
    around = function.__globals__
    for name in names:
        value = around.get(name)
        if isinstance(value, ModuleType):
            if not _installed(vars(value)):
                for part in names:
                    if _counts(inside := vars(value).get(part)):
                        yield f"{name}.{part}", inside
        elif _counts(value):
            yield name, value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _counts(value: Any) -> bool:
    """Whether a named value may decide what a function computes; None may be a name that is not there."""
    plain = bool | int | float | complex | str | bytes | list | tuple | dict | set | frozenset
    return isinstance(value, plain | Tensor | np.ndarray | FunctionType | functools.partial)


def _installed(around: dict[str, Any]) -> bool:
    """Whether a module, given by its names, is this package's own or lies where packages are installed."""
    if str(around.get("__name__", "")).partition(".")[0] == _PACKAGE:
        return True
    file = around.get("__file__")
    return file is not None and str(Path(file).resolve()).startswith(_INSTALLED)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
