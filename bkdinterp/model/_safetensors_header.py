"""Check of a safetensors file's header against the file's bytes, before anything is allocated."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError

_LARGEST_HEADER = 100 << 20
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Stored:
    """One stored tensor: its file, type and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Stored]:
    """Name -> tensor of one file, without reading its data.

    Raises:
        ArtefactError: the file is truncated or not safetensors, or its tensors do not fill their bytes, overlap or exceed
            the file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                raise ValueError(f"its header claims {length} bytes, but the file has {size}")
            header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        notes = header.pop("__metadata__", None) or {}
        if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
            raise ValueError("its metadata are not texts")
        stored, spans = {}, []
        for name, entry in header.items():
            tensor, span = _entry(path, name, entry)
            stored[name] = tensor
            spans.append(span)
        at = 0
        for start, end in sorted(spans):
            if start != at:
                raise ValueError("its tensors overlap, or leave a gap")
            at = end
        if at != size - 8 - length:
            raise ValueError(f"its tensors need {at} bytes, but it holds {size - 8 - length}")
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"Cannot load {path}: {error}. The file is damaged; copy it again.") from error
    return stored


def _entry(path: Path, name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"the entry of {name[:100]!r} lacks dtype, shape or offsets") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or start > end:
        raise ValueError(f"the entry of {name[:100]!r} has impossible sizes")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{name[:100]!r} has the unknown type {str(dtype)[:20]!r}")
    tensor = Stored(path, dtype, tuple(shape))
    if tensor.numel * _BITS[dtype] != 8 * (end - start):
        raise ValueError(f"{name[:100]!r} of shape {tensor.shape} does not fill its {end - start} bytes")
    return tensor, (start, end)
