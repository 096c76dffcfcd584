"""Area under the ROC curve with an interval: how often a positive example scores above a negative one. No forward pass."""

import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._flips import check_level
from bkdinterp.stats._intervals import Interval, wilson
from bkdinterp.stats._sample import Sample, as_array, as_sample

Truth = Bool[Tensor, " example"] | Bool[np.ndarray, " example"] | list[bool] | tuple[bool, ...]


def auroc(scores: Sample, truth: Truth, *, level: float = 0.95) -> Interval:
    """P(score of a positive > score of a negative), ties counting half, with DeLong's interval on the logit scale.

    Where all positives stand above (or below) all negatives, there is no spread to judge by: the far end is then Wilson's
    of as many successes as the smaller class has examples. ``n`` counts both classes.

    Raises:
        BkdinterpError: unequal lengths, NaN, or one class only.
    """
    check_level(level)
    values, positive = as_sample(scores, "auroc"), as_array(truth).astype(bool)
    if values.shape != positive.shape or positive.all() or not positive.any():
        raise BkdinterpError(
            f"auroc needs a truth per score, and both kinds: {len(values)} scores, {int(positive.sum())} of "
            f"{positive.size} positive."
        )
    above, below = values[positive], values[~positive]
    of_positive, of_negative = _placed(above, below), 1 - _placed(below, above)
    area = float(of_positive.mean())
    n, least = len(values), min(len(above), len(below))
    if area in (0.0, 1.0):
        bound = wilson(round(area * least), least, level)
        return Interval(area, bound.low, bound.high, n, "wilson of the smaller class", level)
    variance = sum(float(x.var(ddof=1)) / len(x) if len(x) > 1 else 0.25 for x in (of_positive, of_negative))
    from scipy.stats import norm

    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1))
    return Interval(area, min(low, area), max(high, area), n, "delong", level)


def _placed(x: Float[np.ndarray, " one"], among: Float[np.ndarray, " other"]) -> Float[np.ndarray, " one"]:
    """Share of ``among`` below each x, ties counting half."""
    ordered = np.sort(among)
    return (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / (2 * len(among))
