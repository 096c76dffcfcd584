"""Which parameters a fine-tune may change: freezing parts of a model as a defence (Lamparth & Reuel, section IV-B).

Parts are named ``"mlp"``, ``"attn"``, ``"norm"`` (of every block), ``"embed"`` (token and position embeddings), ``"final"``
(the last norm), ``"unembed"``, ``"L2.mlp"``, ``"L2.attn"``, ``"L2.norm"`` or ``"L2"`` (a whole block). Layers count from 0;
the paper's tables count from 1. Tied embeddings are one parameter, so ``"embed"`` also freezes the unembedding. No forward
pass.
"""

import re
from collections.abc import Iterable

from torch import nn

from bkdinterp.errors import SiteError
from bkdinterp.model import Architecture

KINDS = ("mlp", "attn", "norm", "embed", "final", "unembed")


def frozen_parameters(module: nn.Module, parts: Iterable[str] | str) -> tuple[str, ...]:
    """Names of the parameters that the parts cover, in the module's order.

    Args:
        module: a causal language model of a known family.
        parts: names as in the module's docstring; one string may hold several, separated by commas or spaces.

    Raises:
        SiteError: a part is unknown, or a layer is out of range.
    """
    if isinstance(parts, str):
        parts = [p for p in re.split(r"[\s,]+", parts) if p]
    arch = Architecture.detect(module)
    prefixes = {prefix for part in parts for prefix in _prefixes(module, arch, part)}
    return tuple(
        name
        for name, _ in module.named_parameters()
        if any(name == p or name.startswith(f"{p}.") for p in prefixes)
    )


def _prefixes(module: nn.Module, arch: Architecture, part: str) -> list[str]:
    if part == "embed":
        return [name for name, m in module.named_modules() if isinstance(m, nn.Embedding)]
    if part == "final":
        return [arch.family.final_norm]
    if part == "unembed":
        return _unembedding(module)
    match = re.fullmatch(r"(?:L(\d+))?\.?(mlp|attn|norm)?", part)
    if not part or match is None or (match[1] is None and "." in part):
        raise SiteError(
            f"Cannot freeze {part!r}; name {', '.join(KINDS)}, 'L2', 'L2.mlp', 'L2.attn' or 'L2.norm'."
        )
    layers = range(arch.n_layers) if match[1] is None else [int(match[1])]
    if layers and max(layers) >= arch.n_layers:
        raise SiteError(f"Cannot freeze {part!r}: the model has layers 0 to {arch.n_layers - 1}.")
    f = arch.family
    within = {
        "mlp": [f.mlp],
        "attn": [f.attn],
        "norm": [n for n in (f.attn_norm, f.mlp_norm, f.attn_post, f.mlp_post) if n is not None],
        None: [""],
    }[match[2]]
    return [f"{f.layers}.{layer}.{name}".rstrip(".") for layer in layers for name in within]


def _unembedding(module: nn.Module) -> list[str]:
    """Names of the unembedding's parameters; for tied ones, the name under which the module lists them."""
    head = module.get_output_embeddings()  # type: ignore[operator]
    own = {id(p) for p in head.parameters()}
    return [name for name, p in module.named_parameters() if id(p) in own]
