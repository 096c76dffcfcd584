"""A staging folder of checked copies and links, so that libraries never see the suspect folder itself.

A config cannot make a library read or run what is not staged: pickles, code, an adapter beside the weights, a weight index
that leads elsewhere. Settings that choose kernels or files are left out of the staged config.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model._safetensors_header import Stored
from bkdinterp.model._small_files import inside, read_json, read_text
from bkdinterp.model._tokenizer_patterns import check_patterns
from bkdinterp.model._weight_files import weight_files

_JSON = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json")
_TEXT = ("merges.txt", "vocab.txt", "chat_template.jinja")
_BYTES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_TEMPLATES = "additional_chat_templates"
# Keys of tokenizer_config.json that would choose a file, a class or an object that from_pretrained passes on.
_NOT_SETTINGS = (
    "gguf_file",
    "tokenizer_object",
    "init_inputs",
    "name_or_path",
    "vocab",
    "merges",
    "backend",
    "_json",
)
# Keys of config.json that would choose code or kernels; the engine's masks need the library's own attention.
_CHOOSE_CODE = (
    "kernel_config",
    "fusion_config",
    "distributed_config",
    "tp_plan",
    "use_kernels",
    "_name_or_path",
)


@dataclass(frozen=True)
class Staging:
    """The folder that libraries load from.

    Attributes:
        folder: temporary folder, deleted when the context ends.
        config: the staged config.json.
        stored: every tensor of the staged weights by name; empty without weights.
    """

    folder: Path
    config: dict[str, Any]
    stored: dict[str, Stored]


@contextmanager
def staged(folder: Path, *, weights: bool = True) -> Iterator[Staging]:
    """Context with the checked content of a model's folder in a temporary folder.

    Args:
        folder: a folder written by ``save_pretrained``.
        weights: stage the weights too, not only configuration and tokenizer.

    Raises:
        UnsafeWeightsError: the model asks for its own code, has only pickled weights, or uses files outside the folder.
        ArtefactError: files are missing, damaged, too large or of a different kind than their names say.
    """
    config = checked_config(folder)
    files, stored = weight_files(folder) if weights else ({}, {})
    with tempfile.TemporaryDirectory(prefix="bkdinterp-") as name:
        target = Path(name)
        write_json(target / "config.json", config)
        for shard, real in files.items():
            link(real, target / shard)
        if len(files) > 1 or (files and "model.safetensors" not in files):
            names = {real: shard for shard, real in files.items()}
            index = {tensor: names[entry.file] for tensor, entry in stored.items()}
            write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
        _stage_tokenizer(folder, target)
        if _there(folder, "generation_config.json"):
            write_json(target / "generation_config.json", read_json(folder, "generation_config.json"))
        yield Staging(target, config, stored)


@contextmanager
def staged_file(path: Path, name: str) -> Iterator[Path]:
    """Context with a folder that holds only this file, under the given name, so that no other file is read."""
    with tempfile.TemporaryDirectory(prefix="bkdinterp-") as folder:
        link(path, Path(folder) / name)
        yield Path(folder)


@contextmanager
def staged_tokenizer(folder: Path) -> Iterator[Path]:
    """Context with a temporary folder that holds only a folder's tokenizer, checked.

    Raises:
        ArtefactError, UnsafeWeightsError: as `staged`.
    """
    with tempfile.TemporaryDirectory(prefix="bkdinterp-") as name:
        _stage_tokenizer(folder, Path(name))
        yield Path(name)


def checked_config(folder: Path) -> dict[str, Any]:
    """config.json without the keys that choose code.

    Raises:
        UnsafeWeightsError: the config has an auto_map.
        ArtefactError: the config is unreadable, is for quantised weights, or names its own weight file.
    """
    config = read_json(folder, "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ArtefactError(f"{folder / 'config.json'} has no model_type.")
    _check_code(config, folder / "config.json")
    if _there(folder, "tokenizer_config.json"):
        _check_code(read_json(folder, "tokenizer_config.json"), folder / "tokenizer_config.json")
    return _without_choices(config, folder / "config.json")


def link(real: Path, target: Path) -> None:
    """Make a symbolic link if the system allows it, else a hard link, else a copy."""
    for make in (os.symlink, os.link, shutil.copyfile):
        try:
            make(real.resolve(), target)
            return
        except (OSError, NotImplementedError) as error:
            failed = error
    raise ArtefactError(f"Cannot stage {real} in {target.parent}: {failed}") from failed


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON into the staging folder."""
    path.write_text(json.dumps(value), encoding="utf-8")


def _check_code(value: Any, where: Path) -> None:
    """Check that no key at any depth asks for code from files."""
    for key, inner in _items(value):
        if key == "auto_map" and inner:
            raise UnsafeWeightsError(
                f"{where.parent} wants to run its own code (auto_map in {where.name}). Refused; remove the key to load it "
                "with the library's own classes, or pass trust_remote_code=True only if you trust it."
            )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    waiting = [value]
    while waiting:
        now = waiting.pop()
        if isinstance(now, dict):
            yield from now.items()
            waiting += now.values()
        elif isinstance(now, list):
            waiting += now


def _without_choices(value: Any, where: Path) -> Any:
    if isinstance(value, list):
        return [_without_choices(inner, where) for inner in value]
    if not isinstance(value, dict):
        return value
    for key in ("quantization_config", "compression_config"):
        if value.get(key):
            raise ArtefactError(
                f"{where} has a {key}: the weights are quantised, but edits need plain floats. Dequantise the model and save "
                "it again, or load its original."
            )
    if value.get("transformers_weights"):
        raise ArtefactError(
            f"{where} names its own weight file (transformers_weights). Refused; name the file model.safetensors."
        )
    return {
        key: _without_choices(inner, where)
        for key, inner in value.items()
        if key not in _CHOOSE_CODE
        and "attn_implementation" not in key
        and "experts_implementation" not in key
    }


def _stage_tokenizer(folder: Path, target: Path) -> None:
    if _there(folder, "tokenizer_config.json"):
        settings = read_json(folder, "tokenizer_config.json")
        kept = {
            key: value
            for key, value in settings.items()
            if key not in _NOT_SETTINGS and key != "auto_map" and not key.endswith(("_file", "_files"))
        }
        write_json(target / "tokenizer_config.json", kept)
    for name in _JSON:
        if _there(folder, name):
            value = read_json(folder, name)
            if name == "tokenizer.json":
                check_patterns(value, folder / name)
            link(inside(folder, name), target / name)
    for name in _TEXT:
        if _there(folder, name):
            read_text(folder, name)
            link(inside(folder, name), target / name)
    for name in _BYTES:
        if _there(folder, name):
            link(inside(folder, name), target / name)
    if (folder / _TEMPLATES).is_dir():
        (target / _TEMPLATES).mkdir()
        for path in sorted((folder / _TEMPLATES).glob("*.jinja")):
            text = read_text(folder, f"{_TEMPLATES}/{path.name}")
            (target / _TEMPLATES / path.name).write_text(text, encoding="utf-8")


def _there(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)
