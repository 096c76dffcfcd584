"""What a folder of finished work is known by: equal for equal computations, in every process, and different for others."""

import functools
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import torch

from bkdinterp.engine import digest_of


def scorer(value, k=1):
    def score(x):
        return x * value + k

    return score


@dataclass(frozen=True)
class Wanted:
    level: float
    of: tuple[str, ...] = ()


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor


class Known:
    def __init__(self, fingerprint):
        self.fingerprint = fingerprint


def test_equal_functions_are_equal():
    assert digest_of(scorer(2)) == digest_of(scorer(2))
    assert digest_of(Wanted(0.5, ("a",))) == digest_of(Wanted(0.5, ("a",)))
    assert digest_of(Known("abc")) == digest_of(Known("abc"))


def test_whatever_decides_a_value_counts():
    different = [
        scorer(2),
        scorer(3),
        scorer(2, k=2),
        scorer(torch.tensor(2.0)),
        scorer(np.array([2.0])),
        scorer({2}),
        lambda x: x + 1,
        lambda x: x + 2,
        lambda x, y=1: x + 1,
        lambda x, y=2: x + 1,
        lambda x: [i for i in x if i > 1],
        lambda x: [i for i in x if i > 2],
        functools.partial(max, 1),
        functools.partial(max, 2),
        Wanted(0.5),
        Wanted(0.6),
        Known("abc"),
        Known("abd"),
        "negativity".upper,
        Times(2),
        Times(3),
        Times(torch.tensor(2.0)),
    ]
    assert len({digest_of(value) for value in different}) == len(different)


def test_it_is_the_same_in_every_process():
    code = (
        "from bkdinterp.engine import digest_of\n"
        "print(digest_of((lambda x: x in {'a', 'b', 'c'}, frozenset('xyz'), object(), {'b': 1, 'a': 2})))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1 and found != {""}
