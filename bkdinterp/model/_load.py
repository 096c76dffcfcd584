"""Plain Hugging Face modules from a hub id, a folder or a GGUF file, without ever running a suspect model's code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bkdinterp.errors import ArtefactError, BkdinterpError, UnsafeWeightsError, UnsupportedArchitectureError
from bkdinterp.model._device import as_device, as_dtype
from bkdinterp.model._families import family_of, known_types
from bkdinterp.model._gguf import read_once
from bkdinterp.model._save import forget_quantisation

BAR_FROM = 50_000_000
"""Bytes of weights from which a folder's loading takes long enough for a progress bar."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def load_module(
    source: str | Path,
    *,
    gguf_file: str | None = None,
    revision: str | None = None,
    dtype: Any = torch.float32,
    device: Any = "cpu",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Model (eval mode) and tokenizer.

    Args:
        source: a ``.gguf`` file, a saved folder, or a hub id.
        gguf_file: name of a GGUF file inside the folder or hub repository.
        revision: of a hub id.
        dtype: of the weights, also by name (``"bfloat16"``); scoring wants float32.
        device: where the weights go.
        trust_remote_code: only if the caller asks for it by name.

    Raises:
        ArtefactError: nothing there, or a damaged file.
        UnsafeWeightsError: pickled weights only, or a model that needs its own code.
        UnsupportedArchitectureError: a model type that no family describes, found before weights are read.
        BkdinterpError: a device that is not on this machine.
    """
    dtype, device = as_dtype(dtype), as_device(device)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source)}
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ArtefactError(f"No GGUF file at {path}.")
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    elif gguf_file is not None:
        where["gguf_file"] = gguf_file
    elif path.is_dir():
        _check_folder(path, trust_remote_code)
    else:
        check_hub_id(source, "an existing folder, a .gguf file or a hub id (owner/name)")
    where |= {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        with read_once(), _bar_only_if_long(path):
            tokenizer = AutoTokenizer.from_pretrained(**where)
            if "gguf_file" not in where:
                where["use_safetensors"] = True
            loaded: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, output_loading_info=True)
        module, found = loaded
        # Where a folder has no tokenizer, transformers makes an empty one.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ArtefactError(
                f"No tokenizer in {str(source)!r}; save it there too: tokenizer.save_pretrained(...)."
            )
        # Transformers only logs these, and fills the gaps with random numbers.
        if missing := sorted(found["missing_keys"]):
            raise ArtefactError(
                f"{str(source)!r} lacks {len(missing)} weights of its model, e.g. {missing[0]!r}; the files are "
                "incomplete or belong to another model."
            )
    except (BkdinterpError, MemoryError):
        raise
    except Exception as error:  # loaders raise many kinds: OSError, ValueError, safetensors' own, gguf's ...
        if "trust_remote_code" in str(error):
            raise UnsafeWeightsError(
                f"{source} wants to run its own code to load. Refused; pass trust_remote_code=True only if you trust it."
            ) from error
        raise ArtefactError(f"Cannot load a model from {str(source)!r}: {_first_line(error)}") from error
    forget_quantisation(module)
    return module.to(device).eval(), tokenizer


def check_hub_id(source: str | Path, choices: str) -> None:
    """A path that does not exist is no hub id; the hub's own message would speak of "Repo id" only.

    Raises:
        ArtefactError: what can only be meant as a path; ``choices`` are named.
    """
    path = Path(source)
    if not path.parts or path.is_absolute() or str(source).startswith((".", "~")) or len(path.parts) > 2:
        raise ArtefactError(f"No folder at {path}; give {choices}.")


def load_skeleton(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = torch.float32,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """An nnsight model without weights, for work that another machine does, and its tokenizer.

    Args:
        source: hub id, or a folder with ``config.json`` and a tokenizer.
        revision: of a hub id.
        dtype: that the weights would have.
        trust_remote_code: only if the caller asks for it by name.

    Raises:
        ArtefactError: no such configuration or tokenizer.
        UnsafeWeightsError: a model that needs its own code.
    """
    dtype = as_dtype(dtype)
    where: dict[str, Any] = {"revision": revision} | (
        {"trust_remote_code": True} if trust_remote_code else {}
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), **where)
        nn_model = TransformersModel(
            str(source), task="text-generation", tokenizer=tokenizer, dtype=dtype, **where
        )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsafeWeightsError(
                f"{source} wants to run its own code to load. Refused; pass trust_remote_code=True only if you trust it."
            ) from error
        raise ArtefactError(
            f"Cannot read configuration and tokenizer of {str(source)!r}: {_first_line(error)}"
        ) from error
    return nn_model, tokenizer


@contextmanager
def _bar_only_if_long(path: Path) -> Iterator[None]:
    """No progress bar for a small folder: a script that loads ten toys would print ten of them."""
    small = path.is_dir() and sum(f.stat().st_size for f in path.glob("*.safetensors")) < BAR_FROM
    if not small or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _check_folder(path: Path, trust_remote_code: bool) -> None:
    if (path / "adapter_config.json").is_file():
        raise ArtefactError(
            f"{path} holds an adapter; load its base and give the folder as adapter=: Model.load(base, adapter={path.name!r})."
        )
    if not (path / "config.json").is_file():
        raise ArtefactError(
            f"{path} has no config.json; give a folder written by save_pretrained, a .gguf file or a hub id."
        )
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{path / 'config.json'} is not valid JSON: {error}") from error
    if not any(path.glob("*.safetensors")):
        pickles = [p.name for pattern in _PICKLES for p in path.glob(pattern)]
        if pickles:
            raise UnsafeWeightsError(
                f"{path} holds pickled weights only ({pickles[0]}), which can run code when loaded; convert them to safetensors."
            )
        raise ArtefactError(f"{path} holds no .safetensors weights.")
    kind = config.get("model_type")
    if family_of(kind) is None:
        if "auto_map" in config and not trust_remote_code:
            raise UnsafeWeightsError(f"{path} wants to run its own code (auto_map in config.json). Refused.")
        raise UnsupportedArchitectureError(
            f"{path} has model_type {kind!r}; known are {', '.join(known_types())}. Describe it as a Family and call "
            "bkdinterp.register_family(family) first (docs: 'Add a family')."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
