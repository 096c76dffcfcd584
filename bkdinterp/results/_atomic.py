"""One atomic write: a file is there as a whole or not at all, whenever the process is killed. No forward pass."""

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from bkdinterp.errors import ArtefactError

PART = ".part"
"""Suffix of files in the making; they begin with a dot, too, and are no content of a folder."""
STALE = 3600.0
"""Seconds after which a file in the making is taken for what a killed process left behind."""


def write_atomic(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write beside the target first, then move it there in one step; folders on the way are made.

    Args:
        path: the target; what is there is replaced.
        content: bytes, text (written as UTF-8), or a function that writes to the path it is given.

    Raises:
        ArtefactError: no space, no permission, a path that is too long, or a file where a folder is needed.
    """
    fresh = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(fresh)
        else:
            fresh.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"Cannot write {path}: {getattr(error, 'strerror', None) or error}. What was finished before is kept; free "
            "some space, or name a folder that can be written to."
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether a file is one in the making, or what is left of one."""
    return path.name.startswith(".") and path.name.endswith(PART)


def drop_stale_parts(folder: Path) -> None:
    """Remove what killed processes left in a folder; files that another process may still be writing stay."""
    with suppress(OSError):
        for path in folder.glob(f".*{PART}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()
