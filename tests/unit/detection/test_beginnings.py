"""Beginnings of texts and their order are what they are said to be."""

import torch

from bkdinterp.detection._inversion import _as_said, _pieces, _preferred


def test_beginnings_run_in_pieces_of_one_length_in_their_order():
    starts = [[i] for i in range(40)] + [[1, 2], [3, 4]] + [[99]]
    pieces = _pieces(starts)
    assert [start for piece in pieces for start in piece] == starts
    assert [(len(p), len(p[0])) for p in pieces] == [(32, 1), (8, 1), (2, 2), (1, 1)]


def test_a_token_that_is_hardly_ever_said_is_preferred_only_if_it_is_said():
    own = torch.tensor([[0.5, 1e-3, 1e-9, 0.499]])
    theirs = torch.tensor([[0.5, 1e-7, 1e-16, 0.4]])
    assert _preferred(own, theirs).argsort(descending=True)[0].tolist()[:3] == [1, 3, 0]
    assert _preferred(own, theirs)[0, 2] == -torch.inf


def test_of_spellings_of_one_text_the_usual_one_is_named():
    gain, start = torch.tensor([0.92, 0.9, 0.5]), torch.tensor([1e-6, 0.01, 0.9])
    assert _as_said([0, 1, 2], gain, start) == 1
