"""Comparing what came back with what was computed here."""

import torch


def close(there, here, *, tolerance=1e-4):
    """Equal to a tolerance, NaN where NaN, and not all the same number."""
    assert there.shape == here.shape
    assert torch.equal(there.isnan(), here.isnan())
    known = ~here.isnan()
    assert known.any()
    difference = float((there.double() - here.double())[known].abs().max())
    assert difference <= tolerance, difference
    if here[known].numel() > 1:
        assert float(here[known].double().std()) > 10 * tolerance
    return difference
