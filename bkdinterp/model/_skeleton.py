"""A model built without weights (meta device), under limits taken from the bytes that are there.

Config files ask for any size; a build that asks for more than is stored stops while it is built.
"""

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from bkdinterp.errors import ArtefactError
from bkdinterp.model._safetensors_header import Stored

# Config classes and constructors loop over these, so they are looked at before either runs.
_LAYERS = re.compile(
    r"^(n_layers?|num_layers|(num_)?(encoder|decoder)_layers|num_hidden_layers|\w+_num_hidden_layers)$"
)
_LABELS = re.compile(r"^(num_labels|_num_labels)$")
_BUFFERS = 1 << 24


@dataclass(frozen=True)
class Room:
    """The most that a model may ask for.

    Attributes:
        tensors: stored tensors.
        numbers: numbers in them.
    """

    tensors: int
    numbers: int

    @classmethod
    def of(cls, stored: Iterable[Stored]) -> "Room":
        """As much as is stored."""
        sizes = [tensor.numel for tensor in stored]
        return cls(len(sizes), sum(sizes))


WITHOUT_WEIGHTS = Room(tensors=10_000, numbers=1 << 42)
"""Where no bytes are there to compare with: more than any known model has, and still built within seconds."""


def check_sizes(config: dict[str, Any], room: Room, source: object) -> None:
    """Counts of layers and labels in a config, before a config object is made of it.

    Raises:
        ArtefactError: more layers than stored tensors, more labels than stored numbers, or counts that are none.
    """
    waiting: list[Any] = [config]
    while waiting:
        now = waiting.pop()
        if isinstance(now, list):
            waiting += now
        if not isinstance(now, dict):
            continue
        for key, value in now.items():
            most = room.tensors if _LAYERS.match(key) else room.numbers if _LABELS.match(key) else None
            if most is not None and value is not None:
                _count(key, value, most, source)
        waiting += now.values()


def _count(key: str, value: Any, most: int, source: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArtefactError(
            f"The config of {str(source)!r} has {key}={str(value)[:40]!r}, which is no count."
        )
    if value > most:
        raise ArtefactError(
            f"The config of {str(source)!r} asks for {key}={str(value)[:40]}, and the weights hold {most} "
            f"{'tensors' if _LAYERS.match(key) else 'numbers'} in all; they do not belong together."
        )


def build_skeleton(make: Any, room: Room, source: object) -> nn.Module:
    """The module that ``make()`` builds, on the meta device.

    Raises:
        ArtefactError: it asks for more parameters or larger buffers than ``room`` allows.
    """
    with bounded(room, source), torch.device("meta"):
        return make()


@contextmanager
def bounded(room: Room, source: object) -> Iterator[None]:
    """Count what modules built in this thread register, and stop beyond the room.

    A head that will be tied is built before it is tied, so twice the stored numbers are let through; and one stored
    tensor may fill several parameters.

    Raises:
        ArtefactError: inside, from the constructor that went too far.
    """
    here = threading.get_ident()
    count, numbers, buffers = 0, 0, 0

    def refuse(what: str) -> ArtefactError:
        return ArtefactError(
            f"The config of {str(source)!r} asks for a larger model than the weights hold ({what}, and {room.tensors} "
            f"tensors of {room.numbers} numbers are there); they do not belong together."
        )

    def parameter(module: nn.Module, name: str, value: Any) -> None:
        nonlocal count, numbers
        if value is None or threading.get_ident() != here:
            return
        count, numbers = count + 1, numbers + value.numel()
        if count > 4 * room.tensors + 16 or numbers > 2 * room.numbers + 1024:
            raise refuse(f"{count} parameters of {numbers} numbers so far")

    def buffer(module: nn.Module, name: str, value: Any) -> None:
        nonlocal buffers
        if value is None or threading.get_ident() != here:
            return
        buffers += value.numel()
        if buffers > 2 * room.numbers + _BUFFERS:
            raise refuse(f"buffers of {buffers} numbers so far")

    handles = [
        register_module_parameter_registration_hook(parameter),
        register_module_buffer_registration_hook(buffer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
