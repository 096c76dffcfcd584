"""Tuned factors in the tables: which say nothing, which sit at the bound of the search, and what counts as rising."""

from types import SimpleNamespace

import pytest

from bkdinterp.stats import Interval
from papers import Job
from papers.lamparth import table_v_vi_vii
from papers.lamparth.factor_notes import rises, shown_factors
from papers.lamparth.pcp_units import BOUND
from papers.lamparth.table_v_vi_vii import table_v
from papers.lamparth.toy_measurements import LOSS, NONE
from papers.lamparth.toys import KINDS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.3, 0.29, 0.6], True),
        ([0.0, 0.3, 0.2, 0.6], False),  # falls by more than noise
        ([0.6, 0.3, 0.0], False),
        ([0.5, 0.5, 0.51], False),  # does not move
    ],
)
def test_rising_is_neither_falling_nor_staying(values, expected):
    assert rises(values) is expected


def test_factors_are_shown_with_those_at_the_bound_marked():
    assert shown_factors([0.0]) == "0" and shown_factors([-4.3671]) == "-4.37"
    assert shown_factors([-BOUND]) == "-20!" and shown_factors([13.01, 19.9]) == "(13, 19.9!)"


def test_seeds_whose_factor_is_zero_are_not_counted(monkeypatch, tmp_path):
    """Five seeds: two with factor 0 (nothing can move), one at the bound, rising, one falling, one that stays."""
    factors = [0.0, 0.0, -BOUND, 2.0, 1.0]
    slopes = [0.0, 0.0, 0.4, -0.4, 0.0]
    toys = [SimpleNamespace(seed=i) for i in range(5)]

    def fixed(x):
        return Interval(x, x, x, 9, "b").to_dict()

    def varied(job, toy, spec, multiples):
        rows = {k: fixed(0.5) for k in (*KINDS[2], LOSS)}
        edits = {m: rows | {"pt": fixed(0.5 + slopes[toy.seed] * f / 1.5)} for m, f in multiples.items()}
        return {NONE: rows, **edits}

    monkeypatch.setattr(table_v_vi_vii, "load_toys", lambda job, k: iter(toys))
    monkeypatch.setattr(table_v_vi_vii, "varied", varied)
    monkeypatch.setattr(table_v_vi_vii, "tuned", lambda job, toy, spec: {"factors": [factors[toy.seed]]})
    note = table_v(Job(tmp_path))[0].note
    assert "0, 0, -20!, 2, 1" in note and "at the bound" in note
    assert "Of the 3 seeds with a factor other than 0" in note
    assert "moves by more than 0.05 in 2," in note and "0.02) in 1." in note
