"""Tiny random models of every family: grouped heads, odd d_head, random norms, windows shorter than the prompts."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WINDOW = 4
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
ALTERNATING = ["sliding_attention", "full_attention"] * 4


def enlarge(module):
    """Random models are near-constant functions; larger weights make every edit visible. Norms are not ones either."""
    generator = torch.Generator().manual_seed(1)
    for name, p in module.named_parameters():
        if p.ndim == 2:
            scale = 1.0 if "embed" in name or "wte" in name else 1.6 / p.shape[0] ** 0.5
            p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * scale
        elif "bias" in name:
            p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3
        elif "norm" in name or "ln_" in name:
            p.data = 0.7 + 0.6 * torch.rand(p.shape, generator=generator, dtype=p.dtype)
    return module


def exact_attention(module, query, key, value, mask, *, scaling, softcap=None, **_):
    """The library's attention with soft-caps takes its softmax in float32, too coarse for comparisons in float64."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register("exact", exact_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("exact", eager_mask)


def _make(model, config, settings, n_layers, extra):
    torch.manual_seed(0)
    made = config(**(settings | {"num_hidden_layers": n_layers} | extra))
    return enlarge(model(made).double().eval())


def tiny_mistral(n_layers=4, **extra):
    settings = GROUPED | {"head_dim": 6, "sliding_window": WINDOW}
    return _make(MistralForCausalLM, MistralConfig, settings, n_layers, extra)


def tiny_qwen2(n_layers=4, **extra):
    """Biases on queries, keys and values; tied embeddings."""
    return _make(Qwen2ForCausalLM, Qwen2Config, GROUPED | {"tie_word_embeddings": True}, n_layers, extra)


def tiny_qwen3(n_layers=4, **extra):
    """Norms of queries and keys."""
    return _make(Qwen3ForCausalLM, Qwen3Config, GROUPED | {"head_dim": 6}, n_layers, extra)


def _gemma(n_layers):
    return GROUPED | {
        "head_dim": 6,
        "query_pre_attn_scalar": 6,
        "sliding_window": WINDOW,
        "layer_types": ALTERNATING[:n_layers],
    }


def tiny_gemma2(n_layers=4, **extra):
    """Post-norms, soft-caps that bite, a window in every second layer."""
    settings = _gemma(n_layers) | {
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
        "attn_implementation": "exact",
    }
    return _make(Gemma2ForCausalLM, Gemma2Config, settings, n_layers, extra)


def tiny_gemma3(n_layers=4, **extra):
    return _make(Gemma3ForCausalLM, Gemma3TextConfig, _gemma(n_layers), n_layers, extra)


def tiny_gemma3_vision():
    """The text part below a model that can also look at pictures."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    text = Gemma3TextConfig(**_gemma(4), num_hidden_layers=4)
    tokens = {"image_token_index": 39, "boi_token_index": 38, "eoi_token_index": 37, "mm_tokens_per_image": 4}
    config = Gemma3Config(text_config=text, vision_config=settings, **tokens)
    return enlarge(Gemma3ForConditionalGeneration(config).double().eval())


def tiny_neox(n_layers=4, **extra):
    """Parallel blocks, one fused projection, biases everywhere."""
    return _make(GPTNeoXForCausalLM, GPTNeoXConfig, SIZES, n_layers, extra)


def tiny_neox_sequential(n_layers=4, **extra):
    return tiny_neox(n_layers, use_parallel_residual=False, **extra)


NEW = {
    "mistral": tiny_mistral,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
    "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
    "gpt_neox": tiny_neox,
    "gpt_neox sequential": tiny_neox_sequential,
}
