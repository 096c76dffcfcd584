"""A result's folder: ``result.json`` and ``tensors.safetensors``, written atomically."""

import contextlib
import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.results._files import JSON_BYTES, disk, open_plain, read_json, temporary
from bkdinterp.results._tensors import check_size, read_file
from bkdinterp.values import shown

JSON, TENSORS = "result.json", "tensors.safetensors"
FORMAT = "bkdinterp-result/2"
# Like FORMAT, but without a hash of the JSON.
EARLIER = "bkdinterp-result/1"


def write_folder(target: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write into a sibling folder, then rename it to ``target``.

    An earlier result there is replaced; other files in the folder are kept.

    Raises:
        ArtefactError: ``target`` is a file, or a folder with content but without ``result.json``; or the disk is full, the
            folder is not writable, or the path is too long. An earlier result is then unchanged.
    """
    document = {"format": FORMAT, **header, "sha256": header_hash(header)}
    with disk(target):
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        stamp = uuid.uuid4().hex[:8]
        fresh, old = (target.parent / f".{target.name[:100]}.{stamp}.{kind}" for kind in ("tmp", "old"))
        fresh.mkdir()
        try:
            save_file(tensors, fresh / TENSORS)
            document["tensors_sha256"] = _sha256(fresh / TENSORS)
            text = json.dumps(document, indent=2, allow_nan=False) + "\n"
            if len(text) > JSON_BYTES:
                raise ArtefactError(
                    f"{target}: more than {JSON_BYTES >> 20} MiB of text and numbers; save the result in parts."
                )
            (fresh / JSON).write_text(text, encoding="utf-8")
            if not target.exists():
                fresh.rename(target)
                return
            target.rename(old)
            try:
                fresh.rename(target)
            except OSError:
                old.rename(target)
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        for entry in old.iterdir():
            if entry.name not in (JSON, TENSORS):
                entry.rename(target / entry.name)
        shutil.rmtree(old)


def read_header(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``, checked against the hash in it.

    Raises:
        ArtefactError: the folder or file is missing, the JSON is damaged, or the format is another.
    """
    path = folder / JSON
    with disk(folder, "give the folder that save() wrote"):
        if not folder.is_dir():
            raise ArtefactError(f"{folder} is not a folder; give the folder that save() wrote.")
        if not path.exists():
            raise ArtefactError(
                f"{path} is missing, so {folder} is not a saved result; give the folder that save() wrote."
            )
    header = read_json(path)
    found = header.get("format") if isinstance(header, dict) else None
    if found not in (FORMAT, EARLIER):
        raise ArtefactError(
            f"{path} has format {shown(found)}, not {FORMAT!r}; load it with the version that wrote it."
        )
    if not isinstance(header.get("fields"), dict):
        raise ArtefactError(f"{path} has no fields; save the result again.")
    body = {key: value for key, value in header.items() if key not in ("format", "sha256", "tensors_sha256")}
    if found == FORMAT and header.get("sha256") != header_hash(body):
        raise ArtefactError(f"{path} is damaged (its hash differs from its content); save the result again.")
    return header


def read_tensors(folder: Path, header: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors, on the CPU, checked against the hash in ``header``.

    Raises:
        ArtefactError: the file is missing, damaged, not a plain file, or belongs to another ``result.json``.
    """
    path = folder / TENSORS
    if not path.is_symlink() and not path.exists():
        raise ArtefactError(f"{path} is missing; copy it beside {JSON}, or save the result again.")
    check_size(path)
    if _sha256(path) != header.get("tensors_sha256"):
        raise ArtefactError(
            f"{path} is damaged or belongs to another result (its hash differs from {JSON}); save the result again."
        )
    return read_file(path)[1]


def header_hash(header: dict[str, Any]) -> str:
    """SHA-256 of the class and fields in ``result.json``."""
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{header.get('class')}: fields that cannot be saved ({error}).") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ArtefactError(f"{target} is a file; give a folder to save into.")
    if not target.is_dir() or (target / JSON).is_file() or all(temporary(x) for x in target.iterdir()):
        return
    raise ArtefactError(
        f"{target} is not empty and holds no {JSON}; save into a new folder, e.g. {target / 'result'}."
    )


def _sha256(path: Path) -> str:
    with contextlib.closing(open_plain(path)) as file, disk(path, "check that it may be read"):
        return hashlib.file_digest(file, "sha256").hexdigest()
