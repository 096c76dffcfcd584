"""Identity of a model: hashes of everything that decides its outputs, weights, buffers and settings. No forwards.

The hash of the weights has not changed between versions, so earlier results still match. Everything else that changes the
forward pass (rotary frequencies, an epsilon, a soft-cap, a window, an activation function) has a separate hash.
"""

import hashlib
import json
import weakref
from functools import cache
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from bkdinterp.model._torch_state import plain_torch

DIGITS = 8
_CHUNK = 2**16
_PRIME = 6_364_136_223_846_793_005

# Words in the names of settings of the forward pass; other settings concern training, tokens or the file.
_DECIDES = (
    "rope",
    "theta",
    "eps",
    "cap",
    "window",
    "activation",
    "hidden_act",
    "scal",
    "multiplier",
    "layer_types",
    "parallel",
    "rotary",
    "logit",
    "position",
    "norm",
    "no_rope",
    "alibi",
    "experts",
)
# Scalars of modules that have no effect without dropout.
_IDLE = ("dropout", "pdrop", "initializer")

_known: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()


@plain_torch()
def weights_id(module: nn.Module) -> str:
    """Identifies weights and forward pass by ``8-8`` hex digits: the parameters' SHA-256, and a hash of all else.

    The SHA is reused while a checksum over every byte stays the same, so a change in place is noticed, also one through
    ``.data``. Cost on one core: the checksum about 0.5 s per GB, the SHA about 1.6 s per GB.
    """
    inner = getattr(module, "_orig_mod", module)
    parameters = sorted(inner.named_parameters())
    state = tuple((name, p.dtype, tuple(p.shape), checksum(p)) for name, p in parameters)
    known = _known.get(inner)
    if known is None or known[0] != state:
        known = (state, _sha(parameters))
        _known[inner] = known
    return f"{known[1]}-{forward_id(inner)}"


def forward_id(module: Any) -> str:
    """8 hex digits for everything that decides the forward pass, except the parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.named_buffers()):
        # Five digits, because the last digits of a power differ between processors.
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(_rounded(value).encode())
    for name, part in module.named_modules():
        if isinstance(part, _DropoutNd):
            continue
        own = {k: v for k, v in vars(part).items() if _decides(k, v)}
        if own or not list(part.children()):
            digest.update(f"{name} {type(part).__name__} {json.dumps(own, sort_keys=True)}".encode())
    digest.update(json.dumps(_settings(getattr(module, "config", None)), sort_keys=True).encode())
    return digest.hexdigest()[:DIGITS]


def checksum(tensor: Tensor) -> int:
    """A 64-bit weighted sum that changes with any byte and with the order of the numbers; on the tensor's own device."""
    raw = tensor.detach().contiguous().flatten().view(torch.uint8)
    whole = raw.numel() // 8 * 8
    words, rest = raw[:whole].view(torch.int64), raw[whole:].tolist()
    weights = _weights(str(tensor.device))
    total = hash(tuple(rest))
    for part in words.split(_CHUNK):
        # Mix the upper half into the lower one first. A product keeps a word's top bit only as its own top bit, so an even
        # number of changed signs would cancel.
        word, factor = (part >> 32).bitwise_xor_(part), weights[: len(part)]
        value = torch.dot(word, factor) if word.device.type == "cpu" else (word * factor).sum()
        total = (total * _PRIME + int(value)) % 2**64
    return total


@cache
def _weights(device: str) -> Int64[Tensor, " word"]:
    """Odd numbers from a fixed seed; being odd, they make a change of any one word change the sum."""
    rng = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (_CHUNK,), generator=rng) | 1).to(device)


def _sha(parameters: list[tuple[str, nn.Parameter]]) -> str:
    digest = hashlib.sha256()
    for key, p in parameters:
        digest.update(key.encode())
        digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().data if p.numel() else b"")
    return digest.hexdigest()[:DIGITS]


def _rounded(value: Tensor) -> str:
    if value.is_floating_point():
        return " ".join(f"{x:.4e}" for x in value.detach().double().flatten().tolist())
    return hashlib.sha256(value.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def _decides(name: str, value: Any) -> bool:
    """Whether a module's own number counts: an epsilon, a scale, a window. Integer sizes already show in the weights."""
    if name.startswith("_") or any(word in name for word in _IDLE) or isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and any(word in name for word in _DECIDES))


def _settings(config: Any) -> Any:
    """The config's settings of the forward pass; unset ones are left out, because later versions have more of them."""
    if config is None:
        return None
    values = config.to_dict() if hasattr(config, "to_dict") else vars(config)
    return _only(values)


def _only(values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key.endswith("_config"):
            out[key] = _only(value)
        elif value not in (None, False) and _named(str(key)):
            out[key] = value
    return json.loads(json.dumps(out, default=str))


def _named(key: str) -> bool:
    return any(word in key for word in _DECIDES) and not any(word in key for word in _IDLE)
