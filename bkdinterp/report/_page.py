"""An audit as one self-contained HTML page: no network, light and dark, printable, with figures as inline SVG. No model.

Jinja escapes everything, and what hides or reorders text is made visible first, so whatever a suspect model wrote stays text.
A content security policy allows the page's own style and script by their hashes and nothing else.
"""

import base64
import hashlib
import math
from functools import cache
from importlib import resources
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.report._advice import advice
from bkdinterp.report._audit_record import DECIDING, Audit
from bkdinterp.report._chart_view import chart_view, head_view, token_view
from bkdinterp.report._evidence import PHASES, AuditFinding, Curves, HeadMap, Measure, TokenMap
from bkdinterp.report._frameworks import entry
from bkdinterp.report._visible_text import visible

TITLES = {"found": "Backdoor found", "nothing found": "Nothing found", "inconclusive": "Open"}
# Rows of a table that the page shows; all of them are in audit.json.
ROWS = 60


def html(audit: Audit) -> str:
    """The page; the same audit always gives the same text.

    Raises:
        BkdinterpError: Jinja is missing.
    """
    style, script = _asset("report.css"), _asset("report.js")
    figures: dict[str, list[dict[str, Any]]] = {}
    for phase in audit.phases:
        figures[phase.name] = [_figure(f, f"{phase.name}-{i}") for i, f in enumerate(phase.figures)]
    examples = [e for p in audit.phases for e in p.examples]
    return _template().render(
        audit=audit,
        title=TITLES[audit.outcome],
        advice=advice(audit),
        examples=examples,
        phases=[audit.phase(name) for name in PHASES],
        figures=figures,
        rows=ROWS,
        style=_markup(style),
        script=_markup(script),
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
        decisive=[f for f in audit.findings if f.rule in DECIDING],
    )


def _figure(figure: HeadMap | Curves | TokenMap, name: str) -> dict[str, Any]:
    if isinstance(figure, HeadMap):
        return head_view(figure, name)
    return chart_view(figure, name) if isinstance(figure, Curves) else token_view(figure, name)


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
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("bkdinterp.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "interval": _interval, "named": _named, "seconds": _seconds}
    return environment.get_template("report.html.j2")


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def _interval(m: Measure) -> dict[str, str] | None:
    """Places of estimate, interval and null on a bar of 100 units; None for what is no share."""
    if m.unit != "share" or math.isnan(m.value) or not 0 <= m.value <= 1:
        return None
    low, high = (m.value if x is None else min(1.0, max(0.0, x)) for x in (m.low, m.high))
    made = {
        "value": f"{100 * m.value:.1f}",
        "low": f"{100 * low:.1f}",
        "width": f"{max(0.8, 100 * (high - low)):.1f}",
    }
    if m.null is not None and 0 <= m.null <= 1:
        made["null"] = f"{100 * m.null:.1f}"
    return made


def _named(f: AuditFinding) -> list[str]:
    return [
        f"{framework.name} {framework.version}: {id_} {name}"
        for id_ in f.taxonomy
        for framework, name in [entry(id_)]
    ]


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"
