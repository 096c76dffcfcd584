"""Architecture: a model's sizes and the location of every site in its module tree, checked when it is created.

Validation costs no forward pass. It checks module paths, projection shapes, and on one layer that the heads' outputs sum
to the projection's output. ``bkdinterp.doctor`` checks what needs forward passes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bkdinterp.errors import SiteError, UnsupportedArchitectureError
from bkdinterp.model._families import Family, family_of, known_types
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site


@dataclass(frozen=True)
class Location:
    """One tensor of the module tree: a module's first input or its output (``item`` of a tuple output)."""

    path: str
    io: Literal["input", "output"]
    item: int | None = None


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model and the addresses of its sites.

    ``d_head`` is read from the config if stated there, because it need not be ``d_model / n_heads``. In a ``parallel``
    block attention and MLP both read ``resid_pre``, so there is no ``resid_mid``. ``sliding_window`` is the number of
    tokens that a layer with a window sees, including the current one; None if no layer has a window. ``window_masks``
    names the masks that the model then takes, with the window of each (0: no window); a model with one mask for all
    layers has a single nameless one. None if no layer has a window, or if it is not known how the family takes masks.
    """

    __repr__ = short_repr

    family: Family
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    max_length: int | None
    parallel: bool = False
    sliding_window: int | None = None
    window_masks: tuple[tuple[str, int], ...] | None = None

    @classmethod
    def detect(cls, module: nn.Module) -> "Architecture":
        """Read and validate the architecture of a Hugging Face causal language model.

        Raises:
            UnsupportedArchitectureError: an unknown ``model_type``, a missing module, or shapes that do not fit.
        """
        config = getattr(module, "config", None)
        kind = getattr(config, "model_type", None)
        family = family_of(kind)
        if config is None or family is None:
            found = ", ".join(name for name, _ in module.named_children()) or "no submodules"
            raise UnsupportedArchitectureError(
                f"{type(module).__name__} has model_type {kind!r}; known are: {', '.join(known_types())}. "
                f"Its top modules are: {found}. Describe it as a Family and call bkdinterp.model.register_family(family) "
                "first (docs: 'Add a family')."
            )
        if hasattr(config, "get_text_config"):
            config = config.get_text_config()  # the text part of a vision model
        d_model, n_layers, n_heads, n_kv, d_mlp = (
            int(getattr(config, key, None) or 0) for key in family.keys
        )
        if not (d_model and n_layers and n_heads):
            raise UnsupportedArchitectureError(
                f"{family.name}: looked for {', '.join(family.keys[:3])} in the config and found "
                f"{d_model}, {n_layers}, {n_heads}; all three must be positive."
            )
        arch = cls(
            family=family,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv or n_heads,
            d_model=d_model,
            d_head=getattr(config, "head_dim", None) or d_model // n_heads,
            d_mlp=d_mlp or 4 * d_model,
            d_vocab=config.vocab_size,
            max_length=getattr(config, "max_position_embeddings", None),
            parallel=bool(
                getattr(config, family.parallel, False)
                if isinstance(family.parallel, str)
                else family.parallel
            ),
            sliding_window=_window(config),
            window_masks=_window_masks(config, family),
        )
        arch._validate(module)
        return arch

    def location(self, site: Site) -> Location:
        """Location of a site's tensor. For ``resid_mid`` it is ``attn_out``, to which ``resid_pre`` must be added.

        Raises:
            SiteError: the layer or head is out of range.
        """
        self.check(site)
        f, block = self.family, f"{self.family.layers}.{site.layer}"
        match site.component:
            case Component.resid_pre:
                return Location(block, "input")
            case Component.attn_in:
                return Location(f"{block}.{f.attn_norm}", "output")
            case Component.z:
                return Location(f"{block}.{f.attn_proj}", "input")
            case Component.attn_proj:
                return Location(f"{block}.{f.attn_proj}", "output")
            case Component.attn_out | Component.resid_mid:
                if f.attn_post is not None:
                    return Location(f"{block}.{f.attn_post}", "output")
                return Location(f"{block}.{f.attn}", "output", 0)
            case Component.mlp_in:
                return Location(f"{block}.{f.mlp_norm}", "output")
            case Component.mlp_act:
                return Location(f"{block}.{f.mlp_down}", "input")
            case Component.mlp_out:
                return Location(f"{block}.{f.mlp_post or f.mlp}", "output")
            case Component.resid_post:
                return Location(block, "output")

    def check(self, site: Site) -> None:
        """Raise SiteError if the site's layer, head, neuron or component does not exist."""
        if site.layer >= self.n_layers:
            raise SiteError(f"{site}: the model has {self.n_layers} layers, 0 to {self.n_layers - 1}.")
        if site.head is not None and site.head >= self.n_heads:
            raise SiteError(f"{site}: the model has {self.n_heads} heads a layer, 0 to {self.n_heads - 1}.")
        if site.neuron is not None and site.neuron >= self.d_mlp:
            raise SiteError(f"{site}: the model has {self.d_mlp} neurons a layer, 0 to {self.d_mlp - 1}.")

        if site.component is Component.resid_mid and self.parallel:
            raise SiteError(
                f"{site}: {self.family.name} adds attention and MLP to the residual stream at once, so there is no resid_mid; "
                "use resid_pre, resid_post, attn_out or mlp_out."
            )
        if site.component is Component.mlp_in and self.family.mlp_norm == self.family.attn_norm:
            raise SiteError(f"{site}: {self.family.name} has one norm for attention and MLP; use attn_in.")

    def width(self, site: Site) -> int:
        """Number of channels of a site."""
        match site.component:
            case Component.z:
                return self.d_head if site.head is not None else self.d_head * self.n_heads
            case Component.mlp_act:
                return self.d_mlp if site.neuron is None else 1
            case _:
                return self.d_model

    def channels(self, site: Site) -> tuple[int, int] | None:
        """Start and stop of a head's or a neuron's slice of its component; None for the whole component."""
        if site.neuron is not None:
            return site.neuron, site.neuron + 1
        return None if site.head is None else self.head_channels(site.head)

    def head_channels(self, head: int) -> tuple[int, int]:
        """Start and stop of a head's slice of ``z``."""
        return head * self.d_head, (head + 1) * self.d_head

    @property
    def components(self) -> tuple[Component, ...]:
        """The components that a block of this model has, in forward order."""
        absent = {Component.resid_mid} if self.parallel else set()
        if self.family.mlp_norm == self.family.attn_norm:
            absent.add(Component.mlp_in)
        return tuple(c for c in Component if c not in absent)

    @property
    def parts(self) -> tuple[str, ...]:
        """Paths of the described modules of a block, relative to the block."""
        f = self.family
        parts = (f.attn, f.attn_proj, f.attn_norm, f.mlp, f.mlp_norm, f.mlp_down)
        return (*parts, *(p for p in (f.attn_post, f.mlp_post, f.kv_proj) if p is not None))

    @property
    def norms(self) -> tuple[str, ...]:
        """Paths of the residual stream's norms, the last one included; those of queries and keys are not among them."""
        f = self.family
        own = dict.fromkeys(p for p in (f.attn_norm, f.attn_post, f.mlp_norm, f.mlp_post) if p is not None)
        return (*(f"{f.layers}.{i}.{p}" for i in range(self.n_layers) for p in own), f.final_norm)

    @property
    def grid(self) -> tuple[int, int]:
        """(n_layers, n_heads)."""
        return self.n_layers, self.n_heads

    def output_weights(self, module: nn.Module, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """``W_O`` of each head, so that a head's output is ``z @ W_O[head]`` (docs/papers.md, "Head output")."""
        proj = module.get_submodule(f"{self.family.layers}.{layer}.{self.family.attn_proj}")
        weight = _weight(proj) if self.family.transposed else _weight(proj).T
        return weight.detach().reshape(self.n_heads, self.d_head, self.d_model)

    def _validate(self, module: nn.Module) -> None:
        f = self.family
        looked_for = [f.embed, f.final_norm]
        for layer in (0, self.n_layers - 1):
            looked_for += [f"{f.layers}.{layer}.{part}" for part in self.parts]
        for path in looked_for:
            try:
                module.get_submodule(path)
            except AttributeError:
                found = _found(module, path)
                raise UnsupportedArchitectureError(
                    f"{f.name}: looked for module {path!r} and found {found}. If this is a PEFT-wrapped model, merge it "
                    "first (merge_and_unload()) or load it with Model.load(base, adapter=...)."
                ) from None
        for name, part in module.named_modules():
            # An adapter layer in place of a projection hides the weight that multiplies z.
            if type(part).__module__.startswith("peft."):
                raise UnsupportedArchitectureError(
                    f"{name!r} is a PEFT layer ({type(part).__module__}); merge the adapter first (merge_and_unload()) "
                    "or load it with Model.load(base, adapter=...)."
                )
        _check_numbers(module)
        self._validate_projection(module)

    def _validate_projection(self, module: nn.Module) -> None:
        width = self.n_heads * self.d_head
        for layer in range(self.n_layers):
            path = f"{self.family.layers}.{layer}.{self.family.attn_proj}"
            proj = module.get_submodule(path)
            shape = tuple(_weight(proj).shape)
            expected = (width, self.d_model) if self.family.transposed else (self.d_model, width)
            if shape != expected:
                raise UnsupportedArchitectureError(
                    f"{path}.weight has shape {shape}, but {self.n_heads} heads of {self.d_head} and d_model "
                    f"{self.d_model} need {expected}; check head_dim in the model's config."
                )
        proj = module.get_submodule(f"{self.family.layers}.0.{self.family.attn_proj}")
        weight = _weight(proj)
        if weight.is_meta:
            return
        with plain_torch():
            z = torch.randn(1, width, generator=torch.Generator().manual_seed(0)).to(
                weight.device, weight.dtype
            )
            per_head = torch.einsum(
                "bhd,hdm->bm", z.reshape(1, self.n_heads, self.d_head), self.output_weights(module, 0)
            )
            bias = getattr(proj, "bias", None)
            total = per_head if bias is None else per_head + bias
            exact = proj(z)
        tolerance = {torch.float64: 1e-9, torch.float32: 1e-3}.get(weight.dtype, 0.1)
        if not torch.allclose(total, exact, rtol=tolerance, atol=tolerance * float(exact.abs().max())):
            raise UnsupportedArchitectureError(
                f"{self.family.name}: the heads' outputs do not sum to the output of {self.family.attn_proj} "
                f"(largest difference {float((total - exact).abs().max()):.2e}); the weight layout differs from the description."
            )


def _window(config: Any) -> int | None:
    """The window, if any layer uses one; configs may state a window that no layer uses."""
    window = getattr(config, "sliding_window", None)
    if not window or not getattr(config, "use_sliding_window", True):
        return None
    kinds = getattr(config, "layer_types", None)
    return int(window) if kinds is None or "sliding_attention" in kinds else None


def _window_masks(config: Any, family: Family) -> tuple[tuple[str, int], ...] | None:
    window = _window(config)
    if window is None or family.masks is None:
        return None
    if family.masks == "one":
        return (("", window),)
    windows = {"full_attention": 0, "sliding_attention": window}
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    return tuple((kind, windows[kind]) for kind in kinds) if kinds and set(kinds) <= set(windows) else None


def _weight(module: nn.Module) -> Tensor:
    return module.weight  # type: ignore[return-value]


def _check_numbers(module: nn.Module) -> None:
    """Check that every weight is a plain float tensor, and that either all are in memory or none (a skeleton).

    Raises:
        UnsupportedArchitectureError: weights are quantised or packed, or some are offloaded.
    """
    for name, part in module.named_modules():
        weight = getattr(part, "weight", None)
        packed = callable(weight) or any(key in part._buffers for key in ("qweight", "weight_packed"))
        if packed or not all(p.is_floating_point() for p in part.parameters(recurse=False)):
            raise UnsupportedArchitectureError(
                f"{name!r} is a {type(part).__name__} with quantised or packed weights, which heads and edits cannot use; "
                "load the model with float weights (dtype=torch.float32 and no quantization)."
            )
    away = [name for name, p in module.named_parameters() if p.is_meta]
    if away and len(away) < sum(1 for _ in module.parameters()):
        raise UnsupportedArchitectureError(
            f"{away[0]!r} is not in memory (offloaded to disk or CPU); load the model whole onto one device, without "
            "device_map."
        )


def _found(module: nn.Module, path: str) -> str:
    """For messages: the deepest existing ancestor of a path, with its children."""
    current, seen = module, []
    for part in path.split("."):
        children = dict(current.named_children())
        if part not in children:
            here = ".".join(seen) or type(module).__name__
            return f"{here} with {', '.join(list(children)[:12]) or 'no submodules'}"
        current = children[part]
        seen.append(part)
    return path
