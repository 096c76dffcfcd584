"""The area is the share of pairs in order; its interval covers; perfect order is not certainty."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import auroc


def test_it_is_the_share_of_pairs_in_order_ties_counting_half():
    scores, truth = [3.0, 1.0, 2.0, 2.0, 0.0], [True, True, False, True, False]
    pairs = [
        (a > b) + 0.5 * (a == b) for a, t in zip(scores, truth) for b, u in zip(scores, truth) if t and not u
    ]
    assert auroc(scores, truth).estimate == pytest.approx(np.mean(pairs))
    rng = np.random.default_rng(0)
    x, t = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3
    assert auroc(x, t).estimate == pytest.approx(mannwhitneyu(x[t], x[~t]).statistic / (t.sum() * (~t).sum()))
    assert auroc(-x, t).estimate == pytest.approx(1 - auroc(x, t).estimate)


@pytest.mark.parametrize(("shift", "area"), [(0.0, 0.5), (1.5, 0.8556), (3.0, 0.9831)])
def test_intervals_cover(shift, area):
    rng = np.random.default_rng(1)
    truth = np.arange(80) < 20
    covered = []
    for _ in range(300):
        found = auroc(rng.standard_normal(80) + shift * truth, truth)
        covered.append(found.low <= area <= found.high)
    assert np.mean(covered) > 0.91


def test_perfect_order_is_not_certainty():
    found = auroc([0.0, 0.1, 0.2, 5.0, 6.0], [False, False, False, True, True])
    assert found.estimate == 1.0 and found.low < 0.5
    assert auroc([5.0, 6.0, 0.0, 0.1], [False, False, True, True]).high > 0.5


def test_one_kind_has_no_order():
    for truth in ([True, True], [False, False], [True]):
        with pytest.raises(BkdinterpError, match="both kinds"):
            auroc([1.0, 2.0], truth)
