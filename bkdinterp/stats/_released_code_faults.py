"""Two faults of the code released with Lamparth & Reuel (arXiv 2302.12461), as options for comparison.

Their "pooled mean" is divided anew after every data set; their principal directions carry the mean that
``inverse_transform`` adds back (docs/papers.md, Deviations). Costs no forward pass.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._pca import PCA


def released_mean(
    sets: Sequence[Float[Tensor, "_ d_model"]], *, n_modules: int = 1
) -> Float[Tensor, " d_model"]:
    """The released code's mean over several sets: ``m <- (m + sum of the set) / (its n * n_modules)``, set after set.

    It is the last set's mean plus 1/n of the one before. With ``n_modules`` traced modules in one loop (20 in their
    notebook for GPT-2 medium) it shrinks by that number, nearly to zero.

    Raises:
        BkdinterpError: no sets, an empty set, or ``n_modules`` below 1.
    """
    if not sets or min(len(x) for x in sets) == 0 or n_modules < 1:
        raise BkdinterpError("released_mean needs at least one set, examples in each, and n_modules >= 1.")
    mean = torch.zeros(sets[0].shape[1], dtype=torch.float64)
    for x in sets:
        mean = (mean + x.detach().cpu().double().sum(0)) / (len(x) * n_modules)
    return mean


def released_directions(pca: PCA) -> Float[Tensor, "rank d_model"]:
    """The released code's "directions": ``normalise(mean + c_i e_i)`` with ``c_i = (1 - mean) . e_i`` for a vector of ones.

    They are not orthogonal, and if the mean is large they are all close to it.
    """
    scores = (torch.ones_like(pca.mean) - pca.mean) @ pca.directions.T
    vectors = pca.mean + scores[:, None] * pca.directions
    return vectors / vectors.norm(dim=1, keepdim=True)
