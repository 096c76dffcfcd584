"""Remote equals Local: the same plan on a real NDIF server and in this process."""

import pytest
import torch
from compare import close

import bkdinterp as bk


def test_attribution(local, remote, pairs, made):
    here = bk.Attribution(local).heads(pairs)
    there = bk.Attribution(remote).heads(pairs)
    assert made() <= 3
    assert close(there.effects, here.effects) < 1e-5
    assert there.fingerprint.model.endswith("@remote")
