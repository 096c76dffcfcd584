"""Atomic writing of files, and reading of JSON within limits. No pickles, no forwards.

Every fault of a disk or file raises ArtefactError: a full or read-only disk, a path that is too long, something that is
not a plain file, and JSON that is too deep, too large, or holds NaN or infinity.
"""

import contextlib
import json
import math
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bkdinterp.errors import ArtefactError

# Marks our own temporary files, so that no others are removed.
BEGIN, TEMPORARY = ".bkdinterp-", ".tmp"
# Temporary files older than this are no longer in use.
STALE_SECONDS = 24 * 3600
# A parsed document takes about ten times the memory of its text. Files written here are far smaller.
JSON_BYTES = 64 * 2**20
# No result has integers beyond 64 bits, and they cannot be printed as floats.
LARGEST = 2**64


@contextlib.contextmanager
def disk(
    path: Path, fix: str = "free some space, or choose a folder that can be written to"
) -> Iterator[None]:
    """Context that turns the operating system's errors about ``path`` into ArtefactError.

    Raises:
        ArtefactError: an OSError or SafetensorError was raised inside.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtefactError(f"{_short(path)}: {reason}; {fix}.") from error


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically: ``write`` fills a file beside ``path``, which is then renamed to it; parents are created.

    Raises:
        ArtefactError: the disk is full, the folder is not writable, or the path is too long.
    """
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{BEGIN}{uuid.uuid4().hex[:12]}{TEMPORARY}")
        try:
            write(fresh)
            os.replace(fresh, path)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, with `write_whole`.

    Raises:
        ArtefactError: as `write_whole`.
    """
    write_whole(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def temporary(path: Path) -> bool:
    """Whether this is a temporary file: one being written, or one left behind by a killed process."""
    return path.name.startswith(BEGIN) and path.name.endswith(TEMPORARY)


def tidy(folder: Path) -> None:
    """Remove temporary files older than a day, also in sub-folders; younger ones may be in use."""
    with contextlib.suppress(OSError):
        for path in folder.rglob(f"{BEGIN}*{TEMPORARY}"):
            if path.is_file() and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)


def plain_file(path: Path) -> Path:
    """The path, if it is a plain file and not a link to another place, a folder, a pipe or a device.

    Raises:
        ArtefactError: the file is missing, or is not a plain file.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ArtefactError(f"{_short(path)} {reason}; save the result again.") from error
    if stat.S_ISLNK(mode):
        raise ArtefactError(f"{_short(path)} is a link to another place; copy the file itself there.")
    if not stat.S_ISREG(mode):
        raise ArtefactError(f"{_short(path)} is not a plain file; save the result again.")
    return path


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading.

    Raises:
        ArtefactError: as `plain_file`, or it cannot be opened.
    """
    with disk(plain_file(path), "check that it may be read"):
        return path.open("rb")


def read_json(path: Path) -> Any:
    """The JSON document in a plain file: at most 64 MiB, finite numbers, integers of at most 64 bits.

    Raises:
        ArtefactError: the file is missing, not a plain file, too large, or damaged.
    """
    with open_plain(path) as file, disk(path, "check that it may be read"):
        data = file.read(JSON_BYTES + 1)
    if len(data) > JSON_BYTES:
        raise ArtefactError(
            f"{_short(path)} is larger than {JSON_BYTES >> 20} MiB, too large for a result's JSON."
        )
    try:
        return loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{_short(path)} is damaged ({error}); save the result again.") from error


def drop_broken_tail(path: Path) -> None:
    """Remove an incomplete last line, left by a killed process, before more lines are appended.

    For files with one JSON object per line; does nothing if the file is absent.

    Raises:
        ArtefactError: a line before the last is damaged.
    """
    if not path.exists():
        return
    data = plain_file(path).read_bytes()
    whole = 0
    for line in data.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or not isinstance(json.loads(line), dict):
                break
        except (ValueError, RecursionError):
            break
        whole += len(line)
    if data[whole:].rstrip(b"\n").count(b"\n"):
        raise ArtefactError(
            f"{path} is damaged in the middle, after byte {whole}; use another folder, or delete the file to start again."
        )
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def loads(text: str) -> Any:
    """Parse JSON strictly: no NaN or infinity, no integers beyond 64 bits.

    Raises:
        ValueError: the text is not such JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_number, parse_float=_float, parse_int=_integer)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 21 else LARGEST + 1
    if abs(value) > LARGEST:
        raise ValueError(f"the integer {text[:20]}... has more than 64 bits")
    return value


def _short(path: Path) -> str:
    text = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 300 else f"{text[:120]}...{text[-120:]}"
