"""Tensors in safetensors files, read only if the file is consistent and fits into memory. No pickles."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.results._files import disk, plain_file


def as_saved(tensor: Tensor) -> Tensor:
    """A copy on the CPU; safetensors refuses views that share memory."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def content_hash(label: object, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a JSON value and named tensors (names, types, shapes, bytes)."""
    digest = hashlib.sha256(json.dumps(label, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {x.dtype} {tuple(x.shape)}\n".encode())
        if x.numel():
            digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_size(path: Path) -> None:
    """Refuse a file larger than the machine's memory, before any of it is read.

    Raises:
        ArtefactError: the file is larger, or is not a plain file.
    """
    with disk(path, "check that it may be read"):
        size = plain_file(path).stat().st_size
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells its memory
        memory = math.inf
    if size > memory:
        raise ArtefactError(
            f"{path} has {size:,} bytes, more than this machine's memory; it cannot be a result made here."
        )


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, on the CPU.

    Raises:
        ArtefactError: the file is missing, not a plain file, damaged, or larger than the memory.
    """
    check_size(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            # Clones, because tensors read lazily from a mapped file would change with the file.
            return dict(file.metadata() or {}), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    # torch itself raises for an unknown dtype or too little memory.
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError, KeyError, MemoryError) as error:
        raise ArtefactError(f"{path} is damaged ({error}); save the result again.") from error
