"""LoRA adapters onto a base model: checked, then merged, so that the module tree is the base's own. No forwards."""

import copy
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bkdinterp.errors import ArtefactError, BkdinterpError, UnsafeWeightsError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def merge_adapter(base: nn.Module, folder: str | Path, *, in_place: bool = False) -> nn.Module:
    """``base`` with the adapter merged into its weights; a deep copy unless ``in_place``.

    Args:
        base: the model that the adapter was trained on.
        folder: a PEFT folder with ``adapter_model.safetensors`` and ``adapter_config.json``.
        in_place: change ``base`` itself (saves its memory once more).

    Raises:
        UnsafeWeightsError: the folder has pickled weights only.
        ArtefactError: no adapter, a damaged one, or one that does not fit the base.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise BkdinterpError("Adapters need peft: pip install 'bkdinterp[organisms]'.") from error
    folder = Path(folder)
    check_adapter(base, folder)
    target = base if in_place else copy.deepcopy(base)
    wrapped = PeftModel.from_pretrained(target, str(folder))  # type: ignore[arg-type]
    # peft only warns when the config takes up some of the file's weights and not others.
    loose = set(load_file(folder / WEIGHTS)) ^ set(
        get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    )
    if loose:
        raise ArtefactError(
            f"The adapter in {folder} does not fit its own {CONFIG}: {len(loose)} weights without a partner, e.g. "
            f"{min(loose)!r}. Save it again."
        )
    return wrapped.merge_and_unload().eval()


def check_adapter(base: nn.Module, folder: Path) -> None:
    """Every LoRA pair must sit on a weight of the base with its very shape: peft only warns about some mismatches.

    Raises:
        UnsafeWeightsError, ArtefactError: as `merge_adapter`.
    """
    if not (folder / WEIGHTS).exists():
        if (folder / "adapter_model.bin").exists():
            raise UnsafeWeightsError(
                f"{folder} has pickled weights (adapter_model.bin), which can run code; convert them to {WEIGHTS}."
            )
        raise ArtefactError(f"No {WEIGHTS} in {folder}; give the folder of a PEFT adapter.")
    try:
        tensors = load_file(folder / WEIGHTS)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(f"Cannot read the adapter in {folder}: {error}.") from error
    modules = dict(base.named_modules())
    transposed = bool(config.get("fan_in_fan_out"))
    pairs = {k.removesuffix(".lora_A.weight") for k in tensors if k.endswith(".lora_A.weight")}
    if not pairs:
        raise ArtefactError(f"{folder / WEIGHTS} holds no LoRA weights; only LoRA adapters are supported.")
    for key in sorted(pairs):
        name = key.removeprefix("base_model.model.")
        a, b = tensors[f"{key}.lora_A.weight"], tensors.get(f"{key}.lora_B.weight")
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or b is None:
            raise ArtefactError(
                f"The adapter in {folder} has a part for {name!r}, which this base lacks; wrong base."
            )
        shape = tuple(weight.shape[::-1] if transposed else weight.shape)
        if shape != (b.shape[0], a.shape[1]):
            raise ArtefactError(
                f"The adapter in {folder} was made for {name!r} of shape {(b.shape[0], a.shape[1])}, "
                f"this base has {shape}; load it on its own base."
            )
