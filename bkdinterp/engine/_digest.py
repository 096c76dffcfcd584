"""Digests of what a plan or a function computes, equal in every process: what a folder of finished work is known by.

A function counts by its name, its byte code, its defaults and the values it has caught; functions that it calls do not.
Objects with a ``fingerprint`` (models, prompts, results) count by it; of others than tensors, arrays, plain values and
dataclasses only the type and, where they can be called, what calling them runs and the plain values that they hold.
"""

import functools
import hashlib
from dataclasses import fields, is_dataclass
from inspect import getattr_static
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bkdinterp.engine._plan import Plan
from bkdinterp.metrics import SCORES

# Not what is computed, but how much of it there is; the scores are named in the chunks and come last.
_LEFT_OUT = ("bytes", "cost")
_STATE = (Tensor, np.ndarray, bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset)


def plan_digest(plan: Plan) -> str:
    """16 hex digits of all that a plan's chunks compute; equal plans have equal ones."""
    digest = hashlib.sha256()
    for chunk in plan.chunks:
        _feed(digest, {k: v for k, v in chunk.items() if k not in _LEFT_OUT})
    # The package's own scores keep to their names: an update of Python must not orphan a folder.
    own = {
        name: score
        for name, score in plan.scores.items()
        if name not in SCORES or SCORES[name].fn is not score
    }
    if own:
        _feed(digest, own)
    return digest.hexdigest()[:16]


def digest_of(value: Any) -> str:
    """16 hex digits of a value, e.g. of an objective."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any) -> None:
    if _numbers(value):
        _feed(digest, torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, Tensor):
        digest.update(f"T{tuple(value.shape)}{value.dtype}".encode())
        if value.numel():
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(f"K{key}".encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"L{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, set | frozenset):
        _feed(digest, sorted(map(repr, value)))
    elif isinstance(value, CodeType):
        digest.update(f"C{value.co_names}".encode() + value.co_code)
        _feed(digest, value.co_consts)
    elif isinstance(value, functools.partial):
        _feed(digest, (value.func, value.args, value.keywords))
    elif hasattr(value, "__code__"):
        digest.update(f"F{value.__module__}.{value.__qualname__}".encode())
        caught = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        _feed(digest, (value.__code__, value.__defaults__, value.__kwdefaults__, caught))
    elif hasattr(value, "__func__"):
        _feed(digest, (value.__func__, value.__self__))
    elif not isinstance(value, type) and hasattr(value, "fingerprint"):
        digest.update(f"P{type(value).__qualname__}".encode())
        found = value.fingerprint
        _feed(digest, found() if callable(found) else found)
    elif is_dataclass(value) and not isinstance(value, type):
        digest.update(f"D{type(value).__qualname__}".encode())
        _feed(digest, {field.name: getattr(value, field.name) for field in fields(value)})
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        digest.update(f"V{value!r}".encode())
    else:
        # Its repr may hold an address, which is another in every process.
        named = isinstance(value, type) or hasattr(value, "__qualname__")
        kind = value if named else type(value)
        digest.update(f"O{kind.__module__}.{kind.__qualname__}".encode())
        call = getattr_static(kind, "__call__", None)
        if hasattr(call, "__code__"):
            _feed(digest, call.__code__)
            if not named:
                # What it computes with; other objects that it holds count by their types only.
                held = vars(value) if hasattr(value, "__dict__") else {}
                _feed(digest, {name: part for name, part in held.items() if isinstance(part, _STATE)})


def _numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
