"""Checks after loading: every stored tensor was used, or the load is refused with its name."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from bkdinterp.errors import ArtefactError
from bkdinterp.model._safetensors_header import Stored

# Stored tensors that models no longer read: name, shape and why they may be skipped.
_HARMLESS: tuple[tuple[re.Pattern[str], Callable[[tuple[int, ...]], bool]], ...] = (
    # the causal mask of old GPT-2 and GPT-NeoX checkpoints, and the value for masked positions
    (re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$"), lambda shape: len(shape) in (0, 4)),
    # 0, 1, 2, ... of old encoders
    (re.compile(r"(^|\.)position_ids$"), lambda shape: len(shape) <= 2),
    # the frequencies that old checkpoints repeat in every layer; their values are compared
    (re.compile(r"(^|\.)rotary_emb\.inv_freq$"), lambda shape: len(shape) == 1),
)
_POOLER = re.compile(r"(^|\.)pooler\.dense\.(weight|bias)$")


def check_used(
    module: nn.Module,
    found: Mapping[str, Any],
    stored: Mapping[str, Stored],
    source: object,
    *,
    classifier: bool = False,
) -> None:
    """Compare the weights that a library reports as loaded with those in the files.

    Args:
        module: the loaded module.
        found: transformers' ``output_loading_info``.
        stored: name -> tensor of the files.
        source: the model's name, for messages.
        classifier: allow an unused pooler; encoders are saved with one that some classification heads do not read.

    Raises:
        ArtefactError: weights are missing, the model does not use a stored tensor, shapes differ, or a tied head is
            stored with different values than the embeddings.
    """
    if missing := sorted(map(str, found.get("missing_keys", ()))):
        raise ArtefactError(
            f"{str(source)!r} lacks {len(missing)} weights of its model, e.g. {missing[0]!r}; the files are "
            "incomplete or belong to another model."
        )
    if wrong := sorted(str(item) for item in found.get("mismatched_keys", ())):
        raise ArtefactError(
            f"{str(source)!r} holds weights whose shape differs from its config: {wrong[0][:200]}."
        )
    for key in ("error_msgs", "conversion_errors"):
        if said := found.get(key):
            raise ArtefactError(f"{str(source)!r} could not be loaded completely: {str(said)[:300]}")
    unused = {str(name) for name in found.get("unexpected_keys", ())} | _passed_over(module, stored)
    unused = {name for name in unused if not _harmless(module, name, _found(stored, name), classifier)}
    if unused:
        first = min(unused)
        raise ArtefactError(
            f"{str(source)!r} holds {len(unused)} weights that its model has no place for, e.g. {first[:200]!r}; the "
            "config does not describe them (biases, layers, another architecture?), so the loaded model would differ "
            "from the saved one."
        )
    check_tied(module, source)
    check_finite(module, source)


def check_loaded(nn_model: Any) -> None:
    """Check that an nnsight model has loaded its weights.

    Raises:
        ArtefactError: it has no weights yet, or is not an nnsight model.
    """
    module = getattr(nn_model, "_module", None)
    if not isinstance(module, nn.Module):
        raise ArtefactError(
            f"from_nnsight: a {type(nn_model).__name__} is not an nnsight model; give a TransformersModel."
        )
    if empty := next((name for name, p in module.named_parameters() if p.is_meta), None):
        raise ArtefactError(
            f"from_nnsight: this model has not loaded its weights yet ({empty} is on the meta device), and would load them "
            "unchecked on its first run. Make it with dispatch=True, or use Model.load(...)."
        )
    check_tied(module, getattr(nn_model, "repo_id", None) or type(module).__name__)


def check_finite(module: nn.Module, source: object) -> None:
    """Check that all weights are finite, in one pass over them.

    Raises:
        ArtefactError: a weight holds NaN or infinity; the message names it.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.numel():
            low, high = torch.aminmax(parameter.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise ArtefactError(
                    f"{str(source)!r} holds NaN or infinity in {name}, as loaded in {parameter.dtype}; every result would "
                    "be NaN. Load it in float32, or save the model again."
                )


def check_tied(module: nn.Module, source: object) -> None:
    """Check that the files agree with a config that ties the head to the embeddings.

    Raises:
        ArtefactError: the stored head differs from the embeddings; the message names the config's switch.
    """
    config: Any = getattr(module, "config", None)
    ends: Any = module
    if not getattr(config, "tie_word_embeddings", False) or not hasattr(ends, "get_output_embeddings"):
        return
    inputs, outputs = ends.get_input_embeddings(), ends.get_output_embeddings()
    first, last = getattr(inputs, "weight", None), getattr(outputs, "weight", None)
    if first is None or last is None or first is last or first.data_ptr() == last.data_ptr():
        return
    if first.shape != last.shape or not torch.equal(first, last):
        raise ArtefactError(
            f"{str(source)!r} stores a head (lm_head.weight) with different values than its embeddings, but its config "
            "ties them (tie_word_embeddings); set it to false in config.json if the head was trained."
        )


def _passed_over(module: nn.Module, stored: Mapping[str, Stored]) -> set[str]:
    """Stored names that are not part of the model and that transformers leaves out of its report by pattern."""
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    there = set(module.state_dict())
    there |= {name.removeprefix(prefix) for name in there}
    extra = [r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"]
    left_out = re.compile("|".join(f"({p})" for p in [*patterns, *extra]))
    return {name for name in stored if left_out.search(name) and name not in there}


def _found(stored: Mapping[str, Stored], name: str) -> Stored | None:
    """The stored tensor for a name whose prefix transformers may have changed."""
    near = (tensor for key, tensor in stored.items() if name.endswith(f".{key}") or key.endswith(f".{name}"))
    return stored.get(name) or next(near, None)


def _harmless(module: nn.Module, name: str, tensor: Stored | None, classifier: bool) -> bool:
    if tensor is None:
        return False
    if classifier and _POOLER.search(name):
        return True
    if not any(pattern.search(name) and shape(tensor.shape) for pattern, shape in _HARMLESS):
        return False
    return not name.endswith("inv_freq") or _same_frequencies(module, name, tensor)


def _same_frequencies(module: nn.Module, name: str, tensor: Stored) -> bool:
    """Whether stored frequencies equal the model's, up to the rounding of half precision."""
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as file:
        values = file.get_tensor(name).float()
    own = [b.float().cpu() for key, b in module.named_buffers() if key.endswith("inv_freq")]
    return any(b.shape == values.shape and torch.allclose(b, values, rtol=0.02) for b in own)
