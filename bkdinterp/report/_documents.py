"""write_report(): all documents of an audit, each written whole. No model."""

import json
from pathlib import Path
from typing import Any

from bkdinterp.report._audit_json import NAME, save_audit
from bkdinterp.report._audit_record import Audit
from bkdinterp.report._cyclonedx import cyclonedx
from bkdinterp.report._markdown import markdown
from bkdinterp.report._page import html
from bkdinterp.report._sarif import sarif
from bkdinterp.results._files import write_text
from bkdinterp.values import as_path


def write_report(audit: Audit, folder: Any) -> dict[str, Path]:
    """Write ``audit.json``, ``report.html``, ``report.md``, ``report.sarif`` and ``model-card.cdx.json``.

    Args:
        audit: the record; a loaded one gives the same bytes as the one that was saved.
        folder: made if needed.

    Returns: name of each document -> its path.
    """
    home = as_path(folder, "folder")
    texts = {
        "page": ("report.html", html(audit)),
        "markdown": ("report.md", markdown(audit)),
        "sarif": ("report.sarif", json.dumps(sarif(audit), indent=1) + "\n"),
        "model card": ("model-card.cdx.json", json.dumps(cyclonedx(audit), indent=1) + "\n"),
    }
    save_audit(audit, home / NAME)
    places = {"audit": home / NAME}
    for name, (file, text) in texts.items():
        write_text(home / file, text)
        places[name] = home / file
    return places
