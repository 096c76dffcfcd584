"""What a folder of finished work is known by: equal for equal computations, in every process, and different for others."""

import functools
import importlib.util
import re
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from bkdinterp.engine import digest_of
from bkdinterp.errors import PlanError
from bkdinterp.results._functions import own_module


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


def test_a_docstring_does_not_count():
    """Saved work is found again after its score's description was reworded."""
    made = []
    for text in ("What it gives.", "What it gives, in other words."):
        space = {}
        exec(f"def f(x):\n    {text!r}\n    return None if x is None else 'a'", space)
        made.append(digest_of(space["f"]))
    assert made[0] == made[1]
    for text in ("a", "b"):  # one constant is both
        space = {}
        exec(f"def f(x):\n    {text!r}\n    return {text!r}", space)
        made.append(digest_of(space["f"]))
    assert made[2] != made[3]
    assert digest_of(lambda: "a") != digest_of(lambda: "b")
    assert digest_of(lambda x: ["a" for _ in x]) != digest_of(lambda x: ["b" for _ in x])


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


def module(tmp_path, name, source):
    """A module of the user's, read anew."""
    path = tmp_path / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    sys.modules.pop(name, None)
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    exec(compile(source, str(path), "exec"), made.__dict__)
    return made


HELPERS = """
SCALE = 2.0
TABLE = {"a": torch.ones(2), "b": (1, 2)}

def deep(x):
    return x + 1

def helper(x):
    return deep(x) * SCALE

class Weigh:
    level = 3
    def __init__(self, k): self.k = k
    def __call__(self, x): return self.much(x)
    def much(self, x): return x * self.k * self.level
"""
SCORE = """
import torch
import user_helpers
from user_helpers import Weigh, helper

weigh = Weigh(5)

def score(x):
    def inner(y):
        return helper(y) + weigh(y)
    return inner(x) + user_helpers.TABLE["a"].sum()
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x + 1", "return x + 2"),
        ("SCALE = 2.0", "SCALE = 2.5"),
        ("torch.ones(2)", "torch.zeros(2)"),
        ("(1, 2)", "(1, 3)"),
        ("level = 3", "level = 4"),
        ("x * self.k * self", "x + self.k * self"),
        ("deep(x) * SCALE", "deep(x) / SCALE"),
    ],
)
def test_helpers_of_a_score_count(tmp_path, old, new):
    def digest(source):
        module(tmp_path, "user_helpers", "import torch\n" + source)
        return digest_of(module(tmp_path, "user_score", SCORE).score)

    assert old in HELPERS
    assert digest(HELPERS) == digest(HELPERS)
    assert digest(HELPERS) != digest(HELPERS.replace(old, new))
    # What nothing leans on does not count.
    assert digest(HELPERS) == digest(HELPERS + "\nOTHER = 7\n")


def test_an_object_of_the_user_s_counts_by_what_it_holds():
    class Level:
        def __init__(self, k):
            self.k, self.me = k, self

        def __call__(self, x):
            return x * self.k

    class Bare:
        def __call__(self, x):
            return x

    assert digest_of(Level(1)) == digest_of(Level(1)) != digest_of(Level(2))
    assert digest_of(Level(1).__call__) != digest_of(Level(2).__call__)
    assert digest_of(Level) != digest_of(Bare)
    assert digest_of("a".upper) != digest_of("b".upper)
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert digest_of(one) == digest_of(one) != digest_of(two)
    assert digest_of({digest_of, scorer}) == digest_of({scorer, digest_of})


def test_functions_that_call_each_other_come_to_an_end():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert digest_of(even) == digest_of(even) != digest_of(odd)
    loop = []
    loop.append(loop)
    with pytest.raises(PlanError, match="contains itself"):
        digest_of(loop)
    assert digest_of((even, even)) == digest_of((even, even))


def test_libraries_are_left_out():
    assert digest_of(lambda x: torch.nn.functional.relu(x)) == digest_of(
        lambda x: torch.nn.functional.relu(x)
    )
    assert own_module(__name__)
    assert not any(own_module(name) for name in ("torch.nn", "json", "bkdinterp.engine", "numpy", None, ""))


class Slotted:
    __slots__ = ("__hidden", "x")

    def __init__(self, x, hidden=0):
        self.x, self.__hidden = x, hidden

    def __call__(self, scores):
        return scores * self.x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32(0.1), np.float32(0.2)),
        (np.int64(1), np.int64(2)),
        (np.bool_(False), np.bool_(True)),
        (np.array(["a"]), np.array(["b"])),
        (Path("a"), Path("b")),
        (Decimal(1), Decimal(2)),
        (date(2020, 1, 1), date(2021, 1, 1)),
        (range(3), range(4)),
        (slice(1), slice(2)),
        (bytearray(b"a"), bytearray(b"b")),
        (torch.device("cpu"), torch.device("meta")),
        (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
        (deque([1]), deque([2])),
        (Slotted(1), Slotted(2)),
        (Slotted(1, 1), Slotted(1, 2)),
        (str.upper, str.lower),
        ([{"a": 1}, {"b": 2}], [{"a": 1, "b": 2}, {}]),
        ({1: "x"}, {"1": "x"}),
    ],
    # Without addresses: several processes must collect the same names.
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),
)
def test_values_that_a_score_has_caught_count(one, other):
    assert digest_of(one) == digest_of(one) != digest_of(other)
    assert digest_of(scorer(one)) != digest_of(scorer(other))
