"""random_directions(): seeded vectors of the same norm, the null for a claim about a vector's direction. No forwards."""

from dataclasses import replace
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods.vector._backdoor_vector import BackdoorVector
from bkdinterp.values import as_choice, as_integer, as_seed


def random_directions(
    *,
    like: BackdoorVector,
    n: int,
    seed: int,
    match: Literal["isotropic", "covariance"] | str = "isotropic",
    activations: Any = None,
) -> list[BackdoorVector]:
    """``n`` seeded random directions of the norm of ``like``: the null for a claim about its direction.

    A residual stream varies in few of its dimensions; an isotropic direction lies outside of them and does little,
    whatever it is added to. ``match="covariance"`` draws directions where the activations vary: the harder null.

    Args:
        like: the vector under test.
        n: how many.
        seed: of the draw.
        match: ``"isotropic"`` (all directions alike) or ``"covariance"`` (normal with the activations' covariance).
        activations: for ``"covariance"``: what the layer holds on clean prompts, a tensor ``[*example d_model]``, e.g.
            ``Activations.collect(model, clean, site)[site]``; rows with NaN, beyond a prompt's tokens, are left out.

    Raises:
        BkdinterpError: an unknown ``match``, or activations that are missing, of another width, or without variance.
    """
    match = as_choice(match, "match", ("isotropic", "covariance"))
    n, seed = as_integer(n, "n", low=1), as_seed(seed)
    if not isinstance(like, BackdoorVector):
        raise BkdinterpError(
            f"random_directions needs like=, a BackdoorVector; got {type(like).__name__}. For heads take random_heads."
        )
    spread = _spread_of(activations, like) if match == "covariance" else None
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        if spread is None:
            noise = torch.randn(like.vector.shape, generator=generator, dtype=torch.float64)
        else:
            # X^T g of centred rows X has the covariance X^T X.
            noise = torch.randn(len(spread), generator=generator, dtype=torch.float64) @ spread
        direction = (noise / noise.norm() * like.vector.double().norm()).to(like.vector.dtype)
        out.append(
            replace(
                like,
                fingerprint=replace(like.fingerprint, seed=seed),
                vector=direction,
                kind="random",
                parts={},
            )
        )
    return out


def _spread_of(activations: Any, like: BackdoorVector) -> Float[Tensor, "row d_model"]:
    """Centred rows of the activations."""
    d_model = len(like.vector)
    if not isinstance(activations, Tensor) or activations.ndim < 1 or activations.shape[-1] != d_model:
        if activations is None:
            found = "nothing"
        elif isinstance(activations, Tensor):
            found = f"shape {tuple(activations.shape)}"
        else:
            found = type(activations).__name__
        raise BkdinterpError(
            f"match='covariance' needs activations [example, {d_model}], e.g. "
            f"Activations.collect(model, clean, site)[site]; got {found}."
        )
    rows = activations.detach().cpu().double()
    rows = rearrange(rows, "... d_model -> (...) d_model")
    rows = rows[torch.isfinite(rows).all(-1)]
    centred = rows - rows.mean(0)
    if len(rows) < 2 or not bool((centred.abs() > 1e-12 * rows.abs().max()).any()):
        raise BkdinterpError(
            f"match='covariance': the {len(rows)} activations do not vary; collect them on more prompts."
        )
    return centred
