"""A result's folder: ``result.json`` beside ``tensors.safetensors``, written as a whole or not at all."""

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bkdinterp.errors import ArtefactError

JSON, TENSORS = "result.json", "tensors.safetensors"
FORMAT = "bkdinterp-result/1"


def write_folder(target: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write into a sibling folder, then rename it to ``target``.

    An earlier result there is replaced; files beside it that are not ours are kept.

    Raises:
        ArtefactError: ``target`` is a file, or a folder with content but without ``result.json``.
    """
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp = uuid.uuid4().hex[:8]
    fresh, old = (target.parent / f".{target.name}.{stamp}.{kind}" for kind in ("tmp", "old"))
    fresh.mkdir()
    try:
        save_file(tensors, fresh / TENSORS)
        document = {"format": FORMAT, **header, "tensors_sha256": _sha256(fresh / TENSORS)}
        (fresh / JSON).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
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
    """The content of ``result.json``.

    Raises:
        ArtefactError: no such folder or file, damaged JSON, or another format.
    """
    path = folder / JSON
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is not a folder; give the folder that save() wrote.")
    if not path.is_file():
        raise ArtefactError(
            f"{path} is missing, so {folder} is not a saved result; give the folder that save() wrote."
        )
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged ({error}); save the result again.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise ArtefactError(
            f"{path} has format {found!r}, not {FORMAT!r}; load it with the version that wrote it."
        )
    return header


def read_tensors(folder: Path, header: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors, on the CPU, checked against the hash in ``header``.

    Raises:
        ArtefactError: the file is missing, damaged, or belongs to another ``result.json``.
    """
    path = folder / TENSORS
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; copy it beside {JSON}, or save the result again.")
    if _sha256(path) != header.get("tensors_sha256"):
        raise ArtefactError(
            f"{path} is damaged or of another result (its hash differs from {JSON}); save the result again."
        )
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}); save the result again.") from error


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ArtefactError(f"{target} is a file; give a folder to save into.")
    if not target.is_dir() or (target / JSON).is_file() or not any(target.iterdir()):
        return
    raise ArtefactError(
        f"{target} is not empty and holds no {JSON}; save into a new folder, e.g. {target / 'result'}."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
