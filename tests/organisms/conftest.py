"""The shipped organism, loaded once for all tests that need real weights."""

import pytest
import torch

import bkdinterp as bk


@pytest.fixture(scope="session")
def organism():
    torch.set_num_threads(2)
    return bk.organisms.load("smollm2-refusal")
