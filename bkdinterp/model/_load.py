"""Loading of Hugging Face modules from a hub id, a folder or a GGUF file, without running a suspect model's code.

All sources pass the same checks. Files are read within their bytes. The library sees only a staging folder of checked
copies. The model that the config asks for is built without weights and compared with the stored tensors. After loading,
every stored tensor must have been used.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bkdinterp.errors import ArtefactError, UnsupportedArchitectureError
from bkdinterp.model._architecture import Architecture
from bkdinterp.model._device import as_device, as_dtype
from bkdinterp.model._errors_at_load import own_errors
from bkdinterp.model._families import family_of, known_types
from bkdinterp.model._gguf import load_gguf
from bkdinterp.model._save import forget_quantisation
from bkdinterp.model._skeleton import WITHOUT_WEIGHTS, Room, bounded, build_skeleton, check_sizes
from bkdinterp.model._staging import Staging, staged
from bkdinterp.model._template_probe import probe_templates
from bkdinterp.model._tensors_used import check_used
from bkdinterp.model._weights_source import Source, resolve
from bkdinterp.values import shown

BAR_FROM = 50_000_000
"""Bytes of weights above which loading shows a progress bar."""


def load_module(
    source: str | Path,
    *,
    gguf_file: str | None = None,
    revision: str | None = None,
    dtype: Any = torch.float32,
    device: Any = "cpu",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Load a model (in eval mode) and its tokenizer.

    Args:
        source: a ``.gguf`` file, a saved folder, or a hub id.
        gguf_file: name of a GGUF file inside the folder or hub repository.
        revision: revision of a hub id.
        dtype: dtype of the weights, also by name (``"bfloat16"``); use float32 for scoring.
        device: where the weights go.
        trust_remote_code: allow the model's own code; the library then reads the folder itself.

    Raises:
        ArtefactError: the model is missing or damaged, its config asks for more than is stored, stored weights or GGUF
            settings would not be used, or the weights are quantised.
        UnsafeWeightsError: only pickled weights, files outside the folder, a model that needs its own code, or a template
            or pattern that may never end.
        UnsupportedArchitectureError: no family describes the model type; raised before weights are read.
        BkdinterpError: the device is not on this machine.
    """
    dtype, device = as_dtype(dtype), as_device(device)
    place = resolve(source, gguf_file=gguf_file, revision=revision)
    module: Any
    with own_errors("load a model from", place.given):
        if place.gguf is not None:
            module, tokenizer = load_gguf(place.gguf, dtype, place.given)
        elif trust_remote_code:
            module, tokenizer = _load_trusted(place, dtype)
        else:
            module, tokenizer = _load_folder(place, dtype)
        # transformers makes an empty tokenizer if a folder has none.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ArtefactError(
                f"No tokenizer in {place.given!r}; save it there too: tokenizer.save_pretrained(...)."
            )
        module.config._name_or_path = module.name_or_path = tokenizer.name_or_path = place.given
        Architecture.detect(module)
        try_tokenizer(tokenizer)
        probe_templates(tokenizer, place.given)
    forget_quantisation(module)
    return module.to(device).eval(), tokenizer


def load_skeleton(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = torch.float32,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load an nnsight model without weights, for work on another machine, and its tokenizer.

    Args:
        source: hub id, or a folder with ``config.json`` and a tokenizer.
        revision: revision of a hub id.
        dtype: dtype that the weights would have.
        trust_remote_code: allow the model's own code.

    Raises:
        ArtefactError: configuration or tokenizer is missing, or asks for more layers than any known model has.
        UnsafeWeightsError: a model that needs its own code, or a template or pattern that may never end.
        UnsupportedArchitectureError: no family describes the model type.
    """
    dtype = as_dtype(dtype)
    place = resolve(source, revision=revision, weights=False)
    with own_errors("read configuration and tokenizer of", place.given), ExitStack() as opened:
        folder = _folder_of(place)
        if not trust_remote_code:
            staging = opened.enter_context(staged(folder, weights=False))
            _check_family(staging.config, folder)
            check_sizes(staging.config, WITHOUT_WEIGHTS, place.given)
            opened.enter_context(bounded(WITHOUT_WEIGHTS, place.given))
            folder = staging.folder
        code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **code)
        tokenizer.name_or_path = place.given
        config = AutoConfig.from_pretrained(str(folder), **code)
        config._name_or_path = place.given
        # Keep the caller's id, which the server knows, but read the checked folder.
        nn_model = TransformersModel(
            place.given,
            task="text-generation",
            tokenizer=tokenizer,
            dtype=dtype,
            config=config,
            revision=revision,
            **code,
        )
        Architecture.detect(nn_model._module)
        try_tokenizer(tokenizer)
        probe_templates(tokenizer, place.given)
    return nn_model, tokenizer


def read_folder(staging: Staging, auto: Any, source: str, **settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Module, tokenizer and transformers' report, from a staging folder with weights.

    Raises:
        ArtefactError: the config asks for more than is stored.
    """
    room = Room.of(staging.stored.values())
    check_sizes(staging.config, room, source)
    where = str(staging.folder)
    config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    build_skeleton(lambda: auto.from_config(copy.deepcopy(config), trust_remote_code=False), room, source)
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    with _bar_only_if_long(staging):
        module, found = auto.from_pretrained(
            where,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
    return module, tokenizer, found


def try_tokenizer(tokenizer: Any) -> None:
    """Use a tokenizer once, so that a damaged one fails when it is loaded.

    Raises:
        Exception: any error that the library raises on damaged settings; the caller adds the file's name.
    """
    ids = tokenizer("a question").input_ids
    tokenizer.decode(ids, skip_special_tokens=True)
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    numbers = [*ids, *(token for token in special if token is not None), tokenizer.model_max_length]
    if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
        raise ValueError(f"its tokenizer gives {shown(numbers)} instead of ids and a length")


def _load_folder(place: Source, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    folder = _folder_of(place)
    with staged(folder) as staging:
        _check_family(staging.config, folder)
        module, tokenizer, found = read_folder(staging, AutoModelForCausalLM, place.given, dtype=dtype)
        check_used(module, found, staging.stored, place.given)
    return module, tokenizer


def _load_trusted(place: Source, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(_folder_of(place)),
        "trust_remote_code": True,
    }
    tokenizer = AutoTokenizer.from_pretrained(**where)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **where, use_safetensors=True, dtype=dtype, output_loading_info=True
    )
    module, found = loaded
    check_used(module, found, {}, place.given)
    return module, tokenizer


def _folder_of(place: Source) -> Path:
    """The source's folder, checked to hold a model and not an adapter.

    Raises:
        ArtefactError: the source is a GGUF file or an adapter, or has no config.json.
    """
    folder = place.folder
    if folder is None:
        raise ArtefactError(f"{place.given} is a GGUF file; give a folder or a hub id.")
    if (folder / "adapter_config.json").exists():
        raise ArtefactError(
            f"{folder} holds an adapter; load its base and give the folder as adapter=: "
            f"Model.load(base, adapter={folder.name!r})."
        )
    if not (folder / "config.json").exists():
        raise ArtefactError(
            f"{folder} has no config.json; give a folder written by save_pretrained, a .gguf file or a hub id."
        )
    return folder


def _check_family(config: dict[str, Any], folder: Path) -> None:
    kind = config.get("model_type")
    if family_of(kind) is None:
        raise UnsupportedArchitectureError(
            f"{folder} has model_type {shown(kind)}; known are {', '.join(known_types())}. Describe it as a Family and call "
            "bkdinterp.model.register_family(family) first (docs: 'Add a family')."
        )


@contextmanager
def _bar_only_if_long(staging: Staging) -> Iterator[None]:
    """Hide the progress bar for a small folder; a script that loads ten toys would print ten bars."""
    files = {tensor.file for tensor in staging.stored.values()}
    small = sum(file.stat().st_size for file in files) < BAR_FROM
    if not small or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
