"""Free memory goes back to the system once the process holds more than it may, and nothing happens where nobody knows."""

import ctypes
import mmap
import sys

import pytest

from bkdinterp.engine import _allocator
from bkdinterp.engine._allocator import Allocator


@pytest.fixture(autouse=True)
def _fresh():
    _allocator.malloc_trim.cache_clear()
    yield
    _allocator.malloc_trim.cache_clear()


def test_it_hands_back_only_above_what_is_allowed():
    held, trims = [1000], []
    allocator = Allocator(500, resident=lambda: held[0], trim=trims.append)
    held[0] = 1500
    allocator.settle()
    assert trims == []
    held[0] = 1501
    allocator.settle()
    assert trims == [0]


def test_nothing_happens_where_resident_memory_is_unknown():
    trims = []
    Allocator(0, resident=lambda: None, trim=trims.append).settle()
    assert trims == []


@pytest.mark.parametrize("missing", ["system", "function", "library"])
def test_other_c_libraries_are_left_alone(monkeypatch, missing):
    def nothing(name):
        if missing == "library":
            raise OSError("no such library")
        return object()

    if missing == "system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        monkeypatch.setattr(ctypes, "CDLL", nothing)
    assert _allocator.malloc_trim() is None
    Allocator(0).settle()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_memory_counts_what_is_touched():
    before = _allocator.resident_bytes()
    # Straight from the system: the C library may have pages of its own left.
    with mmap.mmap(-1, 2**26) as block:
        block.write(b"x" * len(block))
        after = _allocator.resident_bytes()
    assert before is not None and after is not None and after - before > 0.5 * 2**26
