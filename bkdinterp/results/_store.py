"""Store: one folder of finished work, so that a run that was killed goes on where it stopped. No forwards.

An item is a name, a key (everything that decides its value) and a value. It lies in one file that carries its own name,
key and hash, so that a damaged item, or one that was moved to another's place, is computed again and never used.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError
from bkdinterp.results._files import disk, read_json, temporary, tidy, write_text
from bkdinterp.results._fingerprint import versions
from bkdinterp.results._item import key_json, read_item, write_item
from bkdinterp.values import as_path, as_text, shown

FORMAT = "bkdinterp-store/1"
MARK = "store.json"
# What earlier versions wrote into a folder.
EARLIER = "plan.json"
# A key's digits in a file's name.
DIGITS = 12


class Store:
    """Finished items in a folder; several processes may share one.

    The package's version is part of every key: another version may compute otherwise.

    Args:
        folder: made if it does not exist; ``~`` is expanded.

    Raises:
        ArtefactError: a file, a folder with other content, one that an earlier version wrote, or one that cannot be made.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = as_path(folder, "folder", error=ArtefactError)
        with disk(self.folder, "choose a folder that can be made and written to"):
            if self.folder.exists() and not self.folder.is_dir():
                raise ArtefactError(
                    f"folder={str(self.folder)!r} is a file; folder= names a folder, which is made if need be."
                )
            self._open()

    def get(self, name: str, key: Any, compute: Callable[[], Any]) -> Any:
        """The item's value: read if it was finished before, else computed and written.

        Args:
            name: e.g. ``"vector"``; slashes make folders.
            key: JSON values that decide the result.
            compute: called without arguments; gives JSON values, tensors, or what `register_value` knows, nested at will.

        Raises:
            ArtefactError: a name that leads out of the folder, a value without a saved form, a disk that is full.
        """
        known = self.read(name, key)
        if known is not None:
            return known[0]
        value = compute()
        self.put(name, key, value)
        return value

    def read(self, name: str, key: Any) -> tuple[Any] | None:
        """A tuple of the item's value; None where it was not finished, is damaged, or is another item."""
        path = self.path(name, key)
        with disk(path, "choose a folder that can be read, with a shorter path"):
            if not path.is_file():
                return None
        try:
            *found, value = read_item(path)
        except ArtefactError:  # damaged on disk: computing it again is all that is needed
            return None
        return (value,) if found == [name, self._key(key)] else None

    def put(self, name: str, key: Any, value: Any) -> None:
        """Write a finished item, as a whole or not at all.

        Raises:
            ArtefactError: as `get`.
        """
        write_item(self.path(name, key), name, self._key(key), value)

    def has(self, name: str, key: Any) -> bool:
        """Whether the item is finished and whole."""
        return self.read(name, key) is not None

    def path(self, name: str, key: Any) -> Path:
        """Where the item lies, finished or not.

        Raises:
            ArtefactError: a name that leads out of the folder, or a key that is no JSON.
        """
        return self.folder / f"{item_name(name)}-{digits(name, self._key(key))}.safetensors"

    def _key(self, key: Any) -> Any:
        return [key_json(key), versions()["bkdinterp"]]

    def _open(self) -> None:
        mark = self.folder / MARK
        if not mark.exists() and self.folder.exists():
            found = [path.name for path in self.folder.iterdir() if not temporary(path)]
            # Another process may have begun meanwhile.
            if found and not mark.exists():
                if EARLIER in found:
                    raise ArtefactError(
                        f"folder={str(self.folder)!r} holds work of an earlier bkdinterp, which is not taken up: its "
                        "chunks do not say which they are. Choose another folder, or delete it."
                    )
                raise ArtefactError(
                    f"folder={str(self.folder)!r} is not empty and holds no finished work of bkdinterp "
                    f"({shown(found[0])} lies in it); choose a new folder."
                )
        if not mark.exists():
            write_text(mark, json.dumps({"format": FORMAT}) + "\n")
            return
        tidy(self.folder)
        document = read_json(mark)
        known = document.get("format") if isinstance(document, dict) else None
        if known != FORMAT:
            raise ArtefactError(
                f"{mark} has format {shown(known)}, not {FORMAT!r}; choose another folder, or delete it to start again."
            )

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"


def item_name(name: Any) -> str:
    """The name, where it stays inside of the folder.

    Raises:
        ArtefactError: it does not, or is empty.
    """
    text = as_text(name, "An item's name", error=ArtefactError)
    if not text or "\0" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise ArtefactError(f"An item's name must be words joined by '/'; got {shown(text)}.")
    return text


def digits(name: str, key: Any) -> str:
    """12 hex digits that tell this name and key from others; part of a file's name."""
    text = json.dumps([name, key], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
