"""From scores to flagged rows: ranks averaged over methods, and a threshold that comes from a null. No model.

The null is the scores of rows that are known to be clean or, without any, the rows' own lower half: most rows are clean, and
clean rows scatter to both sides of the median alike (an empirical null, Efron 2004). p is a normal tail, which mean ranks over
several methods come near to; counting null rows instead could never flag fewer than ten rows at a false discovery rate of 10 %.
The rows at that rate are flagged (Benjamini & Hochberg 1995).
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


def null_p(scores: Any, null: Any = None) -> Rows:
    """How likely a clean row comes as high, for each row.

    Args:
        scores: of the rows.
        null: scores of at least three clean rows; p is Student's, of one more draw of a normal sample. None: normal around the
            median, with the spread of the rows below it. Right where most rows are clean and their scores symmetric; a long
            upper tail of clean rows counts as poison.

    Raises:
        BkdinterpError: no rows, NaN, or fewer than three clean rows.
    """
    from scipy.stats import norm, t

    values = as_sample(scores, "null_p")
    if null is None:
        middle = float(np.median(values))
        below = values[values < middle]
        spread = float(np.sqrt(np.mean((below - middle) ** 2))) if len(below) else 0.0
        return np.where(values > middle, norm.sf((values - middle) / spread) if spread else 0.5, 1.0).astype(
            float
        )
    clean = as_sample(null, "null_p")
    if len(clean) < 3:
        raise BkdinterpError(f"{len(clean)} clean rows say nothing of their spread; give three or more.")
    spread = float(clean.std(ddof=1)) * float(np.sqrt(1 + 1 / len(clean)))
    return t.sf((values - clean.mean()) / max(spread, 1e-12), len(clean) - 1)


def flag(p: Float[np.ndarray, " row"], level: float = 0.1) -> Bool[np.ndarray, " row"]:
    """Rows of which, in expectation, at most a share ``level`` is clean.

    Raises:
        BkdinterpError: ``level`` outside (0, 1).
    """
    from scipy.stats import false_discovery_control

    check_level(level)
    return false_discovery_control(p) <= level
