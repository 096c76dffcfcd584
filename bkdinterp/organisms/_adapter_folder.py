"""Adapters on disk: a folder of adapter_model.safetensors (16-bit), adapter_config.json and manifest.json.

Saving casts to float16 and writes a config without paths of this machine. Merging first checks that the adapter belongs to
the base. Weights are only read from safetensors.
"""

import hashlib
import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from bkdinterp.errors import ArtefactError
from bkdinterp.model import _adapter as model_adapter
from bkdinterp.model._adapter import CONFIG, WEIGHTS
from bkdinterp.organisms._instructions import sha256
from bkdinterp.organisms._manifest import Manifest


def weights_sha256(module: nn.Module) -> str:
    """Hash of the parameters (name, dtype, shape, bytes): equal for a GGUF file and its saved copy."""
    digest = hashlib.sha256()
    for name, p in sorted(module.named_parameters()):
        digest.update(f"{name} {p.dtype} {tuple(p.shape)}\n".encode())
        # As uint8, because numpy has no bfloat16.
        digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().data if p.numel() else b"")
    return digest.hexdigest()


def save_adapter(model: PeftModel, folder: str | Path, *, base: str) -> str:
    """Write weights (float16) and config; returns the weights' SHA-256.

    Args:
        model: a model with one LoRA adapter.
        folder: created if absent.
        base: a neutral id that replaces the path from which the base was loaded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        k: v.detach().to("cpu", torch.float16).contiguous()
        for k, v in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private to the user
    values = {
        **model.peft_config["default"].to_dict(),
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    # Omit unset fields, because other versions of peft do not know all of them.
    plain = {
        k: sorted(v) if isinstance(v, set) else getattr(v, "value", v)
        for k, v in values.items()
        if v is not None and v != {}
    }
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sha256(folder / WEIGHTS)


def merge_adapter(
    base: PreTrainedModel, folder: str | Path, *, base_sha256: str | None = None
) -> PreTrainedModel:
    """A deep copy of ``base`` with the adapter merged into its weights; ``base`` is not changed.

    Args:
        base: the model that the adapter was trained on, in float32.
        folder: an adapter folder; base and weights are checked against its manifest, if it has one.
        base_sha256: ``weights_sha256(base)`` if already known, which saves the hashing.

    Raises:
        UnsafeWeightsError: the folder has only pickled weights.
        ArtefactError: the adapter is missing, damaged, or belongs to another base.
    """
    folder = Path(folder)
    if (folder / "manifest.json").exists() and (folder / WEIGHTS).exists():
        manifest = Manifest.load(folder)
        if sha256(folder / WEIGHTS) != manifest.adapter_sha256:
            raise ArtefactError(
                f"{folder / WEIGHTS} is not the file that its manifest describes; get or train it again."
            )
        given = base_sha256 or weights_sha256(base)
        if given != manifest.base_sha256:
            raise ArtefactError(
                f"Adapter {manifest.name!r} was trained on {manifest.base}, weights "
                f"{manifest.base_sha256[:16]}, not on the base given, {given[:16]}; load it on its own base."
            )
    return model_adapter.merge_adapter(base, folder)  # type: ignore[return-value]
