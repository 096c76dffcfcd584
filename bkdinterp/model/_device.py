"""Devices and dtypes given by name, checked before anything is read."""

from typing import Any

import torch

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.values import shown

DTYPES = ("float32", "float64", "bfloat16", "float16")


def as_dtype(value: Any, what: str = "dtype") -> torch.dtype:
    """A floating-point torch dtype, given as a dtype or by name (``"bfloat16"``, ``"torch.bfloat16"``).

    Raises:
        ArtefactError: anything else.
    """
    if isinstance(value, str) and value.removeprefix("torch.") in DTYPES:
        return getattr(torch, value.removeprefix("torch."))
    if isinstance(value, torch.dtype) and value in {getattr(torch, name) for name in DTYPES}:
        return value
    raise ArtefactError(
        f"{what}={shown(value)} is not a floating-point torch dtype; give e.g. torch.float32, or one of "
        f"{', '.join(map(repr, DTYPES))}."
    )


def as_device(value: Any, what: str = "device") -> torch.device:
    """A device of this machine, given as a device or by name (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``).

    Raises:
        BkdinterpError: the value is not a device, or the machine lacks it; the message lists the available devices.
    """
    try:
        if not isinstance(value, str | torch.device):
            raise TypeError
        device = torch.device(value)
    except (TypeError, RuntimeError):
        raise BkdinterpError(f"{what}={shown(value)} is not a device; available: {_here()}.") from None
    if device.type == "cpu" and device.index in (None, 0):
        return device
    if device.type not in _kinds() or (device.index or 0) >= _count(device.type):
        raise BkdinterpError(f"{what}={str(device)!r} is not on this machine; available: {_here()}.")
    return device


def _kinds() -> list[str]:
    """Kinds of accelerator that can be used; found without initialising one."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    found += ["xpu"] if hasattr(torch, "xpu") and torch.xpu.is_available() else []
    return found


def _count(kind: str) -> int:
    return getattr(torch, kind).device_count() if kind in ("cuda", "xpu") else 1


def _here() -> str:
    names = ["cpu"]
    for kind in _kinds():
        n = _count(kind)
        names += [kind] if n == 1 else [f"{kind}:{i}" for i in range(n)]
    return ", ".join(map(repr, names))
