"""Checkpoints of a training run: trained weights, AdamW moments and losses in one safetensors file, written atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bkdinterp.errors import ArtefactError
from bkdinterp.model._identity import forward_id
from bkdinterp.organisms._adapter_folder import weights_sha256
from bkdinterp.results import digest_of, versions, write_whole
from bkdinterp.results._tensors import content_hash
from bkdinterp.values import as_path

_MOMENTS = ("exp_avg", "exp_avg_sq")


def run_key(base: nn.Module, *parts: Any) -> str:
    """16 hex digits for everything that decides a run: the base, this package's version, and ``parts``.

    Args:
        base: the model at the start of training; its weights, buffers and settings of the forward pass count.
        parts: settings, rows, hashes.
    """
    return digest_of((weights_sha256(base), forward_id(base), versions()["bkdinterp"], parts))


def save_checkpoint(
    path: str | Path,
    key: str,
    weights: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW,
    losses: list[float],
) -> None:
    """Write atomically; ``key`` identifies the run.

    Raises:
        ArtefactError: the file cannot be written.
    """
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in weights.items()}
    for name, p in weights.items():
        tensors |= {f"{moment}/{name}": optimiser.state[p][moment].contiguous() for moment in _MOMENTS}
    metadata = {"key": key, "losses": json.dumps(losses), "sha256": content_hash([key, losses], tensors)}
    target = as_path(path, "checkpoint", error=ArtefactError)
    write_whole(target, lambda fresh: save_file(tensors, fresh, metadata=metadata))


def load_checkpoint(
    path: str | Path | None, key: str, weights: Mapping[str, Tensor], optimiser: torch.optim.AdamW
) -> list[float]:
    """Restore weights and optimiser in place and return the losses so far; does nothing if the file is absent.

    Raises:
        ArtefactError: the file is damaged or belongs to another run.
    """
    if path is None:
        return []
    path = as_path(path, "checkpoint", error=ArtefactError)
    try:
        if not path.exists():
            return []
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                raise ArtefactError(
                    f"{path.name} is the checkpoint of another run (other weights, rows or settings); delete it or name "
                    "another file."
                )
            losses: list[float] = json.loads(metadata["losses"])
            kinds = ("weight", *_MOMENTS)
            tensors = {
                f"{kind}/{name}": file.get_tensor(f"{kind}/{name}") for name in weights for kind in kinds
            }
            whole = metadata["sha256"] == content_hash([key, losses], tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ArtefactError(
            f"{path.name} is no readable checkpoint ({error}); delete it to start anew."
        ) from error
    if not whole or any(tensors[f"weight/{name}"].shape != p.shape for name, p in weights.items()):
        raise ArtefactError(
            f"{path.name} is no readable checkpoint (its hash differs from its content); delete it to start anew."
        )
    for name, p in weights.items():
        with torch.no_grad():
            p.copy_(tensors[f"weight/{name}"])
        state = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
        optimiser.state[p] = {"step": torch.tensor(float(len(losses))), **state}
    return losses
