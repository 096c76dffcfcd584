"""Saving a model as a folder that transformers can load: weights, config, tokenizer, template. No forward pass."""

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
    """Write module and tokenizer into a new folder, atomically.

    Raises:
        ArtefactError: the folder is not empty or not writable, or the weights are not in memory.
    """
    path = as_path(folder, "folder", error=ArtefactError)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtefactError(f"{path} exists and is not empty; give a new folder, or delete that one first.")
    module = getattr(module, "_orig_mod", module)
    if any(p.is_meta for p in module.parameters()):
        raise ArtefactError(
            "The model's weights are not in memory (a skeleton, or offloaded); load the whole model first."
        )
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
    except Exception as error:  # the file system and transformers raise many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtefactError(f"Cannot save the model in {path}: {first}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def forget_quantisation(module: Any) -> None:
    """Remove marks of quantisation from a module whose weights have been converted to plain floats.

    With them ``save_pretrained`` and peft would treat it as quantised. A module that still is quantised is not changed.
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
    """Context in which the config states correctly whether the embeddings are tied; they may have been changed by hand."""
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
