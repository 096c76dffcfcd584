"""An audit as one self-contained HTML page: no network, light and dark, printable, with figures as inline SVG. No model.

Jinja escapes everything, and what hides or reorders text is made visible first, so whatever a suspect model wrote stays text.
A content security policy allows the page's own style and script by their hashes and nothing else.
"""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.report._audit_json import normal
from bkdinterp.report._audit_record import Audit
from bkdinterp.report._frameworks import words
from bkdinterp.report._page_view import cell, interval, page_view, seconds, tone
from bkdinterp.report._visible_text import visible

TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
# Letters and lines of a text in the page: of any, of a sentence or an answer, of a name. All of it is in audit.json.
ANY, BRIEF, SHORT = (6000, 80), (1200, 24), (120, 2)


def html(audit: Audit) -> str:
    """The page; the same audit always gives the same text.

    Raises:
        BkdinterpError: Jinja is missing.
    """
    template = _template()
    style, script = _asset(STYLE), _asset(SCRIPT)
    return template.render(
        page_view(normal(audit)),
        style=_markup(style),
        script=_markup(script),
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
    )


@cache
def _asset(name: str) -> str:
    return (resources.files("bkdinterp.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise BkdinterpError("A report needs Jinja: pip install 'bkdinterp[report]'.") from error

    def shown(value: Any) -> Any:
        return visible(value, *ANY) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("bkdinterp.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "brief": lambda text: visible(text, *BRIEF),
        "short": lambda text: visible(text, *SHORT),
        "cell": cell,
        "interval": interval,
        "seconds": seconds,
        "tone": tone,
        "words": words,
    }
    return environment.get_template(TEMPLATE)
