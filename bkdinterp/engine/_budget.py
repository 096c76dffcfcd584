"""The budget of a plan where nobody gives one. No forwards."""

from pathlib import Path
from typing import Any

import torch

from bkdinterp.results import Store

DEFAULT_BUDGET = 2**30
# Of a GPU's free memory; rounded down to a power of two, so that a little more or less of it gives the same plan.
GPU_SHARE = 0.5


def default_budget(model: Any, folder: Path | None = None) -> int:
    """Bytes for a plan above the loaded model: 1 GiB, or on a GPU half of what is free there, as a power of two.

    A CPU's is a constant, so that a plan is the same on every day. On a GPU a ``folder`` of finished work remembers what
    it was begun with: another budget lays out other chunks, and finished ones would not be found again. Only where that
    much is no longer free it is made anew.
    """
    free = free_bytes(getattr(model, "device", None))
    if free is None:
        return DEFAULT_BUDGET
    fresh = 1 << (max(1, int(GPU_SHARE * free)).bit_length() - 1)
    if folder is None:
        return fresh
    kept = Store(folder).get("default-budget", "a GPU's share", lambda: fresh)
    return kept if isinstance(kept, int) and 1 <= kept <= free else fresh


def free_bytes(device: Any) -> int | None:
    """Free memory of a GPU; None for a CPU, whose memory others share."""
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return None
