"""Ablated heads as a plain weight edit: a head's columns of the output projection become 0, and its mean goes into the bias.

    o_proj(z) with z_h = m_h   =   W z without h's columns  +  (b + W_h m_h)

No forward pass. Every family has the columns; a bias that a family's config cannot name is refused, because transformers would
drop it on loading.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bkdinterp.errors import SiteError, UnsupportedArchitectureError
from bkdinterp.interventions import Intervention, MeanAblate, Stack, ZeroAblate
from bkdinterp.model import Model
from bkdinterp.model._running import copied
from bkdinterp.sites import Component, Site, Where

# Config flags that give every attention projection a bias.
_FLAGS = ("attention_bias",)


def ablations_in(edit: Intervention) -> list[MeanAblate | ZeroAblate]:
    """The ablations that the edit consists of; empty if it holds anything else."""
    parts = list(edit.items) if isinstance(edit, Stack) else [edit]
    found: list[MeanAblate | ZeroAblate] = []
    for part in parts:
        if isinstance(part, Stack):
            inner = ablations_in(part)
            if not inner:
                return []
            found += inner
        elif isinstance(part, MeanAblate | ZeroAblate):
            found.append(part)
        else:
            return []
    return found


def with_heads_ablated(model: Model, edits: Sequence[MeanAblate | ZeroAblate]) -> Model:
    """A copy of the model in which the edits' heads write their mean, or nothing, at every token.

    Raises:
        SiteError: another site than a head's, a place other than every token, or one head twice.
        UnsupportedArchitectureError: means, in a family whose output projections cannot have a bias.
    """
    values = _values(edits)
    module: Any = copied(model.module)
    if any(value is not None for value in values.values()):
        _give_biases(model, module)
    with torch.no_grad():
        for site, value in values.items():
            _write(model, module, site, value)
    name = f"{model.name} with {len(values)} heads ablated"
    made = Model.from_module(module, model.tokenizer, name=name, chat=model.builder.chat)
    return replace(made, builder=model.builder, executor=model.executor)


def _values(edits: Sequence[MeanAblate | ZeroAblate]) -> dict[Site, Any]:
    found: dict[Site, Any] = {}
    for edit in edits:
        if Where.of(edit.where) != Where("all", generated=True):
            raise SiteError(
                f"{edit} acts at {edit.where}, but weights act at every token; give where=Where('all', generated=True)."
            )
        for e in edit.lower():
            if e.site.component is not Component.z or e.site.head is None:
                raise SiteError(f"export_weights ablates heads, not {e.site}.")
            if e.site in found:
                raise SiteError(f"{e.site} is ablated twice.")
            found[e.site] = e.value
    return found


def _projection(model: Model, module: Any, layer: int) -> Any:
    family = model.architecture.family
    return module.get_submodule(family.layers)[layer].get_submodule(family.attn_proj)


def _write(model: Model, module: Any, site: Site, value: Any) -> None:
    projection, width = _projection(model, module, site.layer), model.architecture.d_head
    assert site.head is not None
    own = slice(site.head * width, (site.head + 1) * width)
    # Conv1D stores [d_in d_out].
    weight = projection.weight.T if model.architecture.family.transposed else projection.weight
    if value is not None:
        weight64 = weight[:, own].double()
        projection.bias += (weight64 @ value.to(weight64)).to(projection.bias)
    weight[:, own] = 0


def _give_biases(model: Model, module: Any) -> None:
    """Biases of the output projections, zeros where there are none."""
    layers = range(model.architecture.n_layers)
    if all(_projection(model, module, i).bias is not None for i in layers):
        return
    flag = next((f for f in _FLAGS if hasattr(module.config, f)), None)
    attention = model.architecture.family.attn
    linears = [
        part
        for i in layers
        for part in module.get_submodule(model.architecture.family.layers)[i]
        .get_submodule(attention)
        .children()
        if isinstance(part, nn.Linear)
    ]
    # The flag concerns all of them; in other families it would not cover the output projection.
    if flag is None or getattr(module.config, "model_type", None) != "llama":
        raise UnsupportedArchitectureError(
            f"{model.architecture.family.name}: its output projections have no bias, and none can be saved, so heads cannot be "
            "set to a mean; use ZeroAblate, or the edit as an intervention."
        )
    for linear in linears:
        if linear.bias is None:
            linear.bias = nn.Parameter(linear.weight.new_zeros(linear.weight.shape[0]))
    setattr(module.config, flag, True)
