"""Digests of values and functions, equal in every process; they identify finished work. No forwards.

The digest of a function covers its name, byte code (not its docstring), defaults and closure, and the functions,
constants and classes of the user's own modules that it uses, directly or indirectly. Objects with a ``fingerprint``
(models, prompts, results) count by their fingerprint, PyTorch modules by their weights, and the user's other objects by
their attributes and methods. For objects of libraries only the type and the code of ``__call__`` count.
"""

import functools
import hashlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from dis import get_instructions, hasconst
from enum import Enum
from fractions import Fraction
from inspect import CO_NEWLOCALS, getattr_static
from pathlib import PurePath
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    ModuleType,
    NoneType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bkdinterp.errors import PlanError
from bkdinterp.results._functions import leans_on, own_methods, own_module
from bkdinterp.values import shown

# Most functions and objects that one value may depend on; a score depends on a handful.
LIMIT = 2000

# Values of Python and torch whose repr is complete and the same in every process.
_PLAIN = (
    *(NoneType, bool, int, float, complex, str, bytes, bytearray, range, slice),
    *(Decimal, Fraction, date, time, timedelta, PurePath, torch.dtype, torch.device),
)


def digest_of(value: Any) -> str:
    """16 hex digits that identify a value, e.g. an objective."""
    digest = _Digest()
    try:
        _feed(digest, value)
    except RecursionError:
        raise PlanError(
            f"{shown(value)} contains itself, or is nested too deeply; give it a `fingerprint` attribute that changes with "
            "what it computes."
        ) from None
    return digest.hexdigest()[:16]


class _Digest:
    """A hash in which a shared dependency is hashed once, and a cycle of dependencies is cut."""

    def __init__(self, above: "_Digest | None" = None) -> None:
        self._hash = hashlib.sha256()
        self.update = self._hash.update
        self.hexdigest = self._hash.hexdigest
        # Keyed by id; the values are kept alive so that their ids are not reused.
        self._known: dict[int, tuple[str, Any]] = {} if above is None else above._known
        self._open: list[int] = [] if above is None else above._open

    def part(self, value: Any, feed: Callable[["_Digest"], None]) -> None:
        """Add a function, class or object, which ``feed`` describes."""
        if id(value) in self._open:
            self.update(f"R{len(self._open) - self._open.index(id(value))}".encode())
            return
        if id(value) not in self._known:
            if len(self._known) >= LIMIT:
                raise PlanError(
                    f"A score or function depends on more than {LIMIT} functions and objects; give it a `fingerprint` "
                    "attribute that changes with what it computes."
                )
            inner = _Digest(self)
            self._open.append(id(value))
            feed(inner)
            self._open.pop()
            self._known[id(value)] = (inner.hexdigest(), value)
        self.update(self._known[id(value)][0].encode())


def _feed(digest: _Digest, value: Any) -> None:
    if _numbers(value):
        _feed(digest, torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, Tensor):
        digest.update(f"T{tuple(value.shape)}{value.dtype}".encode())
        if value.numel():
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray | np.generic):
        digest.update(f"N{value.dtype}{value.shape}".encode())
        _feed(digest, value.tolist())
    elif isinstance(value, dict | MappingProxyType):
        digest.update(f"K{len(value)}".encode())
        for key in sorted(value, key=str):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple | deque):
        digest.update(f"L{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, set | frozenset):
        _feed(digest, sorted(digest_of(item) for item in value))
    elif isinstance(value, CodeType):
        digest.update(f"C{value.co_names}".encode() + value.co_code)
        _feed(digest, _without_docstring(value))
    elif isinstance(value, functools.partial):
        _feed(digest, (value.func, value.args, value.keywords))
    elif not isinstance(value, type) and hasattr(value, "fingerprint"):
        digest.update(f"P{type(value).__qualname__}".encode())
        found = value.fingerprint
        _feed(digest, found() if callable(found) else found)
    elif isinstance(value, FunctionType):
        digest.part(value, lambda inner: _feed_function(inner, value))
    elif hasattr(value, "__func__"):
        _feed(digest, (value.__func__, value.__self__))
    elif is_dataclass(value) and not isinstance(value, type):
        digest.update(f"D{type(value).__qualname__}".encode())
        _feed(digest, {field.name: getattr(value, field.name) for field in fields(value)})
        _feed_class(digest, type(value))
    elif isinstance(value, torch.nn.Module):
        digest.update(f"M{type(value).__module__}.{type(value).__qualname__}".encode())
        digest.part(value, lambda inner: _feed(inner, dict(value.state_dict())))
        _feed_class(digest, type(value))
    elif isinstance(value, BuiltinMethodType) and not isinstance(value.__self__, ModuleType | NoneType):
        digest.update(f"B{value.__qualname__}".encode())
        _feed(digest, value.__self__)
    elif isinstance(value, _PLAIN):
        digest.update(f"V{value!r}".encode())
    elif isinstance(value, re.Pattern):  # its repr is shortened
        _feed(digest, (value.pattern, value.flags))
    else:
        # Its repr may hold a memory address, which differs between processes.
        named = isinstance(value, type) or hasattr(value, "__qualname__")
        kind = value if named else type(value)
        # Methods of built-in types, and slots, have no module.
        module = getattr(kind, "__module__", None)
        digest.update(f"O{module}.{kind.__qualname__}".encode())
        if module is not None and own_module(module):
            if not isinstance(value, type):
                digest.part(value, lambda inner: _feed(inner, _state(value)))
            _feed_class(digest, kind if isinstance(kind, type) else type(value))
            return
        if isinstance(value, Enum):
            _feed(digest, value.value)
        call = getattr_static(kind, "__call__", None)
        if hasattr(call, "__code__"):
            _feed(digest, call.__code__)


def _without_docstring(code: CodeType) -> tuple[Any, ...]:
    """The constants of a code object, without the docstring: it says nothing about what is computed."""
    first, *rest = code.co_consts or (None,)
    # Code that is no class body and has a string first that it never loads.
    unused = all(step.opcode not in hasconst or step.arg != 0 for step in get_instructions(code))
    return (
        (None, *rest)
        if isinstance(first, str) and code.co_flags & CO_NEWLOCALS and unused
        else code.co_consts
    )


def _feed_function(digest: _Digest, value: FunctionType) -> None:
    digest.update(f"F{value.__module__}.{value.__qualname__}".encode())
    caught = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    _feed(digest, (value.__code__, value.__defaults__, value.__kwdefaults__, caught))
    if own_module(value.__module__):
        for name, used in leans_on(value):
            digest.update(f"G{name}".encode())
            _feed(digest, used)


def _feed_class(digest: _Digest, cls: type) -> None:
    """Add a class of the user's: the code of its methods."""

    def feed(inner: _Digest) -> None:
        for name, method in own_methods(cls):
            inner.update(f"A{name}".encode())
            _feed(inner, method)

    if own_module(cls.__module__):
        digest.part(cls, feed)


def _state(value: Any) -> dict[str, Any]:
    """An object's attributes, from its ``__dict__`` and its slots."""
    slots = [
        n
        for base in type(value).__mro__
        for n, x in vars(base).items()
        if isinstance(x, MemberDescriptorType)
    ]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**held, **getattr(value, "__dict__", {})}


def _numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
