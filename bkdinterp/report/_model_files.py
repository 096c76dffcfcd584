"""What triage recorded of a model's files: their hashes and the licence that they claim. No file is opened, no model."""

import re
from collections.abc import Iterator
from typing import Any

from bkdinterp.report._audit_record import Audit

FILES, CLAIMS = "Files", "What the files claim"
LICENCE = "model card: license"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPDX = re.compile(r"[A-Za-z0-9.+-]{2,40}")


def file_rows(audit: Audit) -> list[tuple[str, str]]:
    """Name and SHA-256 of each file that was hashed."""
    return [
        (str(row[0]), str(row[-1])) for row in _rows(audit, FILES) if row and _SHA256.fullmatch(str(row[-1]))
    ]


def licence(audit: Audit) -> str:
    """As the model card claims it; empty if it claims none, or something that is no licence's name."""
    claimed = [str(row[1]) for row in _rows(audit, CLAIMS) if len(row) == 2 and row[0] == LICENCE]
    return next((name for name in claimed if _SPDX.fullmatch(name)), "")


def _rows(audit: Audit, title: str) -> Iterator[tuple[Any, ...]]:
    return (row for table in audit.phase("triage").tables if table.title == title for row in table.rows)
