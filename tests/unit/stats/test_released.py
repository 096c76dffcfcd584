"""The released code's two faults do what docs/papers.md says of them, and differ from the right values."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import PCA, released_directions, released_mean


def test_mean_is_the_last_sets_plus_a_bit_of_the_others():
    torch.manual_seed(0)
    sets = [torch.randn(50, 4) + shift for shift in (0.0, 1.0, 10.0)]
    found = released_mean(sets)
    expected = sets[2].double().mean(0) + (sets[1].double().mean(0) + sets[0].double().mean(0) / 50) / 50
    torch.testing.assert_close(found, expected)
    assert float((found - torch.cat(sets).double().mean(0)).norm()) > 5
    # One set only: no fault.
    torch.testing.assert_close(released_mean(sets[:1]), sets[0].double().mean(0))


def test_counting_modules_shrinks_the_mean():
    x = [torch.ones(50, 3)]
    torch.testing.assert_close(released_mean(x, n_modules=20), torch.full((3,), 1 / 20, dtype=torch.float64))


@pytest.mark.parametrize("sets", [[], [torch.ones(0, 3)]])
def test_empty_sets_are_refused(sets):
    with pytest.raises(BkdinterpError, match="at least one set"):
        released_mean(sets)


def test_directions_are_what_inverse_transform_gives():
    from sklearn.decomposition import PCA as Sklearn

    torch.manual_seed(0)
    x = torch.randn(80, 6, dtype=torch.float64) @ torch.diag(torch.arange(6, 0, -1).double()) + 20.0
    pca = PCA.fit(x, 3)
    model = Sklearn(n_components=3, svd_solver="full").fit(x.numpy())
    scores = model.transform(torch.ones(1, 6).numpy())
    for i, found in enumerate(released_directions(pca)):
        only = scores.copy() * 0
        only[0, i] = scores[0, i]
        vector = torch.from_numpy(model.inverse_transform(only)[0])
        torch.testing.assert_close(found, vector / vector.norm())
    released = released_directions(pca)
    # The mean is large here: the "directions" nearly coincide, where true ones are orthogonal.
    assert float((released @ released.T).fill_diagonal_(1).min()) > 0.8
    torch.testing.assert_close(pca.directions @ pca.directions.T, torch.eye(3, dtype=torch.float64))
