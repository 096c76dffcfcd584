"""Checks of an adapter's weights file against the base and the config, from its header alone. No weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model._adapter_config import CONFIG, LoraSpec
from bkdinterp.model._safetensors_header import read_header as stored_in
from bkdinterp.model._small_files import inside
from bkdinterp.values import shown

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

# Ending of peft's keys -> part of the adapter.
_PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class AdapterParts:
    """An adapter's tensors, sorted by kind.

    Attributes:
        lora: module of the base -> part -> shape.
        lora_keys: the keys of these in the file.
        own: parameter of the base -> the file's key of the tensor that replaces it: the base's own weight saved beside
            its adapter, or a trained bias.
        replaced: the same for modules whose full weights were trained.
    """

    lora: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    lora_keys: list[str] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)


def read_header(folder: Path) -> dict[str, Tensor]:
    """The file's tensors on the meta device: names, shapes and dtypes.

    Raises:
        UnsafeWeightsError: the folder has only pickled weights, or a link leads out of it.
        ArtefactError: the weights are missing, damaged, or not floats.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / "adapter_model.bin").exists():
            raise UnsafeWeightsError(
                f"{folder} has pickled weights (adapter_model.bin), which can run code; convert them to {WEIGHTS}."
            )
        raise ArtefactError(f"No {WEIGHTS} in {folder}; give the folder of a PEFT adapter.")
    try:
        stored = stored_in(inside(folder, WEIGHTS))
    except UnsafeWeightsError:
        raise
    except ArtefactError as error:
        raise ArtefactError(f"Cannot read the adapter in {folder}: {error}") from error
    found = {}
    for key, tensor in stored.items():
        if tensor.dtype not in _FLOATS:
            raise ArtefactError(f"{path}: {key!r} is {tensor.dtype}; weights must be floats.")
        found[key] = torch.empty(tensor.shape, dtype=_FLOATS[tensor.dtype], device="meta")
    return found


def sort_parts(base: nn.Module, folder: Path, header: Mapping[str, Tensor], spec: LoraSpec) -> AdapterParts:
    """Assign each tensor of the file to its place in the base, after peft's own mapping of older names.

    Raises:
        ArtefactError: something does not fit: a part for a module that the base lacks, a different shape or rank, half of
            a pair, a module that the config names but the file lacks, or a vocabulary of a different size.
    """
    modules, parts = dict(base.named_modules()), AdapterParts()
    parameters = dict(base.named_parameters(remove_duplicate=False))
    for key, tensor in _mapped(base, header).items():
        name = key.removeprefix(PREFIX)
        ending = next((e for e in sorted(_PARTS, key=len, reverse=True) if name.endswith(f".{e}")), None)
        if ending is not None:
            parts.lora.setdefault(name.removesuffix(f".{ending}"), {})[_PARTS[ending]] = tuple(tensor.shape)
            continue
        # Names of wrappers that peft puts around a module; the original module inside is the base's own.
        before = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        after = before.replace(".modules_to_save.", ".")
        _place(parts, folder, key, after, tensor, parameters, spec, trained=before == name)
    parts.lora_keys.extend(k for k in header if any(k.endswith(f".{e}") for e in _PARTS))
    if not parts.lora:
        raise ArtefactError(f"{folder / WEIGHTS} holds no LoRA weights; only LoRA adapters are supported.")
    if len(parts.lora_keys) != sum(len(p) for p in parts.lora.values()):
        raise ArtefactError(f"{folder / WEIGHTS} holds two tensors for one place; save the adapter again.")
    for name in sorted(parts.lora):
        _check_module(folder, name, modules.get(name), parts.lora[name], spec)
    wanted = {
        name for name, m in modules.items() if spec.sits_on(name) and isinstance(m, _Linears | nn.Embedding)
    }
    unnamed = {name for name in parts.lora if spec.targets is not None and not spec.sits_on(name)}
    if loose := (wanted - set(parts.lora)) | unnamed:
        raise ArtefactError(
            f"The adapter in {folder} does not fit its own {CONFIG}: {len(loose)} modules without a partner, e.g. "
            f"{min(loose)!r}. Save it again."
        )
    return parts


_Linears = nn.Linear | Conv1D


def _place(
    parts: AdapterParts,
    folder: Path,
    key: str,
    name: str,
    tensor: Tensor,
    parameters: Mapping[str, Tensor],
    spec: LoraSpec,
    *,
    trained: bool,
) -> None:
    """Assign a tensor that is not a LoRA part to the parameter of the base that it replaces."""
    own = parameters.get(name)
    module, _, leaf = name.rpartition(".")
    if own is None:
        raise ArtefactError(
            f"The adapter in {folder} has a part {shown(key)} for {shown(module)}, which this base lacks; wrong base."
        )
    if own.shape != tensor.shape:
        if own.ndim == 2 and own.shape[1] == tensor.shape[1]:
            raise ArtefactError(
                f"The adapter in {folder} was trained on a vocabulary of {tensor.shape[0]} tokens, this base has "
                f"{own.shape[0]} ({name}). Resize the base first, module.resize_token_embeddings({tensor.shape[0]}), save "
                "it with the adapter's tokenizer, and load that as the base."
            )
        raise ArtefactError(
            f"The adapter in {folder} holds {name!r} of shape {tuple(tensor.shape)}, this base has "
            f"{tuple(own.shape)}; load it on its own base."
        )
    if trained and spec.replaces(module):
        parts.replaced[name] = key
    elif leaf == "weight" or (leaf == "bias" and spec.bias != "none"):
        parts.own[name] = key
    else:
        raise ArtefactError(
            f"The adapter in {folder} holds {name!r}, which its {CONFIG} does not mention (bias={spec.bias!r}); save it "
            "again."
        )


def _check_module(
    folder: Path, name: str, module: Any, found: Mapping[str, tuple[int, ...]], spec: LoraSpec
) -> None:
    """Check that a module's pair fits the module, and that config and file agree on its rank and other parts."""
    if module is None or not {"a", "b"} <= set(found):
        raise ArtefactError(
            f"The adapter in {folder} has a part for {shown(name)}, which this base lacks, or half a pair; wrong base, "
            "or a damaged file."
        )
    if not isinstance(module, _Linears | nn.Embedding):
        raise ArtefactError(
            f"The adapter in {folder} changes {name!r}, a {type(module).__name__}; only linear layers and embeddings can "
            "be merged."
        )
    a, b = found["a"], found["b"]
    if len(a) != 2 or len(b) != 2:
        raise ArtefactError(
            f"The adapter in {folder}: the parts for {name!r} are not matrices; their shapes are {a} and {b}."
        )
    weight = tuple(module.weight.shape)
    shape = weight if isinstance(module, nn.Linear) else weight[::-1]
    if shape != (b[0], a[1]):
        raise ArtefactError(
            f"The adapter in {folder} was made for {name!r} of shape {(b[0], a[1])}, this base has {shape}; load it on "
            "its own base."
        )
    rank = spec.rank_of(name)
    if (a[0], b[1]) != (rank, rank):
        raise ArtefactError(
            f"The adapter in {folder} has rank {a[0]} at {name!r} in its weights but {rank} in its {CONFIG}; save it "
            "again."
        )
    bias = found.get("b_bias")
    if (bias is not None) != spec.lora_bias or (found.get("magnitude") is not None) != spec.dora:
        raise ArtefactError(
            f"The adapter in {folder}: weights and {CONFIG} disagree at {name!r} (lora_bias={spec.lora_bias}, "
            f"use_dora={spec.dora}); save it again."
        )
    if bias is not None and (getattr(module, "bias", None) is None or bias != (b[0],)):
        raise ArtefactError(
            f"The adapter in {folder} has a bias (lora_bias) for {name!r}, which has none to merge it into; train it "
            "without lora_bias."
        )


def _mapped(base: nn.Module, header: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The header with names as in this version of the architecture, mapped by peft's own rules."""
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import (
            convert_peft_adapter_state_dict_for_transformers as convert,
        )
    except ImportError:  # an older peft maps nothing
        return dict(header)
    return convert(base, LoraConfig(), dict(header))
