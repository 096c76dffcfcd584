"""export_weights(): PCP replacements or ablated heads as a plain weight edit, which transformers saves and loads like any model.

A linear map h -> A h of rank r is an ordinary MLP with 2r neurons, because act(x) - act(-x) = x for ReLU, GELU and SiLU:

    GPT-2   c_fc rows e_i and -e_i, c_proj columns factor_i e_i and -factor_i e_i; everything else 0
    Llama   neurons are act(gate) * up: a constant gate through its bias (config.mlp_bias), up rows e_i

A replaced attention module does not mix tokens, so its map becomes the MLP of an additional block before it, and the
attention of both blocks is set to 0. So each replaced attention adds a block, and layer numbers above it increase by
one. No forward pass. The idea of editing a model by its factors is from Lamparth & Reuel, arXiv 2302.12461.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bkdinterp.errors import SiteError, UnsupportedArchitectureError
from bkdinterp.interventions import Intervention, PCPReplace, Stack
from bkdinterp.methods._guards import check_origin
from bkdinterp.methods.weights._export_ablation import ablations_in, with_heads_ablated
from bkdinterp.model import Model, as_model
from bkdinterp.model._running import copied
from bkdinterp.sites import Component, Site, Where


def export_weights(model: Model, edit: Intervention) -> Model:
    """A copy of the model whose weights have the effect of the edit; save it with ``.save(folder)``.

    Args:
        model: for ``PCPReplace`` and ``MeanAblate`` a model of the GPT-2 or Llama family, for ``ZeroAblate`` any.
        edit: a ``PCPReplace``, or ablations of heads, or a Stack of one of the two, at every token.

    Raises:
        SiteError: the edit is another intervention, does not act at every token, or changes a module or head twice.
        ArtefactError: the directions were fitted on another model.
        UnsupportedArchitectureError: the family or activation function is not supported.
    """
    as_model(model, "export_weights")
    if ablations := ablations_in(edit):
        check_origin(model, edit, "export_weights")
        return with_heads_ablated(model, ablations)
    replacements = _replacements(edit)
    check_origin(model, edit, "export_weights")
    kind = getattr(model.module.config, "model_type", None)
    if kind not in ("gpt2", "llama"):
        raise UnsupportedArchitectureError(
            f"export_weights knows the GPT-2 and Llama families, not {kind!r}; use the edit as an intervention."
        )
    module: Any = copied(model.module)
    write = _write_gpt2 if kind == "gpt2" else _write_llama
    if kind == "llama":
        _give_biases(module)
    # From the top down, because an added block only renumbers the layers above it.
    for r in sorted(replacements, key=lambda r: Site.parse(r.site).order, reverse=True):
        site = Site.parse(r.site)
        model.architecture.check(site)
        block = _blocks(model, module)[site.layer]
        if site.component is Component.attn_out:
            block = _split_off(model, module, site.layer)
        write(block.get_submodule(model.architecture.family.mlp), r.directions, r.factors)
    name = f"{model.name} with {len(replacements)} modules replaced"
    made = Model.from_module(module, model.tokenizer, name=name, chat=model.builder.chat)
    return replace(made, builder=model.builder, executor=model.executor)


def _replacements(edit: Intervention) -> list[PCPReplace]:
    parts = list(edit.items) if isinstance(edit, Stack) else [edit]
    out: list[PCPReplace] = []
    for part in parts:
        if isinstance(part, Stack):
            out += _replacements(part)
            continue
        if not isinstance(part, PCPReplace):
            raise SiteError(
                f"export_weights takes PCPReplace edits or ablations of heads; {part} is a {type(part).__name__}."
            )
        if Where.of(part.where) != Where("all", generated=True):
            raise SiteError(
                f"{part} acts at {part.where}, but weights act at every token; keep the default where=."
            )
        out.append(part)
    sites = [str(r.site) for r in out]
    if not out or len(set(sites)) < len(sites):
        raise SiteError(f"export_weights needs one replacement per module; got {', '.join(sites) or 'none'}.")
    return out


def _blocks(model: Model, module: nn.Module) -> nn.ModuleList:
    return module.get_submodule(model.architecture.family.layers)  # type: ignore[return-value]


def _check_activation(mlp: Any) -> None:
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    if not torch.allclose(mlp.act(x) - mlp.act(-x), x, rtol=1e-9, atol=1e-9):
        raise UnsupportedArchitectureError(
            f"{type(mlp.act).__name__}: act(x) - act(-x) is not x, so this MLP cannot hold a linear map; use the edit "
            "as an intervention."
        )


def _write_gpt2(mlp: Any, e: Float[Tensor, "rank d_model"], factors: Float[Tensor, " rank"]) -> None:
    _check_activation(mlp)
    fc, proj = mlp.c_fc, mlp.c_proj  # Conv1D: weights are [d_in d_out]
    rank = _fits(2 * len(e), fc.weight.shape[1]) // 2
    with torch.no_grad():
        for p in (fc.weight, fc.bias, proj.weight, proj.bias):
            p.zero_()
        fc.weight[:, :rank] = e.T.to(fc.weight)
        fc.weight[:, rank : 2 * rank] = -e.T.to(fc.weight)
        out = (factors[:, None] * e).to(proj.weight)
        proj.weight[:rank], proj.weight[rank : 2 * rank] = out, -out


def _write_llama(mlp: Any, e: Float[Tensor, "rank d_model"], factors: Float[Tensor, " rank"]) -> None:
    rank = _fits(len(e), mlp.up_proj.weight.shape[0])
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
            linear.weight.zero_()
            linear.bias.zero_()
        mlp.gate_proj.bias[:rank] = 1.0
        gate = mlp.act_fn(torch.ones((), dtype=torch.float64))
        mlp.up_proj.weight[:rank] = e.to(mlp.up_proj.weight)
        mlp.down_proj.weight[:, :rank] = (factors[:, None] * e / gate).T.to(mlp.down_proj.weight)


def _fits(n: int, width: int) -> int:
    if n > width:
        raise SiteError(f"The replacement needs {n} neurons, the MLP has {width}; lower the rank.")
    return n


def _give_biases(module: Any) -> None:
    """Switch on ``config.mlp_bias``, with zeros in every layer, which change nothing."""
    for part in module.modules():
        if hasattr(part, "gate_proj"):
            for linear in (part.gate_proj, part.up_proj, part.down_proj):
                if linear.bias is None:
                    linear.bias = nn.Parameter(linear.weight.new_zeros(linear.weight.shape[0]))
    module.config.mlp_bias = True


def _split_off(model: Model, module: Any, layer: int) -> nn.Module:
    """Insert a block before ``layer`` whose MLP gets that layer's attention input; set both attentions to 0."""
    family, blocks = model.architecture.family, _blocks(model, module)
    config = module.config
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise UnsupportedArchitectureError(
            "scale_attn_by_inverse_layer_idx: another block would change every attention above it; "
            "use the edit as an intervention."
        )
    new = copy.deepcopy(blocks[layer])
    new.get_submodule(family.mlp_norm).load_state_dict(new.get_submodule(family.attn_norm).state_dict())
    for block in (new, blocks[layer]):
        with torch.no_grad():
            for p in block.get_submodule(family.attn_proj).parameters():
                p.zero_()
    blocks.insert(layer, new)
    for i, block in enumerate(blocks):
        block.get_submodule(family.attn).layer_idx = i  # type: ignore[assignment]
    key = family.keys[1]
    setattr(config, key, len(blocks))
    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [*kinds[:layer], kinds[layer], *kinds[layer:]]
    return new
