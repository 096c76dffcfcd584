"""Reading the small files of a suspect folder: only files inside it, of limited size, and valid JSON objects."""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from bkdinterp.errors import ArtefactError, UnsafeWeightsError

LARGEST = 64 << 20
"""Most bytes of a JSON or text file; tokenizers with large vocabularies have 35 MB."""
_POINTER = b"version https://git-lfs"


def inside(folder: Path, name: str) -> Path:
    """The real path of a file in the folder. Blobs beside a snapshot in the hub's own cache count as inside.

    Raises:
        UnsafeWeightsError: the name is absolute or holds "..", or a link leads out of the folder.
        ArtefactError: the file is missing, not a regular file, or a git-lfs pointer.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name or "\\" in name:
        raise UnsafeWeightsError(f"{folder} names the file {name[:200]!r}, which is not inside it. Refused.")
    try:
        real, home = (folder / name).resolve(strict=True), folder.resolve(strict=True)
        mode, size = real.stat().st_mode, real.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ArtefactError(f"There is no file {name[:200]!r} in {folder}: {error}") from error
    roots = [home]
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        roots.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in roots):
        raise UnsafeWeightsError(
            f"{folder / name} is a link to {real}, outside of its folder. Refused; copy the file into the folder."
        )
    if not stat.S_ISREG(mode):
        raise ArtefactError(f"{folder / name} is not a regular file.")
    if size < 1024 and _starts_as_pointer(real):
        raise ArtefactError(
            f"{folder / name} is a git-lfs pointer and not the file itself; fetch the file with: git lfs pull"
        )
    return real


def read_text(folder: Path, name: str) -> str:
    """A file's text.

    Raises:
        ArtefactError, UnsafeWeightsError: as `inside`, or the file is too large or not UTF-8.
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
        ArtefactError, UnsafeWeightsError: as `read_text`, or the file is not a JSON object, holds NaN or infinity, or is
            too deeply nested.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"it holds {constant}, which is not a JSON number")

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
