"""LoRA adapters onto a base model: checked, then merged, so that the module tree is the base's own. No forwards.

The file decides where the adapter sits, and its config must agree. Both are a stranger's: the header is held against the
base before a weight is read, and peft gets a config of our own, with every module's name written out.
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

    Where the base has its unembedding tied to its embedding and the adapter changes one of them, they are parted first:
    the merged model has ``config.tie_word_embeddings = False`` and saves both.

    Args:
        base: the model that the adapter was trained on.
        folder: a PEFT folder with ``adapter_model.safetensors`` and ``adapter_config.json``.
        in_place: change ``base`` itself (saves its memory once more).

    Raises:
        UnsafeWeightsError: the folder has pickled weights only, or another kind of adapter than LoRA.
        ArtefactError: no adapter, a damaged one, one that does not fit the base, or one that cannot be merged exactly.
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
            raise ArtefactError(f"The adapter in {folder} is not finite at {bad!r}; training it has failed.")
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
        # What the file holds of the two apart goes to each.
        _put(target, parts.own, tensors)
    _put(target, parts.replaced, tensors)
    # peft matches the keys of these tables as expressions, hence the escapes.
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
        # About GPT-2's transposed weights, which peft finds by itself, and about tied ones, which are parted.
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
