"""One frozen description per model family: where the activations of a block live in its module tree.

Adding a family is adding a `Family` (CONTRIBUTING has the steps); nothing else in the package knows names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Module paths of one family; all but the first five are relative to a block.

    Args:
        name: for messages.
        model_types: the ``config.model_type`` values it serves.
        layers: path of the list of blocks.
        embed: path of the token embedding.
        final_norm: path of the last norm.
        attn: attention module (a tuple output, item 0 is the activation).
        attn_proj: attention output projection, whose input is ``z``.
        attn_norm: norm before attention.
        mlp: MLP module.
        mlp_norm: norm before the MLP.
        mlp_down: the MLP's last projection, whose input are the neurons.
        transposed: the projection stores its weight as [d_in d_out] (GPT-2's Conv1D).
        keys: config names of (d_model, n_layers, n_heads, n_kv_heads, d_mlp).
    """

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
    transposed: bool = False
    keys: tuple[str, str, str, str, str] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    )


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
    transposed=True,
    keys=("n_embd", "n_layer", "n_head", "n_head", "n_inner"),
)

FAMILIES: tuple[Family, ...] = (LLAMA, GPT2)
