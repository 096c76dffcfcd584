"""From scores to flagged rows: ranks averaged over methods, and a threshold that comes from a null. No model.

The null is the scores of rows that are known to be clean, or, without any, the lower half of the rows themselves mirrored at
their median: most rows are clean, and clean rows scatter to both sides alike. p is the share of null rows at least as high, and
the rows at a false discovery rate are flagged (Benjamini & Hochberg 1995; conformal p-values, Bates et al. 2023).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bkdinterp.detection.rows._features import Rows
from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._flips import check_level
from bkdinterp.stats._sample import as_sample


def rank_average(scores: Mapping[str, Any]) -> Rows:
    """Mean over methods of each row's rank, from 0 to 1; ties share their mean rank.

    Raises:
        BkdinterpError: no method, unequal lengths, or NaN.
    """
    from scipy.stats import rankdata

    found = [as_sample(values, name) for name, values in scores.items()]
    if not found or len({len(x) for x in found}) > 1:
        raise BkdinterpError(
            f"rank_average needs methods with the same rows; got {[len(x) for x in found]} rows."
        )
    return np.mean([(rankdata(x) - 0.5) / len(x) for x in found], axis=0)


def mirrored(scores: Any) -> Rows:
    """A null made of the rows themselves: those at or below the median, and their mirror images above it.

    Right where at least half the rows are clean and clean scores are symmetric; a long upper tail of clean rows is flagged, too.

    Raises:
        BkdinterpError: no rows, or NaN.
    """
    values = as_sample(scores, "mirrored")
    middle = float(np.median(values))
    low = values[values <= middle]
    return np.concatenate([low, 2 * middle - low])


def null_p(scores: Any, null: Any) -> Rows:
    """(1 + null rows at least as high) / (1 + null rows), for each row.

    Raises:
        BkdinterpError: no rows, or NaN.
    """
    values, reference = as_sample(scores, "null_p"), np.sort(as_sample(null, "null_p"))
    above = len(reference) - np.searchsorted(reference, values, "left")
    return (1 + above) / (1 + len(reference))


def flag(p: Float[np.ndarray, " row"], level: float = 0.1) -> Bool[np.ndarray, " row"]:
    """Rows of which, in expectation, at most a share ``level`` is clean.

    Raises:
        BkdinterpError: ``level`` outside (0, 1).
    """
    from scipy.stats import false_discovery_control

    check_level(level)
    return false_discovery_control(p) <= level
