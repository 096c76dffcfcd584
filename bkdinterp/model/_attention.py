"""What the library's attention takes from us: a cache that forgets nothing, and masks of our own. No forwards."""

from typing import Any

from transformers import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask

# Made without a config, its layers keep every token; with one they drop what is out of their window. The library's own
# class, so that a server finds it by name.
WHOLE_CACHE = DynamicCache


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
