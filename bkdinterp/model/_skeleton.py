"""Building a model without weights (meta device), under limits derived from the stored bytes.

A config file can ask for any size. A build that asks for more than is stored is stopped.
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

# Checked first, because config classes and constructors loop over these.
_LAYERS = re.compile(
    r"^(n_layers?|num_layers|(num_)?(encoder|decoder)_layers|num_hidden_layers|\w+_num_hidden_layers)$"
)
_LABELS = re.compile(r"^(num_labels|_num_labels)$")
_BUFFERS = 1 << 24


@dataclass(frozen=True)
class Room:
    """The most that a model may ask for.

    Attributes:
        tensors: number of stored tensors.
        numbers: total number of their elements.
    """

    tensors: int
    numbers: int

    @classmethod
    def of(cls, stored: Iterable[Stored]) -> "Room":
        """The room for what is stored."""
        sizes = [tensor.numel for tensor in stored]
        return cls(len(sizes), sum(sizes))


WITHOUT_WEIGHTS = Room(tensors=10_000, numbers=1 << 42)
"""Limits without stored bytes to compare with: more than any known model has, but still built within seconds."""


def check_sizes(config: dict[str, Any], room: Room, source: object) -> None:
    """Check the numbers of layers and labels in a config, before a config object is made from it.

    Raises:
        ArtefactError: more layers than stored tensors, more labels than stored numbers, or a count that is not a number.
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
            f"The config of {str(source)!r} has {key}={str(value)[:40]!r}, which is not a count."
        )
    if value > most:
        raise ArtefactError(
            f"The config of {str(source)!r} asks for {key}={str(value)[:40]}, but the weights hold only {most} "
            f"{'tensors' if _LAYERS.match(key) else 'numbers'}; they do not belong together."
        )


def build_skeleton(make: Any, room: Room, source: object) -> nn.Module:
    """The module that ``make()`` builds, on the meta device.

    Raises:
        ArtefactError: the module asks for more parameters or larger buffers than ``room`` allows.
    """
    with bounded(room, source), torch.device("meta"):
        return make()


@contextmanager
def bounded(room: Room, source: object) -> Iterator[None]:
    """Context that counts the parameters and buffers of modules built in this thread, and stops beyond the room.

    A head is built before it is tied, so twice the stored numbers are allowed. One stored tensor may also fill several
    parameters.

    Raises:
        ArtefactError: raised inside the constructor that exceeds the room.
    """
    here = threading.get_ident()
    count, numbers, buffers = 0, 0, 0

    def refuse(what: str) -> ArtefactError:
        return ArtefactError(
            f"The config of {str(source)!r} asks for a larger model than the weights hold ({what}, but only "
            f"{room.tensors} tensors of {room.numbers} numbers are stored); they do not belong together."
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
