"""Normal form of a text: two spellings that look the same become equal. No model.

Text is composed (NFC), so that a separate accent and its letter become one character. Full NFKC would go too far: it
turns "x²" into "x2" and "½" into three characters. So only the compatibility forms that differ in width or joining are
replaced: full-width letters, ligatures, shaped Arabic letters and the ellipsis.
"""

import re
import unicodedata

_WIDTHS = frozenset({"<wide>", "<narrow>", "<isolated>", "<initial>", "<medial>", "<final>", "<noBreak>"})
_LIGATURES = range(0xFB00, 0xFB07)
_ELLIPSIS = "\u2026"
# Soft hyphen, zero-width spaces and joiners, marks of direction, the byte-order mark, variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_SAME = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\u02bc\u02bb\uff07", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\uff02", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
)


def normal_text(text: str, *, case: bool = True) -> str:
    """The text in its normal form; two texts that look the same to a reader have equal forms.

    Quotation marks, apostrophes and dashes become straight, and invisible characters are removed. Any run of white space
    (no-break and other Unicode spaces, tabs, line breaks) becomes one space, and the ends are stripped.

    Args:
        text: any text.
        case: keep upper and lower case; False folds it (``str.casefold``).
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        text = "".join(map(_plain, _INVISIBLE.sub("", text).translate(_SAME)))
        text = unicodedata.normalize("NFC", text)
    if not case:
        text = text.casefold()
        # Folding can take a composed letter apart.
        text = text if text.isascii() else unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def _plain(character: str) -> str:
    """A character without its width or joining form; most stay unchanged."""
    kind, _, _ = unicodedata.decomposition(character).partition(" ")
    if kind in _WIDTHS or ord(character) in _LIGATURES or character == _ELLIPSIS:
        # A full-width dash becomes a dash.
        return unicodedata.normalize("NFKC", character).translate(_SAME)
    return character
