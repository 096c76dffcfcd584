"""Names of the linear layers that an adapter can change, in any family; for LoRA with or without MLPs. No forward pass."""

from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from bkdinterp.errors import SiteError
from bkdinterp.model import Architecture


def linear_names(module: nn.Module, parts: Iterable[str] = ("attn", "mlp")) -> tuple[str, ...]:
    """Names for ``LoraSettings.target_modules``: the linear layers of every block's attention, MLP or both.

    Each name begins with that of its parent (``"mlp.c_proj"``), because GPT-2 has a ``c_proj`` in both.

    Raises:
        SiteError: a part other than ``"attn"`` and ``"mlp"``, or no part.
    """
    chosen = tuple(parts)
    if not chosen or set(chosen) - {"attn", "mlp"}:
        raise SiteError(f"Cannot put an adapter on {chosen!r}; name 'attn', 'mlp' or both.")
    arch = Architecture.detect(module)
    block = module.get_submodule(f"{arch.family.layers}.0")
    found = []
    for part in chosen:
        path = arch.family.attn if part == "attn" else arch.family.mlp
        inner = block.get_submodule(path).named_modules()
        found += [f"{path}.{name}" for name, m in inner if isinstance(m, nn.Linear | Conv1D)]
    return tuple(found)
