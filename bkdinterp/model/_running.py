"""Running a module: one thread at a time, in eval mode and with torch's default state, all restored afterwards.

Every call of a module's forward goes through here. nnsight's hooks belong to the module, so two threads on one module, or
on two models that share it, would read each other's activations or crash. Here they queue.
"""

import copy
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import nn

from bkdinterp.errors import UnsupportedArchitectureError
from bkdinterp.model._torch_state import plain_torch

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)

# Kept outside the modules, because a lock cannot be copied or saved with its module.
_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()  # type: ignore[type-arg]
_guard = threading.Lock()


def lock_of(module: Any) -> Any:
    """The module's re-entrant lock; a compiled wrapper shares the lock of the module that it wraps."""
    inner = getattr(module, "_orig_mod", module)
    with _guard:
        return _locks.setdefault(inner, threading.RLock())


@contextmanager
def running(module: nn.Module) -> Iterator[None]:
    """Context in which only this thread runs the module, in eval mode, without gradients and in `plain_torch`.

    Raises:
        UnsupportedArchitectureError: some weights are not in memory (on the meta device, or offloaded).
    """
    with lock_of(module), plain_torch():
        away = next((name for name, p in module.named_parameters() if p.is_meta), None)
        if away is not None:
            raise UnsupportedArchitectureError(
                f"{away!r} is not in memory (meta device): the model is a skeleton, or offloaded to disk or CPU. Load the "
                "whole model onto one device, without device_map."
            )
        training = [part for part in module.modules() if part.training]
        for part in training:
            part.training = False
        try:
            yield
        finally:
            for part in training:
                part.training = True


def runs(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for a function whose first argument is a module: calls it inside `running`."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        module: Any = args[0] if args else kwargs["module"]
        with running(module):
            return function(*args, **kwargs)

    return inside


def copied(module: M) -> M:
    """A deep copy, made while no other thread runs the module."""
    with lock_of(module), plain_torch():
        return copy.deepcopy(module)
