"""The state of torch that computations run in, when several threads are inside."""

import threading

import pytest
import torch

from bkdinterp.model._torch_state import plain_torch


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_a_thread_that_leaves_takes_nothing_from_one_that_is_inside():
    inside, leave = threading.Event(), threading.Event()

    def first():
        with plain_torch():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    with plain_torch():
        leave.set()
        thread.join(10)
        assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_dtype() == torch.float64


def test_what_stood_in_between_comes_back():
    with plain_torch():
        torch.set_default_dtype(torch.bfloat16)
        with plain_torch():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.bfloat16
    assert torch.get_default_dtype() == torch.float64
    with pytest.raises(KeyError), plain_torch():
        raise KeyError
    assert torch.get_default_dtype() == torch.float64
