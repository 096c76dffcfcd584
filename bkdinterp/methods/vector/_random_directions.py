"""random_directions(): random vectors of the same norm, the null for a claim about a vector's direction. No forwards."""

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
    """``n`` random vectors with the norm of ``like``: the null for a claim about its direction.

    A residual stream varies in few of its dimensions. An isotropic direction lies mostly outside of these and has little
    effect. ``match="covariance"`` draws directions in which the activations vary, the harder null.

    Args:
        like: the vector under test.
        n: number of vectors.
        seed: seed of the draw.
        match: ``"isotropic"`` (uniform directions) or ``"covariance"`` (normal with the activations' covariance).
        activations: for ``"covariance"``, the layer's activations on clean prompts ``[*example d_model]``, e.g.
            ``Activations.collect(model, clean, site)[site]``; NaN rows, beyond a prompt's tokens, are left out.

    Raises:
        BkdinterpError: ``match`` is unknown, or the activations are missing, have another width or no variance.
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
            # For centred rows X, X^T g has the covariance X^T X.
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
