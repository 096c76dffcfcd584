"""Text of a suspect model made safe to show: what hides, reorders or moves text becomes a visible mark. No markup is added."""

import unicodedata
from collections.abc import Iterator
from itertools import groupby

# Of one text in a document; answers are short, and a file may hold anything.
MOST = 20_000
# Of marks on one letter: languages need three, and more of them run over the lines above and below.
STACKED = 3
_KEPT = "\n\t"
# Letters and symbols without a shape: Hangul fillers, the grapheme joiner, an empty braille cell.
_EMPTY = "\u115f\u1160\u3164\uffa0\u034f\u2800"


def visible(text: str, most: int = MOST, lines: int = MOST) -> str:
    """The text with control, bidirectional, zero-width, private and unassigned characters as ``‹U+202E›``, and cut if endless.

    Args:
        text: anything, halves of surrogate pairs included.
        most: characters that are kept.
        lines: lines that are kept.
    """
    kept = text[:most]
    if kept.count("\n") >= lines:
        kept = "\n".join(kept.split("\n", lines)[:lines])
    shown = kept if kept.isascii() and kept.isprintable() else "".join(_marked(kept))
    left = len(text) - len(kept)
    return f"{shown}… ({left} more characters)" if left else shown


def _marked(text: str) -> Iterator[str]:
    stacked, pieces = 0, []
    for c in text:
        stacked = stacked + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        pieces.append(_mark(c) if stacked > STACKED or _hides(c) else c)
    for piece, group in groupby(pieces):
        count = sum(1 for _ in group)
        # Three hundred of one accent say no more than the accent and the number.
        yield piece * count if len(piece) == 1 or count < 3 else f"{piece[:-1]} ×{count}›"


def _hides(c: str) -> bool:
    if c in _KEPT or (c.isascii() and c.isprintable()):
        return False
    kind = unicodedata.category(c)
    if kind == "Zs":  # looks like a space and is none; the wide one is everyday Chinese and Japanese
        return c not in " \u3000"
    selects = "\ufe00" <= c <= "\ufe0e" or "\U000e0100" <= c <= "\U000e01ef"
    return selects or kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or c in _EMPTY


def _mark(c: str) -> str:
    return f"‹U+{ord(c):04X}›"
