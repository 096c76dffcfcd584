"""What the library's attention takes from us, a cache that forgets nothing and masks of our own; and how it shows its weights.

No forwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import nn
from transformers import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask

from bkdinterp.errors import UnsupportedArchitectureError

# Made without a config, its layers keep every token; with one they drop what is out of their window. The library's own
# class, so that a server finds it by name.
WHOLE_CACHE = DynamicCache


def cache_name(module: nn.Module) -> str:
    """What the module's forward calls its keys and values: ``past_key_values``, or ``cache`` from transformers 5.24 on."""
    return "cache" if "cache" in signature(module.forward).parameters else "past_key_values"


def maskless_attention(module: Any) -> str | None:
    """The name of a module's attention if it takes no additive mask ``[row 1 query key]``; None where it takes one.

    Flash and flex attention take masks of other kinds. Of one that the library does not know, nothing is said.
    """
    config: Any = getattr(module, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()  # the text part of a model with vision
    name = getattr(config, "_attn_implementation", None)
    if not isinstance(name, str):
        return None
    made = ALL_MASK_ATTENTION_FUNCTIONS.get(name)
    other_mask = made is not None and made not in (eager_mask, sdpa_mask)
    return name if other_mask or "flash" in name or "flex" in name else None


@contextmanager
def shown_weights(module: nn.Module) -> Iterator[None]:
    """Context in which a model's attention modules return their weights besides their output; restored whatever happens.

    The library's faster implementations (sdpa, flash, flex) compute what its eager one does, without the weights, so eager
    takes their place. An implementation of the user's own may compute something else, so it stays. Enter it inside of
    ``running``, which keeps other threads out.

    Raises:
        UnsupportedArchitectureError: the model runs with sdpa, which leaves out the soft-cap that its config states; its
            own weights are then not those of the eager implementation.
    """
    configs = _configs(module)
    before = [(config, config._attn_implementation) for config in configs]
    for config, name in before:
        if name == "sdpa" and getattr(config, "attn_logit_softcapping", None) is not None:
            raise UnsupportedArchitectureError(
                "The model runs with attn_implementation='sdpa', which leaves out attn_logit_softcapping="
                f"{config.attn_logit_softcapping}, so its weights cannot be shown as they are used; call "
                'model.module.set_attn_implementation("eager") first.'
            )
    try:
        for config, name in before:
            if name == "sdpa" or "flash" in str(name) or "flex" in str(name):
                config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name


def _configs(module: nn.Module) -> list[Any]:
    """Every config from which a part of the model takes its attention, each once."""
    found = [getattr(part, "config", None) for part in module.modules()]
    found += [config.get_text_config() for config in found if hasattr(config, "get_text_config")]
    return list(
        {id(config): config for config in found if hasattr(config, "_attn_implementation_internal")}.values()
    )
