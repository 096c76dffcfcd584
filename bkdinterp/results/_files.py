"""Files written whole or not at all, and JSON read within bounds. No pickles, no forwards.

What a disk or a file can do wrong ends in ArtefactError: full, read-only, a path that is too long, a file that is no
plain file, JSON that is too deep, too large, or holds numbers that are none.
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

# Ours, so that nobody else's are removed.
BEGIN, TEMPORARY = ".bkdinterp-", ".tmp"
# Temporary files of this age are nobody's any more.
STALE_SECONDS = 24 * 3600
# A parsed document takes some ten times its text; nothing that is written here comes near it.
JSON_BYTES = 64 * 2**20
# Integers beyond 64 bits are in no result, and cannot be printed as floats.
LARGEST = 2**64


@contextlib.contextmanager
def disk(
    path: Path, fix: str = "free some space, or choose a folder that can be written to"
) -> Iterator[None]:
    """What the operating system says about ``path``, as ArtefactError.

    Raises:
        ArtefactError: whatever OSError or SafetensorError was raised inside.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtefactError(f"{_short(path)}: {reason}; {fix}.") from error


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """``write`` fills a file beside ``path``, which is then moved there in one step; parents are made.

    Raises:
        ArtefactError: a full disk, a folder that cannot be written to, or a path that is too long.
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
    """`write_whole` of a text.

    Raises:
        ArtefactError: as `write_whole`.
    """
    write_whole(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def temporary(path: Path) -> bool:
    """Whether a file is one that a killed process left behind, or one that is being written."""
    return path.name.startswith(BEGIN) and path.name.endswith(TEMPORARY)


def tidy(folder: Path) -> None:
    """Remove what killed processes left behind a day ago or earlier, also further down; younger ones may be in use."""
    with contextlib.suppress(OSError):
        for path in folder.rglob(f"{BEGIN}*{TEMPORARY}"):
            if path.is_file() and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)


def plain_file(path: Path) -> Path:
    """The path of a file that is one: no link to somewhere else, no folder, pipe or device.

    Raises:
        ArtefactError: it is not there, or something else.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ArtefactError(f"{_short(path)} {reason}; save the result again.") from error
    if stat.S_ISLNK(mode):
        raise ArtefactError(f"{_short(path)} is a link to another place; copy the file itself there.")
    if not stat.S_ISREG(mode):
        raise ArtefactError(f"{_short(path)} is no plain file; save the result again.")
    return path


def open_plain(path: Path) -> BufferedReader:
    """The file, opened for reading.

    Raises:
        ArtefactError: as `plain_file`, or it cannot be opened.
    """
    with disk(plain_file(path), "check that it may be read"):
        return path.open("rb")


def read_json(path: Path) -> Any:
    """A JSON document of a plain file: at most 64 MiB, finite numbers, integers of at most 64 bits.

    Raises:
        ArtefactError: the file is missing, no plain file, too large, or damaged.
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
    """Cut off what a killed process left of its last line: later ones would be written onto it.

    For files of one JSON object a line; an absent file is left so.

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
            f"{path} is damaged after byte {whole}, in the middle; name another folder, or delete it to start anew."
        )
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def loads(text: str) -> Any:
    """A JSON text, strictly: no NaN or infinity, no integers beyond 64 bits.

    Raises:
        ValueError: text that is not such JSON; RecursionError: too deep.
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
