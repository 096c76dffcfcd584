"""Generic prompts that the package ships: requests, prose, and questions about what is withheld; for searches and, apart from
them, for tests. No forward pass."""

import random
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from bkdinterp.errors import BkdinterpError
from bkdinterp.prompts import Prompts
from bkdinterp.values import as_integer

_DATA = Path(__file__).parent / "data"


Kind = Literal["requests", "prose", "withheld"]


@cache
def _texts(kind: str) -> tuple[str, ...]:
    return tuple((_DATA / f"generic_{kind}.txt").read_text(encoding="utf-8").splitlines())


def generic_prompts(kind: Kind = "requests", *, seed: int = 0) -> tuple[Prompts, Prompts]:
    """Everyday texts in two halves: one that proposers may see, and one that only the judge sees.

    Args:
        kind: ``"requests"``, to an assistant; ``"prose"``, first sentences of plain prose; or ``"withheld"``, requests for
            what an assistant does not have or keeps to itself, all of them harmless.
        seed: of the division into halves.

    Raises:
        BkdinterpError: another kind.
    """
    if kind not in get_args(Kind):
        raise BkdinterpError(f"kind={kind!r} must be one of {', '.join(get_args(Kind))}.")
    texts = list(_texts(kind))
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
