"""Checks of a loaded value's fields against its class's annotations: types, shapes, dtypes and shared axes.

Used only when loading, because the content of a file cannot be trusted. No forwards.
"""

import collections.abc
import math
import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.values import shown

_MAPPINGS = (dict, collections.abc.Mapping)
_SEQUENCES = (list, collections.abc.Sequence)
_UNIONS = (Union, types.UnionType)
# Name, tensor and annotation of each array field.
Arrays = list[tuple[str, Any, Any]]


def check_fields(value: Any, place: str = "") -> None:
    """Raise unless every init field of a dataclass fits its annotation, and so do those of all dataclasses inside of it.

    Axis names are bound across the fields: ``effects: [layer head example]`` and ``base: [example]`` must agree. A class
    whose ``from_dict`` makes other values from plain ones need not check what is in them: it is seen here.

    Args:
        value: the dataclass.
        place: what comes before a field's name in a message.

    Raises:
        ArtefactError: names the first field that does not fit.
    """
    hints = _hints(type(value))
    arrays: Arrays = []
    for field in fields(value):
        if field.init:
            part, name = getattr(value, field.name), place + field.name
            _check(part, hints.get(field.name, Any), name, arrays)
            _check_inside(part, name)
    # Each fits by itself; now check that their axes agree. All in this frame, because it binds the axis names.
    with jaxtyped("context"):
        for name, array, hint in arrays:
            if not isinstance(array, hint):
                raise ArtefactError(
                    f"field {name!r} is {_found(array)}, but must be {_words(hint)} with the axes of the other fields."
                )


def same_length(**sizes: int) -> None:
    """Raise unless all sizes are equal.

    Raises:
        ArtefactError: names the sizes.
    """
    if len(set(sizes.values())) > 1:
        raise ArtefactError(
            f"the lengths of {', '.join(f'{name} ({n})' for name, n in sizes.items())} differ."
        )


def within(
    low: float | int | None, high: float | int | None, **values: Tensor | Sequence[float | int] | float | int
) -> None:
    """Raise unless all numbers are finite and from ``low`` to ``high``; None leaves an end open.

    Raises:
        ArtefactError: names the field.
    """
    for name, given in values.items():
        x = torch.as_tensor(given).double()
        inside = x.isfinite() & (x >= (-math.inf if low is None else low))
        inside &= x <= (math.inf if high is None else high)
        if not bool(inside.all()):
            words = {(True, False): f", at least {low}", (False, True): f", at most {high}"}
            ends = words.get(
                (low is not None, high is not None), "" if low is None else f" from {low} to {high}"
            )
            raise ArtefactError(f"{name} must be finite numbers{ends}.")


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except (
        NameError,
        TypeError,
    ):  # a name that exists only for type checkers; use the hints that can be read
        return {f.name: f.type for f in fields(cls) if not isinstance(f.type, str)}


def _check_inside(value: Any, name: str) -> None:
    """Every dataclass in a value, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        check_fields(value, f"{name}.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_inside(item, f"{name}[{shown(key)}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_inside(item, f"{name}[{i}]")


def _check(value: Any, hint: Any, name: str, arrays: Arrays) -> None:
    if not _fits(value, hint, name, arrays):
        raise ArtefactError(f"field {name!r} is {_found(value)}, but must be {_words(hint)}.")


def _fits(value: Any, hint: Any, name: str, arrays: Arrays) -> bool:
    """Whether a value fits; items of containers are checked one by one, so that the message can name the item."""
    if hint is Any or isinstance(hint, TypeVar | str):
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, inner = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return any(_matches(value, part, name, arrays) for part in inner)
    if origin is Literal:
        return any(type(value) is type(word) and value == word for word in inner)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        arrays.append((name, value, hint))
        return isinstance(value, hint)
    if origin is not None:
        return _container(value, origin, inner, name, arrays)
    return _plain(value, hint)


def _container(value: Any, origin: Any, inner: tuple[Any, ...], name: str, arrays: Arrays) -> bool:
    if origin in _MAPPINGS:
        if not isinstance(value, dict):
            return False
        for key, item in value.items():
            _check(key, inner[0], f"{name} (a key)", arrays)
            _check(item, inner[1], f"{name}[{shown(key)}]", arrays)
        return True
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = (inner[0],) * len(value) if inner[1:] == (...,) else inner
        if len(kinds) != len(value):
            return False
        for i, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            _check(item, kind, f"{name}[{i}]", arrays)
        return True
    if origin in _SEQUENCES:
        if not isinstance(value, list | tuple):
            return False
        for i, item in enumerate(value):
            _check(item, inner[0], f"{name}[{i}]", arrays)
        return True
    return not isinstance(origin, type) or isinstance(value, origin)


def _plain(value: Any, hint: Any) -> bool:
    if not isinstance(hint, type):
        return True
    if isinstance(value, bool):  # a bool is an int in Python, but not meant here
        return hint is bool or hint is object
    if hint is float:
        return isinstance(value, float | int)
    if hint is int and isinstance(value, Enum):
        return False
    return isinstance(value, hint)


def _matches(value: Any, hint: Any, name: str, arrays: Arrays) -> bool:
    found: Arrays = []
    try:
        fits = _fits(value, hint, name, found)
    except ArtefactError:
        return False
    if fits:
        arrays.extend(found)
    return fits


def _found(value: Any) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else shown(value)


def _words(hint: Any) -> str:
    if isinstance(hint, type):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("bkdinterp.", "")
