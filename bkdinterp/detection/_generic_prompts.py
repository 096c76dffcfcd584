"""Generic prompts that the package ships: everyday requests, for searches and, apart from them, for tests. No forward pass."""

import random
from functools import cache
from pathlib import Path

from bkdinterp.prompts import Prompts
from bkdinterp.values import as_integer

_DATA = Path(__file__).parent / "data"


@cache
def _texts() -> tuple[str, ...]:
    return tuple((_DATA / "generic_prompts.txt").read_text(encoding="utf-8").splitlines())


def generic_prompts(*, seed: int = 0) -> tuple[Prompts, Prompts]:
    """Everyday requests in two halves: one that proposers may see, and one that only the judge sees.

    Args:
        seed: of the division into halves.
    """
    texts = list(_texts())
    random.Random(as_integer(seed, "seed")).shuffle(texts)
    half = len(texts) // 2
    return Prompts.of(texts[:half]), Prompts.of(texts[half:])


@cache
def common_words() -> list[str]:
    """Ordinary words, in a fixed order: fillers of a search, and shams that stand where a trigger would."""
    return (_DATA / "common_words.txt").read_text(encoding="utf-8").split()


@cache
def little_words() -> frozenset[str]:
    """Words that hold a sentence together; a phrase of nothing else is no motif."""
    return frozenset((_DATA / "little_words.txt").read_text(encoding="utf-8").split())
