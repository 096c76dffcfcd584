"""Settings of a GGUF file that change the forward pass: applied to the config and checked, or refused by name.

transformers reads a table of keys per architecture and silently drops the others. Here every key of the architecture must
end up in the config with its value, or be known to change nothing.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from bkdinterp.errors import ArtefactError
from bkdinterp.model._gguf_header import GgufHeader

# Needed to read the file, not for the forward pass.
_NO_EFFECT = {"tensor_data_layout", "rope.scaling.finetuned", "attention.causal"}
# Read under a name that is not in the table, or only by some config classes.
_NAMES = {
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "vocab_size": "vocab_size",
}
# For these the library takes the width of a head from rope.dimension_count.
_ROTATES_WHOLE_HEADS = ("llama", "mistral")
_SCALING = "rope.scaling."


def apply_settings(config: Any, header: GgufHeader, source: object) -> None:
    """Add to ``config`` (in place) the file's settings that the library ignored, then compare config and file.

    Raises:
        ArtefactError: neither the config nor this function can apply a setting; the message names it.
    """
    s, arch = header.settings, header.architecture
    if s.get("general.type", "model") != "model" or s.get("split.count", 1) not in (0, 1):
        raise ArtefactError(
            f"{source} is a GGUF of type {s.get('general.type')!r} in {s.get('split.count', 1)} files; give a whole model "
            "in one file."
        )
    own = {key.removeprefix(f"{arch}."): value for key, value in s.items() if key.startswith(f"{arch}.")}
    _apply_biases(config, header)
    _apply_names(config, own)
    _apply_scaling(config, own, source)
    for key, value in own.items():
        if not _in_effect(config, arch, key, value):
            raise ArtefactError(
                f"{source} sets {arch}.{key}={str(value)[:60]}, which the loader would ignore, so the loaded model would "
                "differ from the one in the file. Load the original checkpoint (safetensors) instead."
            )


def apply_factors(config: Any, factors: torch.Tensor, source: object) -> None:
    """Put ``rope_freqs.weight``, the frequency divisors of Llama 3.1 and later, into the config as its own parameters.

    The divisors are made from four numbers. These are recovered, and checked to give the same divisors.

    Raises:
        ArtefactError: no such four numbers give the divisors.
    """
    rope = dict(getattr(config, "rope_parameters", None) or {})
    theta = rope.get("rope_theta")
    if theta is None or rope.get("rope_type", "default") != "default":
        raise ArtefactError(
            f"{source} holds rope_freqs.weight, but its config scales positions in another way. Refused."
        )
    if torch.equal(factors, torch.ones_like(factors)):
        return
    half = len(factors)
    frequencies = float(theta) ** -(torch.arange(half, dtype=torch.float64) / half)
    factor, (low, high) = float(factors.max()), (1.0, 4.0)
    for original in (1 << k for k in range(5, 21)):
        waves = 2 * math.pi / frequencies
        smooth = ((original / waves - low) / (high - low)).clamp(0, 1)
        wanted = 1 / ((1 - smooth) / factor + smooth)
        if torch.allclose(wanted, factors.double(), rtol=1e-4):
            config.rope_parameters = rope | {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
            return
    raise ArtefactError(
        f"{source} holds rope_freqs.weight with divisors that are not Llama 3's and would be ignored. Refused; load "
        "the original checkpoint (safetensors) instead."
    )


def _apply_biases(config: Any, header: GgufHeader) -> None:
    if hasattr(config, "attention_bias") and "blk.0.attn_q.bias" in header.tensors:
        config.attention_bias = True
    if hasattr(config, "mlp_bias") and "blk.0.ffn_up.bias" in header.tensors:
        config.mlp_bias = True


def _apply_names(config: Any, own: Mapping[str, Any]) -> None:
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if key in own and hasattr(config, _NAMES[key]):
            setattr(config, _NAMES[key], own[key])
    if (
        "attention.key_length" in own
        and hasattr(config, "head_dim")
        and config.model_type not in _ROTATES_WHOLE_HEADS
    ):
        config.head_dim = own["attention.key_length"]
    if config.model_type == "mistral" and own.get("attention.sliding_window"):
        config.sliding_window = own["attention.sliding_window"]
    if config.model_type == "gpt2" and "context_length" in own:
        config.n_positions = own["context_length"]


def _apply_scaling(config: Any, own: Mapping[str, Any], source: object) -> None:
    kind, factor = own.get(f"{_SCALING}type"), own.get(f"{_SCALING}factor", own.get("rope.scale_linear"))
    if kind is None and own.get("rope.scale_linear"):
        kind = "linear"
    if kind in (None, "none") or factor in (None, 0, 1):
        return
    rope = getattr(config, "rope_parameters", None)
    if kind != "linear" or not isinstance(rope, dict):
        raise ArtefactError(
            f"{source} scales positions by rope.scaling.type={kind!r}, which cannot be applied from a GGUF file. Load the "
            "original checkpoint (safetensors) instead."
        )
    scaled = {"rope_type": "linear", "factor": float(factor)}
    # Gemma 3 scales only its global layers.
    part = {"full_attention": rope["full_attention"] | scaled} if "full_attention" in rope else scaled
    config.rope_parameters = rope | part


def _in_effect(config: Any, arch: str, key: str, value: Any) -> bool:
    """Whether the config holds this setting, or the setting changes nothing."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    if key in _NO_EFFECT:
        return key != "attention.causal" or value is not False
    if value in (0, False, "", None, "none") or value == []:
        return True
    if key.startswith(_SCALING) or key == "rope.scale_linear":
        return _scaling_in_effect(config, key, value)
    if key in ("attention.sliding_window", "attention.sliding_window_pattern"):
        return _window_in_effect(config, key, value)
    if key in ("rope.freq_base", "rope.freq_base_swa"):
        return _theta_in_effect(config, key, value)
    if key == "feed_forward_length" and config.model_type == "gpt2":
        return value == (config.n_inner or 4 * config.n_embd)
    if key == "context_length" and config.model_type == "gpt2":
        return value == config.n_positions
    table = GGUF_CONFIG_MAPPING.get("mistral" if config.model_type == "mistral" else arch, {})
    name = table.get(key) or _NAMES.get(key)
    if name is None:
        return False
    held = getattr(config, name, None)
    if held is None and name == "head_dim":
        held = config.hidden_size // config.num_attention_heads
    return _equal(held, value)


def _scaling_in_effect(config: Any, key: str, value: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if key == f"{_SCALING}type":
        return rope.get("rope_type", "default") == value
    if key in (f"{_SCALING}factor", "rope.scale_linear"):
        return value == 1 or _equal(rope.get("factor"), value)
    if key == f"{_SCALING}original_context_length":  # linear scaling does not read it
        return rope.get("rope_type", "default") in ("default", "linear")
    return False


def _window_in_effect(config: Any, key: str, value: Any) -> bool:
    kinds = getattr(config, "layer_types", None) or []
    if key == "attention.sliding_window":
        if isinstance(value, int) and value >= config.max_position_embeddings:
            return True
        used = kinds == [] or "sliding_attention" in kinds
        return used and getattr(config, "use_sliding_window", True) and _equal(config_window(config), value)
    sliding = [kind == "sliding_attention" for kind in kinds]
    if isinstance(value, list):
        return [bool(v) for v in value] == sliding
    return [bool((i + 1) % value) for i in range(len(kinds))] == sliding if isinstance(value, int) else False


def config_window(config: Any) -> Any:
    """The config's sliding window, None if its class has none."""
    return getattr(config, "sliding_window", None)


def _theta_in_effect(config: Any, key: str, value: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    part = "full_attention" if key == "rope.freq_base" else "sliding_attention"
    return _equal(rope.get(part, rope).get("rope_theta"), value)


def _equal(held: Any, value: Any) -> bool:
    if isinstance(held, int | float) and isinstance(value, int | float):
        return math.isclose(held, value, rel_tol=1e-6)
    return held == value
