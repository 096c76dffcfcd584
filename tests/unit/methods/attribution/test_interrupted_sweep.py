"""The complete block of an interrupted sweep, and what Ctrl-C carries."""

import pytest
import torch

from bkdinterp.errors import BkdinterpError, SweepInterrupted
from bkdinterp.methods.attribution._interrupted_sweep import complete_block


def block(*rows):
    """Rows of units as text, "x" where scored; units and examples of the block, as lists."""
    scored = torch.tensor([[c == "x" for c in row] for row in rows])
    found = complete_block(scored)
    return found and tuple(mask.nonzero().flatten().tolist() for mask in found)


def test_a_finished_sweep_keeps_everything():
    assert block("xxx", "xxx") == ([0, 1], [0, 1, 2])


def test_examples_with_every_unit_are_kept():
    assert block("xx.", "x..", "xxx") == ([0, 1, 2], [0])
    assert block("xxxx..", "xxxx..", "xx.x..") == ([0, 1, 2], [0, 1, 3])


def test_without_such_an_example_the_units_with_common_examples_are_kept():
    assert block("xx.", "xx.", "...") == ([0, 1], [0, 1])
    assert block("xxx", "x..", "...") == ([0], [0, 1, 2])
    # Two units on two examples beat one unit on three, and equal sizes keep more examples.
    assert block("xxx", "xx.", "...") == ([0, 1], [0, 1])
    assert block("xx", "x.", "..") == ([0], [0, 1])


def test_the_block_is_complete_on_random_sweeps():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        scored = torch.rand(5, 4, generator=generator) < 0.5
        found = complete_block(scored)
        if found is None:
            assert not scored.any()
            continue
        units, examples = found
        assert units.any() and examples.any()
        assert scored[units][:, examples].all()
        if scored.all(dim=0).any():
            assert units.all()


def test_nothing_scored_is_nothing():
    assert block("...", "...") is None


def test_ctrl_c_is_no_error_that_could_be_swallowed():
    stop = SweepInterrupted(("a", "b"), done=3, total=7)
    assert (stop.results, stop.done, stop.total, stop.partial) == (("a", "b"), 3, 7, None)
    assert "3 of 7" in str(stop)
    assert not isinstance(stop, Exception | BkdinterpError)
    with pytest.raises(KeyboardInterrupt):
        raise stop
