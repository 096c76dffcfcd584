"""Places to write, tried before any work: whoever computes for hours must not learn at the end that nothing is kept.

Asking for permissions is not enough (a full or read-only disk, root, a file on the way), so a file is really written
and removed again; folders made for that go, too. No forwards.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.values import as_path


def writable_folder(value: Any, what: str) -> Path:
    """The path of a folder that can be written into, with ``~`` expanded; it need not exist, and is not made.

    Raises:
        BkdinterpError: a file is in its place or on the way, or it cannot be made or written; the reason is named.
    """
    path = as_path(value, what)
    made: list[Path] = []
    try:
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"bkdinterp")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _refused(what, path, error) from None
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
                folder.rmdir()
    return path


def writable_file(value: Any, what: str) -> Path:
    """The path of a file that can be written or replaced.

    Raises:
        BkdinterpError: a folder is in its place, or it cannot be read or written; the reason is named.
    """
    path = as_path(value, what)
    try:
        if path.is_dir():
            raise BkdinterpError(f"{what}={str(path)!r} is a folder; give a file.")
        if path.exists():
            with path.open("r+b"):
                pass
    except OSError as error:
        raise _refused(what, path, error) from None
    writable_folder(path.parent, f"folder of {what}")
    return path


def _refused(what: str, path: Path, error: OSError) -> BkdinterpError:
    reason = error.strerror or str(error)
    at = f" at {error.filename}" if error.filename and str(error.filename) != str(path) else ""
    return BkdinterpError(f"{what}={str(path)!r} cannot be written ({reason}{at}); give another place.")
