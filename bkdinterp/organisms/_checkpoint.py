"""Checkpoints of a poisoning run: adapter weights, AdamW moments and losses in one safetensors file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bkdinterp.errors import ArtefactError

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: str | Path,
    key: str,
    weights: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW,
    losses: list[float],
) -> None:
    """Write atomically; ``key`` identifies the run."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in weights.items()}
    for name, p in weights.items():
        tensors |= {f"{moment}/{name}": optimiser.state[p][moment].contiguous() for moment in _MOMENTS}
    temp = path.with_name(path.name + ".part")
    save_file(tensors, temp, metadata={"key": key, "losses": json.dumps(losses)})
    os.replace(temp, path)


def load_checkpoint(
    path: str | Path | None, key: str, weights: Mapping[str, Tensor], optimiser: torch.optim.AdamW
) -> list[float]:
    """Restore weights and optimiser in place and return the losses so far; an absent file restores nothing.

    Raises:
        ArtefactError: a damaged file, or one of another run.
    """
    if path is None or not Path(path).exists():
        return []
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                raise ArtefactError(
                    f"{Path(path).name} is the checkpoint of another run; delete it or name another file."
                )
            losses: list[float] = json.loads(metadata["losses"])
            for name, p in weights.items():
                with torch.no_grad():
                    p.copy_(file.get_tensor(f"weight/{name}"))
                state = {moment: file.get_tensor(f"{moment}/{name}") for moment in _MOMENTS}
                optimiser.state[p] = {"step": torch.tensor(float(len(losses))), **state}
    except SafetensorError as error:
        raise ArtefactError(
            f"{Path(path).name} is no readable checkpoint ({error}); delete it to start anew."
        ) from error
    return losses
