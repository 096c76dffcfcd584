"""Principal components of activations (scikit-learn's exact SVD). Costs no forward pass.

Source: Lamparth & Reuel, PCP ablation (their Eq. 1). The directions are the components themselves, orthogonal and of unit
length. Unlike in the released code, the mean is NOT added back into them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import short_repr


@dataclass(frozen=True, eq=False)
class PCA:
    """The leading principal directions of a set of activations, float64 on the CPU.

    Attributes:
        mean: centre of the examples.
        directions: orthonormal rows, in order of decreasing variance.
        explained: each direction's share of the total variance, 0..1 (0 for constant data).
    """

    __repr__ = short_repr

    mean: Float[Tensor, " d_model"]
    directions: Float[Tensor, "rank d_model"]
    explained: Float[Tensor, " rank"]

    @classmethod
    def fit(cls, x: Float[Tensor, "example d_model"], rank: int) -> "PCA":
        """Fit on all examples; deterministic, signs included.

        Raises:
            BkdinterpError: ``rank`` is not between 1 and min(examples, d_model), or values are not finite.
        """
        limit = min(x.shape)
        if not 1 <= rank <= limit:
            raise BkdinterpError(
                f"PCA rank {rank} does not fit {x.shape[0]} examples of size {x.shape[1]}; use 1..{limit}."
            )
        data = x.detach().cpu().to(torch.float64)
        if not bool(torch.isfinite(data).all()):
            raise BkdinterpError(
                "PCA got NaN or infinite values; check the model's dtype (float16 overflows)."
            )
        if bool((data == data[0]).all()):
            # Without variance there is no preferred direction, so any orthonormal rows are principal.
            return cls(
                data[0].clone(),
                torch.eye(rank, x.shape[1], dtype=torch.float64),
                torch.zeros(rank, dtype=torch.float64),
            )
        # Imported here because scikit-learn takes a second to import and most users never fit a PCA.
        from sklearn.decomposition import PCA as SklearnPCA

        fitted = SklearnPCA(n_components=rank, svd_solver="full").fit(data.numpy())
        return cls(
            torch.from_numpy(np.array(fitted.mean_)),
            torch.from_numpy(np.array(fitted.components_)),
            torch.from_numpy(np.array(fitted.explained_variance_ratio_)),
        )

    def project(self, x: Float[Tensor, "example d_model"]) -> Float[Tensor, "example rank"]:
        """Coordinates of ``x`` along the directions, in the dtype and on the device of ``x``."""
        return (x - self.mean.to(x)) @ self.directions.to(x).T
