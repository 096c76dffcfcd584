"""Every id of a threat framework that the package writes is in the pinned files."""

import re
from pathlib import Path

import bkdinterp
from bkdinterp.report._frameworks import entry, words

ID = re.compile(r"\bAML\.[TM]\d{4}(?:\.\d{3})?\b|\bLLM\d\d:20\d\d\b")


def test_ids_are_known():
    sources = Path(bkdinterp.__file__).parent.rglob("*.py")
    used = {id_ for path in sources for id_ in ID.findall(path.read_text(encoding="utf-8"))}
    assert len(used) >= 6
    assert {id_ for id_ in used if entry(id_) is None} == set()
    assert entry("AML.T9999") is None and words("AML.T9999") == "AML.T9999"
