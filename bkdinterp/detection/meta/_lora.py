"""What a LoRA update looks like, module by module: its size, how few directions carry it, how heavy its tails are. No forwards.

Triage at best: a clean fine-tune has an update, too, and recipes differ more than backdoors do; compare with clean fine-tunes of
the same recipe. Source: statistics of the kind of arXiv 2602.15195 and PEFTGuard. Cost: one QR of each factor, and one product.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_path

if TYPE_CHECKING:
    import pandas

STATISTICS = ("largest", "norm", "energy_share", "entropy", "kurtosis")
_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, eq=False)
class AdapterStatistics:
    """Five numbers of each module's update.

    Attributes:
        modules: their names, e.g. ``"model.layers.3.mlp.up_proj"``.
        values: largest singular value, Frobenius norm divided by the root of d_out * d_in, share of the largest direction in the
            squared norm, entropy of the shares (nats), excess kurtosis of the entries.
    """

    __repr__ = short_repr

    modules: tuple[str, ...]
    values: Float[Tensor, "module statistic"]

    def summary(self) -> Float[np.ndarray, " feature"]:
        """Over modules: each statistic's mean, spread and largest value; logarithms of the sizes."""
        x = self.values.clone()
        x[:, :2] = x[:, :2].clamp_min(1e-12).log()
        spread = x.std(0) if len(x) > 1 else torch.zeros(x.shape[1], dtype=x.dtype)
        return torch.cat([x.mean(0), spread, x.max(0).values]).numpy()

    def to_frame(self) -> "pandas.DataFrame":
        """One row per module."""
        import pandas as pd

        return pd.DataFrame(self.values.numpy(), columns=list(STATISTICS)).assign(module=self.modules)


def update_statistics(
    a: Float[Tensor, "rank d_in"], b: Float[Tensor, "d_out rank"], scale: float | int = 1.0
) -> list[float]:
    """The five statistics of ``scale * B A``; zeros where it is zero."""
    down, up = a.double(), b.double() * scale
    left, right = torch.linalg.qr(up)[1], torch.linalg.qr(down.T)[1]
    singular = torch.linalg.svdvals(left @ right.T)
    energy = singular.square()
    total = float(energy.sum())
    if total == 0:
        return [0.0] * len(STATISTICS)
    shares = energy / total
    entries = up @ down
    centred = entries - entries.mean()
    variance = centred.square().mean()
    return [
        float(singular[0]),
        (total / entries.numel()) ** 0.5,
        float(shares[0]),
        float(-(shares * shares.clamp_min(1e-300).log()).sum()),
        float(centred.pow(4).mean() / variance.square()) - 3,
    ]


def adapter_statistics(folder: str | Path) -> AdapterStatistics:
    """Of a PEFT folder with one LoRA adapter; only weights and numbers of its config are read.

    Raises:
        ArtefactError: a file is missing or damaged, or holds no LoRA pairs.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = as_path(folder, "folder", error=ArtefactError)
    try:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "adapter_model.safetensors")
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
        scale = alpha / (rank**0.5 if config.get("use_rslora") is True else rank)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, SafetensorError) as error:
        raise ArtefactError(f"{path} is no folder of a LoRA adapter that can be read: {error}.") from error
    return statistics_of(tensors, scale=scale)


def statistics_of(tensors: Mapping[str, Tensor], *, scale: float | int = 1.0) -> AdapterStatistics:
    """Of named factors, ``....lora_A.weight`` and ``....lora_B.weight``.

    Raises:
        ArtefactError: no pair, a factor without its partner, factors that do not fit, or NaN.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (match := _NAME.match(name)) is not None:
            sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise ArtefactError("There are no LoRA factors (lora_A, lora_B) among the tensors.")
    rows = []
    for module, pair in sides.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ArtefactError(
                f"{module} has no two factors that fit: { ({k: tuple(v.shape) for k, v in pair.items()}) }."
            )
        if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
            raise ArtefactError(f"{module} has NaN or infinite weights.")
        rows.append(update_statistics(a, b, scale))
    return AdapterStatistics(tuple(sides), torch.tensor(rows, dtype=torch.float64))
