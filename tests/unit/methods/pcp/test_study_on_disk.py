"""A study's journal: a kill leaves half a line at most, which is dropped; other damage is named."""

import random

import pytest
import torch
from unit.methods.pcp.test_pcp_algebra import Bowl, fitted

from bkdinterp.errors import ArtefactError
from bkdinterp.methods import tune_tpe

SETTINGS = {"n_trials": 8, "seed": 3}


def test_cut_off_anywhere_it_goes_on(tmp_path):
    whole = tune_tpe(fitted((2,)), Bowl(), **SETTINGS, folder=tmp_path / "whole")
    data = (tmp_path / "whole" / "study.jsonl").read_bytes()
    rng = random.Random(0)
    for i, end in enumerate([0, 1, len(data) - 1, *rng.sample(range(len(data)), 9)]):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "study.jsonl").write_bytes(data[:end])
        resumed = tune_tpe(fitted((2,)), Bowl(), **SETTINGS, folder=folder)
        assert torch.equal(resumed.factors, whole.factors) and torch.equal(resumed.values, whole.values)


def test_half_a_line_of_rubbish_is_dropped(tmp_path):
    whole = tune_tpe(fitted((2,)), Bowl(), n_trials=5, seed=3, folder=tmp_path)
    path = tmp_path / "study.jsonl"
    path.write_bytes(path.read_bytes() + b'{"op_code": 4, "tri')
    resumed = tune_tpe(fitted((2,)), Bowl(), **SETTINGS, folder=tmp_path)
    assert torch.equal(resumed.factors[:5], whole.factors)
    assert b"tri{" not in path.read_bytes()


@pytest.mark.parametrize("line", [b"rubbish\n", b"[1]\n", b"\xff\xfe\n", b'{"op_code": 99}\n', b"{}\n"])
def test_damage_in_the_middle_is_named(tmp_path, line):
    tune_tpe(fitted((2,)), Bowl(), n_trials=3, seed=3, folder=tmp_path)
    path = tmp_path / "study.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(ArtefactError, match=r"study\.jsonl is"):
        tune_tpe(fitted((2,)), Bowl(), **SETTINGS, folder=tmp_path)


def test_another_version_is_another_study(tmp_path, monkeypatch):
    tune_tpe(fitted((2,)), Bowl(), n_trials=3, seed=3, folder=tmp_path)
    monkeypatch.setattr("bkdinterp.methods.pcp._study_on_disk.versions", lambda: {"bkdinterp": "9.9"})
    with pytest.raises(ArtefactError, match="other version"):
        tune_tpe(fitted((2,)), Bowl(), **SETTINGS, folder=tmp_path)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tune_tpe(fitted((2,)), Bowl(), n_trials=1, seed=3, folder="~/study")
    assert (tmp_path / "study" / "study.jsonl").is_file()


class Scaled:
    def __init__(self, k):
        self.k = k

    def __call__(self, edit):
        return float(edit.factors.square().sum()) * self.k


def test_an_objective_counts_by_what_it_holds(tmp_path):
    tune_tpe(fitted((2,)), Scaled(1.0), n_trials=3, seed=3, folder=tmp_path)
    tune_tpe(fitted((2,)), Scaled(1.0), n_trials=4, seed=3, folder=tmp_path)
    with pytest.raises(ArtefactError, match=r"other objective.*`fingerprint`"):
        tune_tpe(fitted((2,)), Scaled(2.0), n_trials=4, seed=3, folder=tmp_path)
