"""What a model is, by what decides its outputs: its weights, and beside them buffers and settings. No forwards.

The weights' hash is as it always was, so that results of earlier versions still name it. What is no weight and yet changes
the forward pass (rotary frequencies, an epsilon, a soft-cap, a window, an activation function) has a hash of its own.
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

# Words that a setting of the forward pass has in its name; others are of training, of tokens or of the file.
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
# Scalars of modules that play no part once dropout is off.
_IDLE = ("dropout", "pdrop", "initializer")

_known: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()


@plain_torch()
def weights_id(module: nn.Module) -> str:
    """Weights and forward pass in 16 hex digits and a dash: 8 of the parameters' SHA-256, 8 of all else that decides.

    The SHA is kept while a checksum over every byte stays the same, so that a change in place is seen, through ``.data``
    too. Cost: the checksum about 0.5 s per GB on one core, the SHA about 1.6 s per GB.
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
    """8 hex digits of what decides the forward pass and is no parameter."""
    digest = hashlib.sha256()
    for name, value in sorted(module.named_buffers()):
        # Five digits: the last ones of a power differ between processors.
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
    """64 bits that change with any byte and with the order of the numbers: a weighted sum, on the tensor's own device."""
    raw = tensor.detach().contiguous().flatten().view(torch.uint8)
    whole = raw.numel() // 8 * 8
    words, rest = raw[:whole].view(torch.int64), raw[whole:].tolist()
    weights = _weights(str(tensor.device))
    total = hash(tuple(rest))
    for part in words.split(_CHUNK):
        # The upper half is brought down first: of a word's top bit a product keeps the top bit only, so that an even
        # number of changed signs would cancel.
        word, factor = (part >> 32).bitwise_xor_(part), weights[: len(part)]
        value = torch.dot(word, factor) if word.device.type == "cpu" else (word * factor).sum()
        total = (total * _PRIME + int(value)) % 2**64
    return total


@cache
def _weights(device: str) -> Int64[Tensor, " word"]:
    """Odd numbers, fixed by a seed: a change of any one word changes the sum."""
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
    """A module's own numbers: an epsilon, a scale, a window. Sizes, which are integers, show in the weights."""
    if name.startswith("_") or any(word in name for word in _IDLE) or isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and any(word in name for word in _DECIDES))


def _settings(config: Any) -> Any:
    """The config's settings of the forward pass; what is unset is left out, as later versions have more of it."""
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
