"""The tests run with shapes checked: a tensor of another shape is stopped where it enters, not where it breaks something."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from unit.results.mutants import results

from bkdinterp import stats
from bkdinterp.methods import HeadScores


def test_a_functions_tensors_are_checked():
    with pytest.raises(TypeCheckError, match="effects"):
        stats.simultaneous(np.zeros(3))


def test_a_results_tensors_are_checked():
    whole = next(r for r in results() if isinstance(r, HeadScores))
    assert replace(whole, effects=whole.effects + 1).n == whole.n
    with pytest.raises(TypeCheckError, match="effects"):
        replace(whole, effects=torch.zeros(3))
