"""Streaming equals batch, whatever the split; nothing to average raises."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.stats import PCA, Covariance, Mean, RunningCovariance, RunningMean


@pytest.fixture
def x():
    # A mean far from 0 punishes the naive E[x^2] - E[x]^2.
    return torch.randn(37, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e6


@pytest.mark.parametrize("split", [(37,), (1, 36), (10, 0, 20, 7), (1,) * 37])
def test_streaming_equals_batch(x, split):
    mean, cov = RunningMean(5), RunningCovariance(5)
    for part in x.split(split):
        mean.update(part)
        cov.update(part)
    torch.testing.assert_close(mean.finish().value, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(cov.finish().mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(cov.finish().cov, torch.cov(x.T), rtol=0, atol=1e-8)
    assert mean.finish().n == cov.finish().n == 37


def test_mean_pools_data_sets_of_unequal_size(x):
    # The released code divided again after every data set; the pooled mean weighs by size.
    merged = RunningMean(5).merge(Mean.fit(x[:3])).merge(Mean.fit(x[3:])).finish()
    torch.testing.assert_close(merged.value, Mean.fit(x).value, rtol=1e-14, atol=0)


def test_low_precision_input_is_accumulated_in_float64():
    x = torch.full((4096, 1), 0.1, dtype=torch.bfloat16)
    assert Mean.fit(x).value.item() == x[0].double().item()


def test_mean_of_grids_and_of_scalars():
    x = torch.arange(24.0).reshape(4, 2, 3)
    torch.testing.assert_close(Mean.fit(x).value, x.double().mean(0))
    assert Mean.fit(torch.tensor([1.0, 2.0, 6.0])).value.item() == 3.0


def test_finish_is_a_snapshot(x):
    running = RunningMean(5).update(x[:2])
    before = running.finish()
    kept = before.value.clone()
    running.update(x[2:])
    assert torch.equal(before.value, kept)


def test_fit_does_not_write_into_its_input(x):
    kept = x.clone()
    Covariance.fit(x)
    PCA.fit(x, 2)
    assert torch.equal(x, kept)


def test_what_cannot_be_averaged_raises(x):
    with pytest.raises(BkdinterpError, match="0 examples"):
        RunningMean(5).finish()
    with pytest.raises(BkdinterpError, match="at least 2"):
        RunningCovariance(5).update(x[:1]).finish()
    with pytest.raises(BkdinterpError, match=r"\(5,\)"):
        RunningMean(4).update(x)
    with pytest.raises(BkdinterpError, match="NaN"):
        RunningMean(5).update(x * torch.nan)


def test_pca_finds_the_planted_plane():
    g = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(6, 2, generator=g, dtype=torch.float64))[0].T
    scores = torch.randn(200, 2, generator=g, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    pca = PCA.fit(scores @ basis + 7.0, rank=2)
    torch.testing.assert_close(pca.directions @ pca.directions.T, torch.eye(2, dtype=torch.float64))
    # Same plane, not the mean: the released code's vectors were collinear with the mean.
    torch.testing.assert_close(pca.directions.T @ pca.directions, basis.T @ basis)
    assert abs(pca.explained.sum().item() - 1) < 1e-12
    assert pca.explained[0] > 0.9


def test_pca_projects_in_the_dtype_of_its_input():
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    pca = PCA.fit(x, 4)
    got = pca.project(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got @ pca.directions.float() + pca.mean.float(), x)


def test_pca_of_constant_data_explains_nothing_without_nan():
    pca = PCA.fit(torch.ones(5, 3), 2)
    assert pca.explained.tolist() == [0, 0]
    torch.testing.assert_close(pca.directions @ pca.directions.T, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("rank", [0, 4])
def test_pca_rank_out_of_range_raises(rank):
    with pytest.raises(BkdinterpError, match=r"1\.\.3"):
        PCA.fit(torch.randn(5, 3), rank)
