"""Checks that a folder or file can be written, made before any work: hours of computing must not be lost at the end.

Permissions alone do not tell (the disk may be full or read-only, the user root, a file in the way). So a file is
written and removed again, and folders created for the trial are removed too. No forwards.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.values import as_path


def writable_folder(value: Any, what: str) -> Path:
    """The path of a writable folder, with ``~`` expanded; it need not exist, and is not created.

    Raises:
        BkdinterpError: a file is in the way, or the folder cannot be created or written; the message says why.
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
            with contextlib.suppress(OSError):  # another process has put a file there in the meantime
                folder.rmdir()
    return path


def writable_file(value: Any, what: str) -> Path:
    """The path of a file that can be written or replaced.

    Raises:
        BkdinterpError: the path is a folder, or the file cannot be read or written; the message says why.
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
