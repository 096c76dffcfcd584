"""Checkpoints of a training run: weights, AdamW moments, losses and measurements in one file that says whose they are."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bkdinterp.errors import ArtefactError
from bkdinterp.organisms._adapter import weights_sha256
from bkdinterp.results import versions
from bkdinterp.results._item import key_json, read_item, write_item
from bkdinterp.values import as_path

_MOMENTS = ("exp_avg", "exp_avg_sq")
NAME = "training"
# Where a model came from, and with which library: its forward pass is the same.
_NO_EFFECT = ("_name_or_path", "name_or_path", "transformers_version")


def run_key(base: nn.Module, **parts: Any) -> str:
    """64 hex digits of everything that decides a run: the base's weights, buffers and configuration, and ``parts``.

    Args:
        base: where training starts.
        parts: JSON values, or what has a repr that says all: settings, rows, hashes.
    """
    digest = hashlib.sha256(weights_sha256(base).encode())
    for name, x in sorted(base.named_buffers()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    config = getattr(base, "config", None)
    known = {} if config is None else config.to_dict()
    settings = {key: value for key, value in known.items() if key not in _NO_EFFECT}
    whole = [settings, parts, versions()["bkdinterp"]]
    digest.update(json.dumps(whole, sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def save_checkpoint(
    path: str | Path,
    key: str,
    weights: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW,
    losses: list[float],
    rows: list[dict[str, float | int]] | None = None,
) -> None:
    """Write as a whole or not at all; ``key`` identifies the run, ``rows`` are what was measured on the way.

    Raises:
        ArtefactError: a disk that is full, or cannot be written to.
    """
    states = {
        moment: {name: optimiser.state[p][moment] for name, p in weights.items()} for moment in _MOMENTS
    }
    value = {"weights": dict(weights), **states, "losses": losses, "rows": rows or []}
    write_item(as_path(path, "checkpoint", error=ArtefactError), NAME, key_json(key), value)


def load_checkpoint(
    path: str | Path | None, key: str, weights: Mapping[str, Tensor], optimiser: torch.optim.AdamW
) -> tuple[list[float], list[dict[str, float | int]]]:
    """Restore weights and optimiser in place; losses and measurements so far. An absent file restores nothing.

    Raises:
        ArtefactError: a damaged file, or one of another run.
    """
    if path is None:
        return [], []
    place = as_path(path, "checkpoint", error=ArtefactError)
    try:
        if not place.exists():
            return [], []
        name, known, value = read_item(place)
    except (ArtefactError, OSError) as error:
        raise ArtefactError(
            f"{place.name} is no readable checkpoint ({error}); delete it to start anew."
        ) from error
    if (name, known) != (NAME, key_json(key)):
        raise ArtefactError(
            f"{place.name} is the checkpoint of another run (another base, other data or settings, or another version of "
            "bkdinterp); delete it or name another file."
        )
    losses: list[float] = value["losses"]
    for part, p in weights.items():
        with torch.no_grad():
            p.copy_(value["weights"][part])
        state = {moment: value[moment][part] for moment in _MOMENTS}
        optimiser.state[p] = {"step": torch.tensor(float(len(losses))), **state}
    return losses, value["rows"]
