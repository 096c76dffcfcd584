"""Saving a model as a folder that plain transformers loads: weights, config, tokenizer, template. No forward pass."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from bkdinterp.errors import ArtefactError
from bkdinterp.model._running import lock_of
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.model._tying import tied
from bkdinterp.values import as_path

_LEFT_BY_LOADERS = ("hf_quantizer", "quantization_method")


def save_folder(module: Any, tokenizer: Any, folder: Any) -> Path:
    """Write both into a new folder, as a whole or not at all.

    Raises:
        ArtefactError: something is there already, the folder cannot be written, or the weights are not in memory.
    """
    path = as_path(folder, "folder", error=ArtefactError)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtefactError(f"{path} exists and is not empty; name a new folder, or delete that one first.")
    module = getattr(module, "_orig_mod", module)
    if any(p.is_meta for p in module.parameters()):
        raise ArtefactError("The model has no weights here (a skeleton, or offloaded); load it whole first.")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(module), plain_torch(), _as_it_is(module):
            forget_quantisation(module)
            module.save_pretrained(part)
            tokenizer.save_pretrained(part)
        for file in part.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes it private to the user
        if path.exists():
            path.rmdir()
        os.replace(part, path)
    except MemoryError:
        raise
    except Exception as error:  # the file system's errors, and those of transformers, come in many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtefactError(f"Cannot save the model in {path}: {first}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def forget_quantisation(module: Any) -> None:
    """Drop what a loader of quantised files leaves on a module whose weights are plain numbers by now.

    ``save_pretrained`` and peft would take it for a quantised model. Nothing happens to one that is.
    """
    if not all(p.is_floating_point() for p in module.parameters()):
        return
    for part in module.modules():
        config = getattr(part, "config", None)
        for holder, names in (
            (part, _LEFT_BY_LOADERS),
            (config, ("quantization_config", "_is_quantized")),
        ):
            for name in names:
                if holder is not None and name in vars(holder):
                    delattr(holder, name)
        if "is_quantized" in vars(part):
            part.is_quantized = False


@contextmanager
def _as_it_is(module: nn.Module) -> Iterator[None]:
    """While open, the config says of the tie between the embeddings what is so; it may have been changed by hand."""
    configs: list[Any] = [module.config]
    if hasattr(module.config, "get_text_config"):
        configs.append(module.config.get_text_config())  # type: ignore[operator]
    said = [getattr(config, "tie_word_embeddings", None) for config in configs]
    is_tied = tied(module)
    for config, before in zip(configs, said, strict=True):
        if before is not None:
            config.tie_word_embeddings = is_tied
    try:
        yield
    finally:
        for config, before in zip(configs, said, strict=True):
            if before is not None:
                config.tie_word_embeddings = before
