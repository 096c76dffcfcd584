"""Text of a suspect model made safe to show: what hides, reorders or moves text becomes a visible mark. No markup is added."""

import unicodedata

# Of one text in a document; answers are short, and a file may hold anything.
MOST = 20_000
_KEPT = "\n\t"


def visible(text: str) -> str:
    """The text with control, bidirectional, zero-width, private and unassigned characters as ``‹U+202E›``, and cut if endless."""
    shown = "".join(_mark(c) if _hides(c) else c for c in text[:MOST])
    return shown + f"… ({len(text) - MOST} more characters)" if len(text) > MOST else shown


def _hides(c: str) -> bool:
    if c in _KEPT or (c.isascii() and c.isprintable()):
        return False
    kind = unicodedata.category(c)
    # Marks that stack up on one letter without end are cut by the page's line height; these have no shape at all.
    return kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or c in "\u115f\u1160\u3164\uffa0\u034f"


def _mark(c: str) -> str:
    return f"‹U+{ord(c):04X}›"
