"""Our own reader for the header of a GGUF file (settings and the table of tensors), limited to the file's bytes.

It runs before the gguf package, which trusts every count in a header.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bkdinterp.errors import ArtefactError
from bkdinterp.model._safetensors_header import Stored

_FORMATS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT = 4096
"""Length of the longest array whose values are kept; for longer ones, such as vocabularies, only the length is."""
_MOST_ELEMENTS = 2_000_000
_LARGEST_HEADER = 256 << 20


@dataclass(frozen=True)
class GgufHeader:
    """Content of a GGUF header.

    Attributes:
        settings: key -> value; for an array of more than 4,096 elements, its length.
        tensors: name -> type and shape, slowest axis first as in torch.
    """

    settings: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return str(self.settings.get("general.architecture"))


def read_gguf_header(path: Path) -> GgufHeader:
    """Settings and tensors of a GGUF file (versions 2 and 3, little endian); no data is read.

    Raises:
        ArtefactError: the file is not GGUF or is truncated, counts or sizes exceed its bytes, or a name or key is repeated.
    """
    try:
        with path.open("rb") as stream:
            return _Reader(stream, path).header()
    except (OSError, ValueError, struct.error) as error:
        raise ArtefactError(
            f"Cannot load {path}: {error}. The GGUF file is damaged; copy it again."
        ) from error


class _Reader:
    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path, self.size = stream, path, path.stat().st_size
        self.elements = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"its GGUF version is {version}; 2 and 3 are supported")
        n_tensors, n_settings = self._count(24), self._count(13)
        settings: dict[str, Any] = {}
        for _ in range(n_settings):
            key = self._string()
            if key in settings:
                raise ValueError(f"the key {key[:100]!r} occurs twice")
            settings[key] = self._value(self._number("<I"))
        entries = {}
        for _ in range(n_tensors):
            name, *entry = self._entry()
            if name in entries:
                raise ValueError(f"the tensor {name[:100]!r} occurs twice")
            entries[name] = entry
        alignment = settings.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in {1 << k for k in range(3, 17)}:
            raise ValueError(f"general.alignment={str(alignment)[:40]} is not a power of two from 8 to 65536")
        start = -(-self.stream.tell() // alignment) * alignment
        tensors = {name: self._stored(name, start, *entry) for name, entry in entries.items()}
        if not isinstance(settings.get("general.architecture"), str):
            raise ValueError("it has no general.architecture")
        return GgufHeader(settings, tensors)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        n_axes = self._number("<I")
        if n_axes > 4:
            raise ValueError(f"{name[:100]!r} has {n_axes} axes; at most 4 are supported")
        axes = tuple(self._number("<Q") for _ in range(n_axes))
        return name, axes[::-1], self._number("<I"), self._number("<Q")

    def _stored(self, name: str, start: int, shape: tuple[int, ...], kind: int, offset: int) -> Stored:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            dtype = GGMLQuantizationType(kind)
        except ValueError:
            raise ValueError(f"{name[:100]!r} has the unknown type {kind}") from None
        block, width = GGML_QUANT_SIZES[dtype]
        if not all(shape) or (shape and shape[-1] % block):
            raise ValueError(f"{name[:100]!r} of shape {shape} does not fill blocks of {block}")
        end = start + offset + math.prod(shape) // block * width
        if end > self.size:
            raise ValueError(
                f"{name[:100]!r} of shape {shape} ends at byte {end}, but the file has only {self.size}"
            )
        return Stored(self.path, dtype.name, shape)

    def _value(self, kind: int) -> Any:
        if kind in _FORMATS:
            return self._number(_FORMATS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"a setting has the unknown type {kind}")
        inner = self._number("<I")
        if inner not in _FORMATS and inner != _STRING:
            raise ValueError(f"a setting is an array of type {inner}")
        width = struct.calcsize(_FORMATS[inner]) if inner in _FORMATS else 8
        count = self._count(width)
        self.elements += count
        if self.elements > _MOST_ELEMENTS:
            raise ValueError(f"its arrays have more than {_MOST_ELEMENTS} elements")
        if count > _LONGEST_KEPT and inner in _FORMATS:
            self._take(count * width)
            return count
        values = [self._value(inner) for _ in range(count)]
        return values if count <= _LONGEST_KEPT else count

    def _count(self, least_each: int) -> int:
        """Read a count of entries that take at least ``least_each`` bytes each."""
        count = self._number("<Q")
        if count * least_each > self.size - self.stream.tell():
            raise ValueError(f"it claims {count} entries but has only {self.size} bytes")
        return count

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack(code, self._take(struct.calcsize(code)))
        return value

    def _take(self, length: int) -> bytes:
        if length > self.size - self.stream.tell() or self.stream.tell() + length > _LARGEST_HEADER:
            raise ValueError("it ends inside its header, or the header is too long")
        return self.stream.read(length)
