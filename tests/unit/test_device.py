"""Devices and number formats by name: what is not here is refused in one line, before anything is read."""

import subprocess
import sys

import pytest
import torch

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.model import Model, load_module
from bkdinterp.model._device import as_device, as_dtype


@pytest.mark.parametrize(
    "value", ["auto", "gpu", "", "cpu:1", "cuda:99", "meta", 0, None, 1.5, "cuda:-1", "CPU", "ipu"]
)
def test_no_such_device(value):
    with pytest.raises(BkdinterpError, match="available: 'cpu'") as error:
        as_device(value)
    assert "\n" not in str(error.value)
    # Before the source is looked at.
    for load in (Model.load, load_module):
        with pytest.raises(BkdinterpError, match="device="):
            load("/no/such/folder", device=value)


@pytest.mark.parametrize("value", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_is_always_here(value):
    assert as_device(value).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without one")
def test_no_accelerator():
    with pytest.raises(BkdinterpError, match="'cuda' is not on this machine"):
        as_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs one")
def test_an_accelerator():
    assert as_device("cuda") == torch.device("cuda")
    assert as_device("cuda:0").index == 0


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_number_formats_by_name(name):
    assert (
        as_dtype(name) is as_dtype(f"torch.{name}") is as_dtype(getattr(torch, name)) is getattr(torch, name)
    )


@pytest.mark.parametrize("value", ["int8", "float", "auto", None, torch.int64, 32, torch.complex64, "cuda"])
def test_no_such_format(value):
    with pytest.raises(ArtefactError, match=r"not a floating-point.*'bfloat16'"):
        as_dtype(value)
    with pytest.raises(ArtefactError, match="dtype="):
        Model.load("/no/such/folder", dtype=value)


def test_the_command_line_says_it_in_one_line():
    command = [sys.executable, "-m", "bkdinterp", "doctor", "/no/such/folder", "--device", "gpu"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "--device='gpu' is not a device" in " ".join((ran.stdout + ran.stderr).split())
    assert "Traceback" not in ran.stdout + ran.stderr
