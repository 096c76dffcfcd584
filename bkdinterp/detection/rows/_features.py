"""Scores of rows from their features: does a small part of the data lie apart from the rest? Arrays only, no model.

Every function returns one number per row, higher for rows that are more likely poisoned. ``groups`` (classes, or None for one)
are looked at one by one: a poison hides among the rows of its target.

Sources: activation clustering (Chen et al. 2018), spectral signatures (Tran et al. 2018), quantum entropy scores (Dong et al.
2019; SPECTRE, Hayase et al. 2021), Mahalanobis distances with a shrunken covariance (Lee et al. 2018; Ledoit & Wolf 2004).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import short_repr
from bkdinterp.stats._sample import as_array
from bkdinterp.values import as_integer, as_number, as_seed

Rows = Float[np.ndarray, " row"]
Features = Float[np.ndarray, "row d"]
# Groups smaller than this have no inside to speak of; their rows score 0.
LEAST = 8
_STARTS: Any = 10  # of k-means; its annotation knows only "auto"
# Share of rows that the robust covariance takes as clean; a larger poison would show in it.
_CLEAN = 0.6


@dataclass(frozen=True, eq=False)
class Clusters:
    """Two clusters in each group.

    Attributes:
        scores: from -1 (in the middle of the larger cluster) to 1 (of the smaller), times the group's silhouette.
        small: whether a row is in its group's smaller cluster.
        silhouette: group -> how far apart the two are, -1 to 1; below .1 or so there is one cluster, not two.
        share: group -> size of the smaller one, relative to the group.
    """

    __repr__ = short_repr

    scores: Float[np.ndarray, " row"]
    small: Int[np.ndarray, " row"]
    silhouette: dict[str, float]
    share: dict[str, float]


def activation_clusters(features: Any, groups: Any = None, *, rank: int = 10, seed: int = 0) -> Clusters:
    """k-means with two clusters on each group's first principal components.

    Args:
        features: one row of numbers per row of data.
        groups: class of each row; None takes all rows as one.
        rank: components kept.
        seed: of k-means.

    Raises:
        BkdinterpError: no rows, NaN, groups of another length, or a rank below 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    rank, seed = as_integer(rank, "rank", low=1), as_seed(seed)
    data, labels = _checked(features, groups)
    scores, small = np.zeros(len(data)), np.zeros(len(data), dtype=np.int64)
    silhouette, share = {}, {}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        reduced = _components(data[rows], rank)
        if len(rows) < LEAST or not reduced.any():
            continue
        fitted = KMeans(2, n_init=_STARTS, random_state=seed).fit(reduced)
        cluster, centres = np.asarray(fitted.labels_), np.asarray(fitted.cluster_centers_)
        if len(np.unique(cluster)) < 2:
            continue
        minor = int(np.argmin(np.bincount(cluster, minlength=2)))
        near, far = (np.linalg.norm(reduced - centres[c], axis=1) for c in (minor, 1 - minor))
        apart = float(silhouette_score(reduced, cluster, sample_size=2000, random_state=seed))
        scores[rows] = max(apart, 0.0) * (far - near) / np.maximum(far + near, 1e-12)
        small[rows] = cluster == minor
        silhouette[str(label)] = apart
        share[str(label)] = float(np.mean(cluster == minor))
    return Clusters(scores, small, silhouette, share)


def spectral_signatures(features: Any, groups: Any = None) -> Rows:
    """Squared projection on the first direction of each group's spread, in units of its mean.

    Raises:
        BkdinterpError: no rows, NaN, or groups of another length.
    """

    def score(centred: Features) -> Rows:
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        return along**2

    return _by_group(features, groups, score)


def quantum_entropy(features: Any, groups: Any = None, *, rank: int = 20, alpha: float | int = 4) -> Rows:
    """x^T Q x with Q = exp(alpha (S - 1) / (|S| - 1)), S the second moments after whitening, in units of the group's mean.

    Between the squared norm (alpha = 0) and the spectral signature (large alpha). The rows are reduced to ``rank`` components and
    whitened by a robust covariance (minimum determinant), so that the poison's own direction survives the whitening.

    Raises:
        BkdinterpError: no rows, NaN, groups of another length, a rank below 1, or alpha below 0.
    """
    rank, alpha = as_integer(rank, "rank", low=1), as_number(alpha, "alpha", low=0)

    def score(centred: Features) -> Rows:
        from scipy.linalg import expm

        white = _whitened(_components(centred, min(rank, max(1, len(centred) // 5))))
        moments = white.T @ white / len(white)
        largest = float(np.linalg.eigvalsh(moments)[-1])
        excess = moments - np.eye(len(moments))
        weight = expm(alpha * excess / (largest - 1)) if largest > 1 + 1e-9 else np.eye(len(moments))
        return np.einsum("ri,ij,rj->r", white, weight / np.trace(weight), white)

    return _by_group(features, groups, score)


def mahalanobis(features: Any, groups: Any = None, *, trusted: Any = None) -> Rows:
    """Squared distance from the group's mean, or from the trusted rows', in their own spread, shrunken; in units of its mean.

    Args:
        features: of the rows to score.
        groups: class of each row; None takes all rows as one.
        trusted: features of rows that are known to be clean; mean and spread are theirs then, for all groups.

    Raises:
        BkdinterpError: no rows, NaN, groups of another length, or trusted rows of another width.
    """
    from sklearn.covariance import LedoitWolf

    if trusted is not None:
        clean, _ = _checked(trusted, None)
        data, _ = _checked(features, groups)
        if clean.shape[1] != data.shape[1]:
            raise BkdinterpError(f"Trusted rows have {clean.shape[1]} features, the others {data.shape[1]}.")
        known = LedoitWolf().fit(clean)
        return _in_means(known.mahalanobis(data))
    return _by_group(features, groups, lambda centred: LedoitWolf().fit(centred).mahalanobis(centred))


def z_scores(features: Any, trusted: Any) -> Rows:
    """Root mean square, over features, of the distance from the trusted rows' mean in their standard deviations.

    Args:
        features: of the rows to score.
        trusted: features of rows that are known to be clean; a feature that is the same in all of them is left out.

    Raises:
        BkdinterpError: no rows, NaN, rows of another width, or trusted rows that do not differ at all.
    """
    (clean, _), (data, _) = _checked(trusted, None), _checked(features, None)
    if clean.shape[1] != data.shape[1]:
        raise BkdinterpError(f"Trusted rows have {clean.shape[1]} features, the others {data.shape[1]}.")
    spread = clean.std(0, ddof=1) if len(clean) > 1 else np.zeros(clean.shape[1])
    kept = spread > 1e-9 * max(float(np.abs(clean).max()), 1e-300)
    if not kept.any():
        raise BkdinterpError(f"The {len(clean)} trusted rows are all alike; give rows that differ.")
    return np.sqrt((((data - clean.mean(0))[:, kept] / spread[kept]) ** 2).mean(1))


def _whitened(x: Features) -> Features:
    from sklearn.covariance import LedoitWolf, MinCovDet

    if len(x) >= 5 * x.shape[1] and len(x) > 30:
        found = MinCovDet(support_fraction=_CLEAN, random_state=0).fit(x)
    else:  # too few rows to leave many of them out
        found = LedoitWolf().fit(x)
    values, vectors = np.linalg.eigh(found.covariance_)
    kept = values > 1e-10 * values[-1]
    return (x - found.location_) @ (vectors[:, kept] / np.sqrt(values[kept]))


def _components(x: Features, rank: int) -> Float[np.ndarray, "row rank"]:
    """Coordinates on the first components, fewer where there are no more directions."""
    centred = x - x.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    kept = (sizes > 1e-9 * max(float(sizes[0]), 1e-300)) if len(sizes) else np.zeros(0, dtype=bool)
    return (left * sizes)[:, kept][:, :rank]


def _by_group(features: Any, groups: Any, score: Callable[[Features], Rows]) -> Rows:
    data, labels = _checked(features, groups)
    out = np.zeros(len(data))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        centred = data[rows] - data[rows].mean(0)
        if len(rows) >= LEAST and np.abs(centred).max() > 0:
            out[rows] = _in_means(score(centred))
    return out


def _in_means(scores: Rows) -> Rows:
    """So that groups, and data of other scales, can be compared."""
    mean = float(scores.mean())
    return scores / mean if mean > 0 else scores


def _checked(features: Any, groups: Any) -> tuple[Features, np.ndarray]:
    data = as_array(features)
    if data.ndim != 2 or 0 in data.shape or not np.isfinite(data).all():
        raise BkdinterpError(f"Features must be finite numbers [row, d]; got shape {data.shape}.")
    labels = np.zeros(len(data), dtype=np.int64) if groups is None else np.asarray(groups)
    if labels.shape != (len(data),):
        raise BkdinterpError(f"{len(data)} rows but groups of shape {labels.shape}; give one per row.")
    return data, labels
