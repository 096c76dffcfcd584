"""Rates over examples that come in clusters, such as the two prompts of a pair. Costs no forward pass."""

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._flips import check_level
from bkdinterp.stats._intervals import Interval


def clustered_rate(
    right: Bool[Tensor, " example"], cluster: Int[Tensor, " example"], *, level: float = 0.95
) -> Interval:
    """Interval of a rate whose examples are correlated within a cluster: Wilson's, with the effective sample size.

    The design effect (the variance between clusters over the binomial variance) is kept between 1 and its value for fully
    dependent clusters. If all examples are right, or all wrong, that upper value is used. Because the design effect is
    estimated from the clusters, Student's quantile with clusters - 1 degrees of freedom replaces the normal one (Korn &
    Graubard 1998, with Wilson's interval). A single cluster gives [0, 1].

    Raises:
        BkdinterpError: no examples, unequal lengths, or ``level`` outside (0, 1).
    """
    if len(right) != len(cluster) or len(right) == 0:
        raise BkdinterpError(
            f"clustered_rate needs one cluster per example, at least one; got {len(right)} and {len(cluster)}."
        )
    low, high = clustered_ends(right.numpy(force=True)[None], cluster.numpy(force=True), level=level)
    rate = float(right.double().mean())
    return Interval(rate, float(low[0]), float(high[0]), len(right), "clustered wilson", level)


def clustered_ends(
    right: Bool[np.ndarray, "unit example"], cluster: Int[np.ndarray, " example"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]]:
    """Lower and upper ends for many rates on the same examples."""
    check_level(level)
    from scipy.stats import norm, t

    index = np.unique(cluster, return_inverse=True)[1].reshape(-1)
    n, sizes = len(index), np.bincount(index)
    clusters, rate = len(sizes), right.mean(1)
    if clusters == 1:
        return np.zeros_like(rate), np.ones_like(rate)
    totals = right.astype(np.float64) @ np.eye(clusters)[index]
    between = (totals - rate[:, None] * sizes) ** 2
    variance = clusters / (clusters - 1) * between.sum(1) / n**2
    binomial, most = rate * (1 - rate) / n, float((sizes**2).sum() / n)
    effect = np.divide(variance, binomial, out=np.full_like(rate, most), where=binomial > 0)
    z = float(norm.ppf((1 + level) / 2))
    shrunk = (z / float(t.ppf((1 + level) / 2, clusters - 1))) ** 2
    size = n / np.clip(effect, 1.0, most) * shrunk
    scale = 1 + z * z / size
    centre = (rate + z * z / (2 * size)) / scale
    half = z * np.sqrt(rate * (1 - rate) / size + z * z / (4 * size * size)) / scale
    # At 0 % and 100 % rounding would leave the estimate outside by 1e-17.
    return np.clip(centre - half, 0.0, rate), np.clip(centre + half, rate, 1.0)
