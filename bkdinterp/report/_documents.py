"""write_report(): all documents of an audit, each written whole. No model."""

from pathlib import Path
from typing import Any

from bkdinterp.places import writable_folder
from bkdinterp.report._audit_json import NAME, audit_text, json_text
from bkdinterp.report._audit_record import Audit
from bkdinterp.report._cyclonedx import cyclonedx
from bkdinterp.report._markdown import markdown
from bkdinterp.report._page import html
from bkdinterp.report._sarif import sarif
from bkdinterp.results._files import write_text


def write_report(audit: Audit, folder: Any) -> dict[str, Path]:
    """Write ``audit.json``, ``report.html``, ``report.md``, ``report.sarif`` and ``model-card.cdx.json``.

    A loaded audit gives the same bytes as the one that was saved.

    Args:
        audit: the record.
        folder: made if needed; files of these names in it are replaced.

    Returns: name of each file -> its path.

    Raises:
        BkdinterpError: the folder cannot be written, or Jinja is missing; nothing was written then.
    """
    home = writable_folder(folder, "folder")
    texts = {
        NAME: audit_text(audit),
        "report.html": html(audit),
        "report.md": markdown(audit),
        "report.sarif": json_text(sarif(audit)),
        "model-card.cdx.json": json_text(cyclonedx(audit)),
    }
    for name, text in texts.items():
        write_text(home / name, text)
    return {name: home / name for name in texts}
