"""Merging LoRA adapters into a base model after checking them; the module tree stays the base's. No forwards.

The weights file decides which modules the adapter changes, and its config must agree. Neither is trusted: the header is
compared with the base before any weight is read, and peft gets a config of our own with every module's name written out.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.model._adapter_config import CONFIG as CONFIG
from bkdinterp.model._adapter_config import LoraSpec
from bkdinterp.model._adapter_file import WEIGHTS as WEIGHTS
from bkdinterp.model._adapter_file import AdapterParts, read_header, sort_parts
from bkdinterp.model._running import copied
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.model._tying import embedding_names, tied, untie
from bkdinterp.values import as_path


def merge_adapter(base: nn.Module, folder: str | Path, *, in_place: bool = False) -> nn.Module:
    """``base`` with the adapter merged into its weights; a deep copy unless ``in_place``.

    If the base ties its unembedding to its embedding and the adapter changes one of them, they are untied first. The
    merged model then has ``config.tie_word_embeddings = False`` and saves both.

    Args:
        base: the model that the adapter was trained on.
        folder: a PEFT folder with ``adapter_model.safetensors`` and ``adapter_config.json``.
        in_place: change ``base`` itself, which saves the memory of a copy.

    Raises:
        UnsafeWeightsError: the folder has only pickled weights, or the adapter is not a LoRA.
        ArtefactError: the adapter is missing, damaged, does not fit the base, or cannot be merged exactly.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise BkdinterpError("Adapters need peft: pip install 'bkdinterp[organisms]'.") from error
    folder = as_path(folder, "adapter", error=ArtefactError)
    with plain_torch():
        header = read_header(folder)
        spec = LoraSpec.load(folder)
        parts = sort_parts(base, folder, header, spec)
        try:
            tensors = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ArtefactError(f"Cannot read the adapter in {folder}: {error}.") from error
        if bad := next((k for k, t in tensors.items() if not torch.isfinite(t).all()), None):
            raise ArtefactError(
                f"The adapter in {folder} has NaN or infinity in {bad!r}; its training failed."
            )
        target: Any = base if in_place else copied(base)
        try:
            return _merge(target, parts, tensors, spec)
        except MemoryError:
            raise
        except Exception as error:  # peft and torch raise many kinds
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtefactError(f"peft cannot merge the adapter in {folder}: {first}") from error


def _merge(target: Any, parts: AdapterParts, tensors: dict[str, torch.Tensor], spec: LoraSpec) -> nn.Module:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    _put(target, parts.own, tensors)
    names = sorted(parts.lora)
    if tied(target) and set(embedding_names(target)) & (
        set(names) | {name.rpartition(".")[0] for name in parts.replaced}
    ):
        untie(target)
        # If the file holds both, each gets its own tensor.
        _put(target, parts.own, tensors)
    _put(target, parts.replaced, tensors)
    # Escaped, because peft matches the keys of these tables as regular expressions.
    ranks = {_literally(name): spec.rank_of(name) for name in names}
    alphas = {_literally(name): spec.alpha_of(name) for name in names}
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        target_modules=names,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        lora_bias=spec.lora_bias,
        init_lora_weights=False,
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # Warnings about GPT-2's transposed weights, which peft handles, and about tied weights, which are untied here.
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(target, config)
        found = set_peft_model_state_dict(wrapped, {key: tensors[key] for key in parts.lora_keys})
        left = [key for key in found.missing_keys if ".lora_" in key] + list(found.unexpected_keys)
        if left:
            raise ArtefactError(f"peft finds no place for {len(left)} weights, e.g. {min(left)!r}")
        merged = wrapped.merge_and_unload()
    return merged.eval()


def _put(target: nn.Module, places: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(target.named_parameters(remove_duplicate=False))
    for name, key in places.items():
        parameters[name].copy_(tensors[key])


def _literally(name: str) -> str:
    return name.replace(".", r"\.")
