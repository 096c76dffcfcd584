"""Running a module: one thread at a time, in eval mode and in a plain state of torch, and everything as before afterwards.

Whoever calls a module's forward goes through here. nnsight's hooks are of the module, so that two threads on one module,
or on two models that share it, would read each other's activations or crash; they queue instead.
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

# Beside the modules rather than on them: a lock could be neither copied nor saved with its module.
_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()  # type: ignore[type-arg]
_guard = threading.Lock()


def lock_of(module: Any) -> Any:
    """The module's re-entrant lock; a compiled wrapper has that of what it wraps."""
    inner = getattr(module, "_orig_mod", module)
    with _guard:
        return _locks.setdefault(inner, threading.RLock())


@contextmanager
def running(module: nn.Module) -> Iterator[None]:
    """Inside: this thread alone runs the module, in eval mode, without gradients, in `plain_torch`.

    Raises:
        UnsupportedArchitectureError: weights that are not in memory (on the meta device, or offloaded).
    """
    with lock_of(module), plain_torch():
        away = next((name for name, p in module.named_parameters() if p.is_meta), None)
        if away is not None:
            raise UnsupportedArchitectureError(
                f"{away!r} has no numbers here (meta device): the model is a skeleton, or offloaded to disk or CPU. Load it "
                "whole onto one device, without device_map."
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
    """Decorator: the function's first argument is a module, and it is `running` meanwhile."""

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
