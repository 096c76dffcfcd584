"""The default budget of a plan. No forwards."""

from pathlib import Path
from typing import Any

import torch

from bkdinterp.results import Store

DEFAULT_BUDGET = 2**30
# Share of a GPU's free memory; rounded down to a power of two, so that small changes of it give the same plan.
GPU_SHARE = 0.5


def default_budget(model: Any, folder: Path | None = None) -> int:
    """Bytes for a plan in addition to the loaded model: 1 GiB, or on a GPU half of its free memory, as a power of two.

    On a CPU it is a constant, so that plans do not change from day to day. On a GPU a ``folder`` of finished work keeps the
    budget that it was begun with, because another budget gives other chunks, and finished ones would not be found. If that
    much memory is no longer free, the budget is chosen again.
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
    """Free memory of a GPU; None for a CPU, whose memory is shared with other processes."""
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return None
