"""Two spellings that a reader takes for one have one normal form; what reads differently stays different."""

import unicodedata

import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload, grade_text, normal_text, word_overlap

TARGET = 'I\'m sorry - "caf\u00e9" is closed.'
SPELLINGS = {
    "space after": TARGET + " ",
    "space before": "\t " + TARGET,
    "line break": TARGET.replace(" ", "\r\n", 1),
    "two spaces": TARGET.replace(" ", "  "),
    "no-break space": TARGET.replace(" ", "\u00a0"),
    "narrow no-break space": TARGET.replace(" ", "\u202f"),
    "line separator": TARGET.replace(" ", "\u2028", 1),
    "ideographic space": TARGET.replace(" ", "\u3000"),
    "zero-width space": TARGET.replace("closed", "clo\u200bsed"),
    "soft hyphen": TARGET.replace("closed", "clo\u00adsed"),
    "byte-order mark": "\ufeff" + TARGET,
    "right-to-left mark": TARGET + "\u200f",
    "curly quotes": TARGET.replace("'", "\u2019").replace(' "', " \u201c").replace('" ', "\u201d "),
    "low quotes": TARGET.replace(' "', " \u201e").replace('" ', "\u201c "),
    "en dash": TARGET.replace("-", "\u2013"),
    "em dash": TARGET.replace("-", "\u2014"),
    "minus": TARGET.replace("-", "\u2212"),
    "decomposed": unicodedata.normalize("NFD", TARGET),
    "full width": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in TARGET),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_text_are_one(name: str) -> None:
    other = SPELLINGS[name]
    assert other != TARGET
    assert normal_text(other) == normal_text(TARGET) == TARGET
    assert normal_text(normal_text(other)) == TARGET
    said = f"Well. {TARGET} Bye."
    assert Payload(other).matches(said)
    assert Payload(TARGET).matches(f"Well. {other} Bye.")
    assert Payload(other, case_sensitive=True).matches(said)
    assert grade_text(other, Payload(TARGET)) == "payload"
    assert word_overlap(other, TARGET) == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x\u00b2", "x2"),
        ("\u00bd", "1/2"),
        ("caf\u00e9", "cafe"),
        ("no", "No"),
        ("a b", "ab"),
        ("a-b", "a b"),
        ("\u00df", "ss"),
    ],
)
def test_what_reads_differently_stays_different(one: str, other: str) -> None:
    assert normal_text(one) != normal_text(other)


def test_case_is_folded_where_asked() -> None:
    assert normal_text("\u0130STANBUL stra\u00dfe", case=False) == normal_text(
        "i\u0307stanbul STRASSE", case=False
    )
    assert normal_text("\ufb01ne\u2026") == "fine..."
    assert normal_text(" \u200b\n") == ""


@pytest.mark.parametrize("pattern", ["", " ", "\n", "\u200b\u00a0"])
def test_a_target_without_visible_text_is_refused(pattern: str) -> None:
    with pytest.raises(BkdinterpError, match="matches every text"):
        Payload(pattern)


def test_one_payload_per_prompt() -> None:
    said = ("yes", "no", "yes")
    each = Payload.each(said, 3)
    assert [p.pattern for p in each] == list(said) and each[0] is each[2]
    assert Payload.each(None, 2, Payload("x")) == [Payload("x")] * 2
    for targets in (None, ("yes",)):
        with pytest.raises(BkdinterpError, match="give one each"):
            Payload.each(targets, 2)
