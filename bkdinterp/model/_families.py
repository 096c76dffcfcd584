"""One frozen description per model family: where the activations of a block are in its module tree.

To add a family, add a `Family` here or call `register_family` (docs: "Add a family"). Nothing else in the package knows
module names. No forwards.
"""

from dataclasses import dataclass, replace
from typing import Literal

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import short_repr


@dataclass(frozen=True)
class Family:
    """Module paths of one family; ``layers``, ``embed`` and ``final_norm`` start at the model, the others at a block.

    Heads, widths, windows, biases and tied embeddings are read from the config and the modules themselves.

    Args:
        name: for messages.
        model_types: the values of ``config.model_type`` that it describes.
        layers: path of the list of blocks.
        embed: path of the token embedding.
        final_norm: path of the last norm.
        attn: attention module (item 0 of a tuple output is the activation).
        attn_proj: attention output projection, whose input is ``z``.
        attn_norm: norm before attention.
        mlp: MLP module.
        mlp_norm: norm before the MLP; equal to ``attn_norm`` if a block has one norm for both.
        mlp_down: the MLP's last projection, whose input is the neurons.
        attn_post: norm between the attention and the residual stream, if there is one.
        mlp_post: norm between the MLP and the residual stream, if there is one.
        kv_proj: the projection to keys, or the one to queries, keys and values together.
        fused: ``kv_proj`` holds queries, keys and values.
        transposed: projections store their weight as [d_in d_out] (GPT-2's Conv1D).
        parallel: whether attention and MLP both read ``resid_pre``: True, False, or the config's name for that switch.
        keys: the config's names for (d_model, n_layers, n_heads, n_kv_heads, d_mlp).
        masks: how the model takes masks made by the caller if some layer has a window: ``"one"`` for all layers, or one
            ``"by_kind"`` of ``config.layer_types``. None: not known; runs on prompts longer than the window then share
            nothing.
    """

    __repr__ = short_repr

    name: str
    model_types: tuple[str, ...]
    layers: str
    embed: str
    final_norm: str
    attn: str
    attn_proj: str
    attn_norm: str
    mlp: str
    mlp_norm: str
    mlp_down: str
    attn_post: str | None = None
    mlp_post: str | None = None
    kv_proj: str | None = None
    fused: bool = False
    transposed: bool = False
    parallel: bool | str = False
    keys: tuple[str, str, str, str, str] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    )
    masks: Literal["one", "by_kind"] | None = None


LLAMA = Family(
    name="Llama (SmolLM2, Llama 2 and 3)",
    model_types=("llama",),
    layers="model.layers",
    embed="model.embed_tokens",
    final_norm="model.norm",
    attn="self_attn",
    attn_proj="self_attn.o_proj",
    attn_norm="input_layernorm",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    mlp_down="mlp.down_proj",
    kv_proj="self_attn.k_proj",
)

# Same module names; windows, biases and the norms of queries and keys are inside the attention module.
MISTRAL = replace(LLAMA, name="Mistral", model_types=("mistral",), masks="one")
QWEN2 = replace(LLAMA, name="Qwen2 (Qwen2.5)", model_types=("qwen2",), masks="by_kind")
QWEN3 = replace(LLAMA, name="Qwen3", model_types=("qwen3",), masks="by_kind")

GEMMA2 = replace(
    LLAMA,
    name="Gemma 2",
    model_types=("gemma2",),
    attn_post="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post="post_feedforward_layernorm",
    masks="by_kind",
)
GEMMA3 = replace(GEMMA2, name="Gemma 3", model_types=("gemma3_text",))
GEMMA3_VISION = replace(
    GEMMA3,
    name="Gemma 3 (the text part of a model with vision)",
    model_types=("gemma3",),
    layers="model.language_model.layers",
    embed="model.language_model.embed_tokens",
    final_norm="model.language_model.norm",
)

GPT2 = Family(
    name="GPT-2",
    model_types=("gpt2",),
    layers="transformer.h",
    embed="transformer.wte",
    final_norm="transformer.ln_f",
    attn="attn",
    attn_proj="attn.c_proj",
    attn_norm="ln_1",
    mlp="mlp",
    mlp_norm="ln_2",
    mlp_down="mlp.c_proj",
    kv_proj="attn.c_attn",
    fused=True,
    transposed=True,
    keys=("n_embd", "n_layer", "n_head", "n_head", "n_inner"),
)

GPT_NEOX = Family(
    name="GPT-NeoX (Pythia)",
    model_types=("gpt_neox",),
    layers="gpt_neox.layers",
    embed="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    attn="attention",
    attn_proj="attention.dense",
    attn_norm="input_layernorm",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    mlp_down="mlp.dense_4h_to_h",
    kv_proj="attention.query_key_value",
    fused=True,
    parallel="use_parallel_residual",
)

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA2,
    GEMMA3,
    GEMMA3_VISION,
    GPT2,
    GPT_NEOX,
)

_by_type = {kind: family for family in FAMILIES for kind in family.model_types}


def register_family(family: Family, *, replace: bool = False) -> None:
    """Let models of ``family.model_types`` load and run, in this process.

    Args:
        family: the description; the model is checked against it when it is loaded.
        replace: take over model types that another family describes.

    Raises:
        BkdinterpError: there is no model type, or one is already taken.
    """
    if not family.model_types:
        raise BkdinterpError(
            f"{family.name}: model_types is empty; give the config's model_type, e.g. ('llama',)."
        )
    taken = [kind for kind in family.model_types if _by_type.get(kind, family) != family]
    if taken and not replace:
        raise BkdinterpError(
            f"model_type {taken[0]!r} is served by {_by_type[taken[0]].name!r}; "
            "register_family(family, replace=True) takes it over."
        )
    _by_type.update(dict.fromkeys(family.model_types, family))


def family_of(model_type: str | None) -> Family | None:
    """The family, built in or registered, that describes a model type; None if there is none."""
    return None if model_type is None else _by_type.get(model_type)


def known_types() -> tuple[str, ...]:
    """Every model type that a family describes."""
    return tuple(_by_type)
