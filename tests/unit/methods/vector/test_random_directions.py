"""Random directions as nulls: of the vector's norm, seeded, and where the activations vary if asked for."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods import BackdoorVector, random_directions
from bkdinterp.results import Fingerprint
from bkdinterp.sites import HeadSet, Where

D = 40


def vector():
    origin = Fingerprint("tiny", None, None, "float32", "t", "d", None, {})
    return BackdoorVector(origin, 3 * torch.ones(D), HeadSet.of("L0H0"), "raw", 9, {}, Where("last"))


def activations(n=60, rank=3):
    """Far from 0, and varying in ``rank`` of the dimensions only."""
    rng = torch.Generator().manual_seed(0)
    return 50 + torch.randn(n, rank, generator=rng) @ torch.randn(rank, D, generator=rng)


def test_covariance_directions_lie_where_the_activations_vary():
    x = activations()
    drawn = random_directions(like=vector(), n=200, seed=0, match="covariance", activations=x)
    rows = torch.stack([v.vector for v in drawn]).double()
    assert torch.allclose(rows.norm(dim=1), vector().vector.double().norm())
    inside = torch.linalg.svd((x - x.mean(0)).double()).Vh[:3]
    assert torch.allclose((rows @ inside.T).norm(dim=1), rows.norm(dim=1), rtol=1e-5)
    # In proportion to the variance: the first principal direction takes the most.
    shares = (rows @ inside.T).square().mean(0)
    assert shares[0] > shares[1] > shares[2]
    # An isotropic one of the same norm is mostly outside.
    flat = torch.stack([v.vector for v in random_directions(like=vector(), n=200, seed=0)]).double()
    assert (flat @ inside.T).norm(dim=1).mean() < 0.5 * flat.norm(dim=1).mean()
    again = random_directions(like=vector(), n=200, seed=0, match="covariance", activations=x)
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(drawn, again, strict=True))


def test_tokens_that_a_prompt_has_not_are_left_out():
    x = activations(60).reshape(12, 5, D)
    holes = x.clone()
    holes[3, 2:] = torch.nan
    kept = holes.flatten(0, 1)[~holes.flatten(0, 1).isnan().any(1)]
    one, two = (
        random_directions(like=vector(), n=1, seed=0, match="covariance", activations=a)[0].vector
        for a in (holes, kept)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": "layer"}, "Unknown match 'layer'"),
        ({"match": "covariance"}, "got nothing"),
        ({"match": "covariance", "activations": torch.ones(5, D + 1)}, r"shape \(5, 41\)"),
        ({"match": "covariance", "activations": torch.ones(5, D)}, "5 activations do not vary"),
        ({"match": "covariance", "activations": torch.randn(1, D)}, "1 activations do not vary"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(BkdinterpError, match=message):
        random_directions(like=vector(), n=1, seed=0, **settings)
