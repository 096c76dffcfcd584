"""Exact conversion of values to JSON plus named tensors, and back: tuples stay tuples, NaN stays NaN. No pickles.

A saved file can only name classes that were registered here, so a file cannot choose which code runs when it is loaded.
"""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch

from bkdinterp.errors import ArtefactError
from bkdinterp.metrics import Outcome, Payload
from bkdinterp.results._fields import check_fields
from bkdinterp.results._files import LARGEST
from bkdinterp.results._fingerprint import Fingerprint
from bkdinterp.results._tensors import as_saved
from bkdinterp.sites import Component, HeadId, HeadSet, Site, Where
from bkdinterp.stats import Comparison, Interval

_VALUES: dict[str, type] = {}


def register_value(cls: type) -> type:
    """Allow fields of this class to be saved; usable as a decorator.

    The class must have ``to_dict()`` and ``from_dict(d)``, or be an Enum, or a dataclass whose init fields can be saved.

    Raises:
        ArtefactError: another class with that name is registered, or the class is none of the above.
    """
    known = _VALUES.get(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ArtefactError(
            f"{cls.__name__} is already registered by {known.__module__}; rename one of them."
        )
    if not (_has_dict(cls) or issubclass(cls, Enum) or is_dataclass(cls)):
        raise ArtefactError(f"{cls.__name__} cannot be saved: give it to_dict() and from_dict(d).")
    _VALUES[cls.__name__] = cls
    return cls


def encode(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON; tensors inside it are added to ``tensors`` under ``name`` plus their path.

    Raises:
        ArtefactError: a value whose type has no JSON form; the message names the field.
    """
    if isinstance(value, torch.Tensor):
        # {"a": {"b": x}, "a.b": y} would give two tensors the same name.
        while name in tensors:
            name += "'"
        tensors[name] = as_saved(value)
        return {"$tensor": name}
    if isinstance(value, Enum) or (type(value).__name__ in _VALUES and not isinstance(value, type)):
        return _encode_object(value, name, tensors)
    if isinstance(value, np.bool_ | np.integer | np.floating):
        plain = {"b": bool, "f": float}.get(value.dtype.kind, int)
        value = plain(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ArtefactError(f"Field {name!r} holds an integer of more than 64 bits, which has no saved form.")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, tuple | list):
        items = [encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(item, f"{name}.{key}", tensors) for key, item in value.items()}
        pairs = enumerate(value.items())
        return {
            "$items": [
                [encode(k, f"{name}.{i}.key", tensors), encode(v, f"{name}.{i}", tensors)]
                for i, (k, v) in pairs
            ]
        }
    raise ArtefactError(
        f"Field {name!r} holds a {type(value).__name__}, which has no saved form: use tensors, JSON values "
        "or a class given to bkdinterp.results.register_value, or override _to_json and _from_json."
    )


def decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of `encode`; half of a surrogate pair, which no table can hold, becomes the replacement character.

    Raises:
        ArtefactError: a missing tensor, a class that is not registered, or a field of the wrong type.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if isinstance(value, str):
        return _whole(value)
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {_whole(key): decode(item, tensors) for key, item in value.items()}
    content = value[tag]
    decoders: dict[str, Callable[[], Any]] = {
        "$tensor": lambda: _tensor(content, tensors),
        "$float": lambda: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content],
        "$tuple": lambda: tuple(decode(item, tensors) for item in content),
        "$items": lambda: {decode(k, tensors): decode(v, tensors) for k, v in content},
        "$type": lambda: _decode_object(content, value["value"], tensors),
    }
    if tag not in decoders:
        raise ArtefactError(f"Unknown marker {tag!r}; the file was written by a newer bkdinterp.")
    return decoders[tag]()


def _whole(text: str) -> str:
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def _encode_object(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    cls = type(value)
    if _VALUES.get(cls.__name__) is not cls:
        raise ArtefactError(
            f"Field {name!r} holds a {cls.__name__}; register it with bkdinterp.results.register_value."
        )
    if isinstance(value, Enum):
        body = value.value
    elif _has_dict(cls):
        body = encode(value.to_dict(), name, tensors)
    else:
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        body = {key: encode(part, f"{name}.{key}", tensors) for key, part in parts.items()}
    return {"$type": cls.__name__, "value": body}


def _decode_object(class_name: str, body: Any, tensors: dict[str, torch.Tensor]) -> Any:
    cls: Any = _VALUES.get(class_name)
    if cls is None:
        raise ArtefactError(
            f"Unknown class {class_name!r}; import the module that defines and registers it first."
        )
    content = decode(body, tensors)
    if issubclass(cls, Enum):
        return cls(content)
    value = cls.from_dict(content) if _has_dict(cls) else cls(**content)
    if is_dataclass(value):
        check_fields(value)
    return value


def _tensor(name: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    if name not in tensors:
        raise ArtefactError(f"Tensor {name!r} is missing from tensors.safetensors.")
    return tensors[name]


def _has_dict(cls: type) -> bool:
    return hasattr(cls, "to_dict") and hasattr(cls, "from_dict")


for _cls in (Fingerprint, Comparison, Interval, Payload, Outcome, Component, HeadId, HeadSet, Site, Where):
    register_value(_cls)
