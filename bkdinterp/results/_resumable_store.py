"""Store: finished pieces of work in a folder, one file each, so that a killed run can resume. No forwards.

A piece has a name, a key (everything that decides its value: weights, prompts, plan, seeds, code of scores) and a value.
Its file holds all three and a hash of them. So a flipped bit, a truncated file or two files with swapped names are
noticed, and the piece is computed again. The package's version is part of every key, because another version may compute
a different value.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.results._codec import decode, encode
from bkdinterp.results._digest import digest_of
from bkdinterp.results._files import disk, loads, read_json, temporary, tidy, write_text, write_whole
from bkdinterp.results._fingerprint import versions
from bkdinterp.results._tensors import content_hash, read_file
from bkdinterp.values import as_path, shown

FORMAT = "bkdinterp-item/1"
EARLY_FORMAT = "bkdinterp-unit-1"
MARK = "bkdinterp-store.json"
_NAME = re.compile(r"[\w.=+@-]+(/[\w.=+@-]+)*")


@dataclass(frozen=True)
class Item:
    """A finished piece: its value, and notes that are not part of its key (how long it took)."""

    value: Any
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """A folder of finished pieces; several processes may share it.

    ``Store(folder).get("layer-3", key, compute)`` reads the piece if it is finished, else computes and writes it.

    Args:
        folder: created when something is written; ``~`` is expanded.
        as_json: keep pieces as JSON files that people can read and compare; values must then be JSON, without NaN.
            Otherwise values may hold tensors and anything else that a saved result may hold.
        versioned: make this package's version part of every key.

    Raises:
        ArtefactError: ``folder`` is a file, or a folder with other content.
    """

    folder: str | Path
    as_json: bool = False
    versioned: bool = True

    def __post_init__(self) -> None:
        _ = self.root

    @cached_property
    def root(self) -> Path:
        """The folder as a path, with ``~`` expanded."""
        return as_path(self.folder, "folder", error=ArtefactError)

    def get(self, name: str, key: Any, compute: Callable[[], Any]) -> Any:
        """The piece's value: read if it is finished, else computed by ``compute()`` and written.

        Args:
            name: e.g. ``"scores/layer-3"``; slashes separate folders.
            key: everything that decides the value; JSON values, tensors, functions, or objects with a fingerprint.
            compute: called without arguments.

        Raises:
            ArtefactError: the name is not a valid file name, the value cannot be saved, or the folder is not writable.
        """
        found = self.read(name, key)
        if found is not None:
            return found.value
        # Checked before the work, which would be lost in a folder that cannot be used.
        self.claim()
        return self.put(name, key, compute()).value

    def read(self, name: str, key: Any) -> Item | None:
        """The finished piece, or None if it is missing or damaged, or the file belongs to another piece."""
        known = self._known_key(key)
        return self._read_file(self._place(name, known), name, known)

    def put(self, name: str, key: Any, value: Any, notes: Mapping[str, Any] | None = None) -> Item:
        """Write a piece atomically; returns what `read` will return.

        Raises:
            ArtefactError: as `get`.
        """
        self.claim()
        known = self._known_key(key)
        path = self._place(name, known)
        if self.as_json:
            try:
                # As it will be read: tuples become lists, and keys become strings.
                value = json.loads(json.dumps(value, allow_nan=False))
                document = {"format": FORMAT, "name": name, "key": known, "value": value} | dict(notes or {})
                text = json.dumps(document | {"sha256": _json_hash(name, known, value)}, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise ArtefactError(f"{name} gave a value that is not JSON: {error}.") from error
            write_text(path, text + "\n")
            return Item(value, dict(notes or {}))
        tensors: dict[str, Tensor] = {}
        content = encode(value, "value", tensors)
        document = {
            "format": FORMAT,
            "name": name,
            "key": known,
            "value": content,
            "notes": dict(notes or {}),
        }
        metadata = {"item": json.dumps(document, allow_nan=False)}
        metadata["sha256"] = content_hash(metadata["item"], tensors)
        write_whole(path, lambda target: save_file(tensors, target, metadata=metadata))
        return Item(decode(content, tensors), dict(notes or {}))

    def has(self, name: str, key: Any) -> bool:
        """Whether the piece is finished."""
        return self.read(name, key) is not None

    def path(self, name: str, key: Any) -> Path:
        """Path of the piece's file, finished or not."""
        return self._place(name, self._known_key(key))

    def _place(self, name: str, known: Any) -> Path:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
            raise ArtefactError(
                f"{shown(name)} cannot name a piece of work: use letters, digits and . _ = + @ -, with slashes between folders."
            )
        digits = hashlib.sha256(_canonical([name, known]).encode()).hexdigest()[:12]
        return self.root / f"{name}-{digits}{self._suffix}"

    def claim(self) -> None:
        """Create the folder and mark it as a store, once. Folders of JSON pieces get no mark, because people read them.

        Raises:
            ArtefactError: the folder is a file, cannot be created, or has other content.
        """
        if not self.as_json:
            _ = self._marked

    @cached_property
    def _marked(self) -> Path:
        mark = self.root / MARK
        with disk(self.root, "choose a folder that can be made and written to"):
            if self.root.exists() and not self.root.is_dir():
                raise ArtefactError(
                    f"{self.root} is a file; folder= must be a folder, which is created if needed."
                )
            if mark.exists():
                tidy(self.root)
                return mark
            if self.root.is_dir():
                self._refuse_strangers()
        write_text(mark, json.dumps({"format": FORMAT}) + "\n")
        return mark

    def _refuse_strangers(self) -> None:
        strangers = sorted(p.name for p in self.root.iterdir() if not temporary(p) and p.name != MARK)
        if strangers:
            old = (
                " It is from an earlier bkdinterp, whose work cannot be resumed."
                if "plan.json" in strangers
                else ""
            )
            raise ArtefactError(
                f"{self.root} is not empty and holds no finished work ({strangers[0]!r} is in it).{old} Choose a new folder."
            )

    @property
    def _suffix(self) -> str:
        return ".json" if self.as_json else ".safetensors"

    def _known_key(self, key: Any) -> Any:
        """The key as JSON: the key itself in folders of JSON pieces, else its digest."""
        if self.as_json:
            return json.loads(json.dumps(dict(key) if isinstance(key, Mapping) else key, default=digest_of))
        version = versions()["bkdinterp"] if self.versioned else None
        return digest_of((version, key))

    def _read_file(self, path: Path, name: str, known: Any) -> Item | None:
        try:
            if self.as_json:
                return _read_json(path, name, known)
            metadata, tensors = read_file(path)
            if metadata["sha256"] != content_hash(metadata["item"], tensors):
                return None
            document = loads(metadata["item"])
            if (document["format"], document["name"], document["key"]) != (FORMAT, name, known):
                return None
            return Item(decode(document["value"], tensors), document["notes"])
        except (OSError, ArtefactError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Missing or damaged on disk: it is computed again.
            return None


def _read_json(path: Path, name: str, known: Any) -> Item | None:
    notes = read_json(path)
    form, value = notes.pop("format"), notes.pop("value")
    # Pieces shipped before hashes were introduced have "settings".
    early = form == EARLY_FORMAT
    key, sha256 = notes.pop("settings" if early else "key"), notes.pop("sha256", None)
    if (
        form not in (FORMAT, EARLY_FORMAT)
        or notes.pop("name") != name
        or _canonical(key) != _canonical(known)
    ):
        return None
    if not early and sha256 != _json_hash(name, known, value):
        return None
    return Item(value, notes)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _json_hash(name: str, key: Any, value: Any) -> str:
    return hashlib.sha256(_canonical([name, key, value]).encode()).hexdigest()
