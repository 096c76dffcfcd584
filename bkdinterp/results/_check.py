"""Whether the fields of a saved result have the types and shapes that its class declares. No forward pass.

A file can be damaged or made to fit its hash; what it holds must not crash later, in a repr or a table. The annotations
are the contract: plain types, unions, literals, containers, and jaxtyping shapes whose axis names are shared by all the
fields of one result.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.values import shown


def check_fields(result: Any) -> None:
    """Hold every field of a dataclass against its annotation.

    Raises:
        ArtefactError: a field that does not fit; it is named with what it should be.
    """
    hints = get_type_hints(type(result))
    with jaxtyped("context"):
        for f in fields(result):
            if f.init and not _fits(getattr(result, f.name), hints[f.name]):
                value = getattr(result, f.name)
                found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
                raise ArtefactError(
                    f"field {f.name!r} of {type(result).__name__} is {found}, not {_name(hints[f.name])}"
                )


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            _fits(key, parts[0]) and _fits(item, parts[1]) for key, item in value.items()
        )
    if not isinstance(hint, type):
        return True  # callables and the like, which no file can hold
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return hint.__name__
    return getattr(hint, "__name__", None) or str(hint)
