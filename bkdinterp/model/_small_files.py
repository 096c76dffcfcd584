"""Reading the small files of a suspect folder: inside the folder, bounded in size, and JSON objects where JSON is due."""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from bkdinterp.errors import ArtefactError, UnsafeWeightsError

LARGEST = 64 << 20
"""Bytes of the largest JSON or text file that is read; the tokenizers of large vocabularies have 35 MB."""
_POINTER = b"version https://git-lfs"


def inside(folder: Path, name: str) -> Path:
    """The real file of that name in the folder. The blobs beside a snapshot of the hub's own cache count as inside.

    Raises:
        UnsafeWeightsError: an absolute name, one with "..", or a link that leads out of the folder.
        ArtefactError: no such file, no regular file, or a git-lfs pointer in its place.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name or "\\" in name:
        raise UnsafeWeightsError(f"{folder} names the file {name[:200]!r}, which is not inside it. Refused.")
    try:
        real, home = (folder / name).resolve(strict=True), folder.resolve(strict=True)
        mode, size = real.stat().st_mode, real.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ArtefactError(f"There is no file {name[:200]!r} in {folder}: {error}") from error
    roots = [home]
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        roots.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in roots):
        raise UnsafeWeightsError(
            f"{folder / name} is a link to {real}, outside of its folder. Refused; copy the file into the folder."
        )
    if not stat.S_ISREG(mode):
        raise ArtefactError(f"{folder / name} is no regular file.")
    if size < 1024 and _starts_as_pointer(real):
        raise ArtefactError(
            f"{folder / name} is a git-lfs pointer and not the file itself; fetch the file with: git lfs pull"
        )
    return real


def read_text(folder: Path, name: str) -> str:
    """A file's text.

    Raises:
        ArtefactError, UnsafeWeightsError: as `inside`; too large, or no UTF-8.
    """
    path = inside(folder, name)
    if path.stat().st_size > LARGEST:
        raise ArtefactError(f"{folder / name} has {path.stat().st_size} bytes, more than {LARGEST}. Refused.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtefactError(f"Cannot read {folder / name}: {error}") from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        ArtefactError, UnsafeWeightsError: as `read_text`; no JSON, another type than an object, NaN or infinity in it,
            or too deeply nested.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"it holds {constant}, which is no JSON number")

    text = read_text(folder, name)
    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ArtefactError(f"{folder / name} is not valid JSON: {why}") from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{folder / name} must hold a JSON object; it holds a {type(value).__name__}.")
    return value


def _starts_as_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER
