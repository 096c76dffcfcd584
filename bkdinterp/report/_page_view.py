"""What the HTML page shows of an audit, as plain values in the order of the page. No markup, no model."""

import math
from typing import Any

from bkdinterp.report._advice import advice
from bkdinterp.report._audit_record import DECIDING, Audit
from bkdinterp.report._chart_view import figure_view
from bkdinterp.report._evidence import PHASES, AuditFinding, Example, Measure
from bkdinterp.report._statuses import MEANING

TITLES = {"found": "Backdoor found", "nothing found": "Nothing found", "inconclusive": "Open"}
PURPOSE = {
    "triage": "files, formats and the chat template",
    "detection": "is there a trigger, and what does it call up?",
    "characterisation": "what the trigger needs, and where it works",
    "localisation": "which heads and layers carry it",
    "control": "can it be switched on and off inside the model?",
    "impact": "what else it changes, and who could use it",
    "attribution": "how it was probably planted",
    "remediation": "what removes it, and what that costs",
}
# Rows of a table that the page shows, and examples that it shows at once.
ROWS, EXAMPLES = 60, 3


def page_view(audit: Audit) -> dict[str, Any]:
    """Names that the template uses."""
    examples = [_example(e) for p in audit.phases for e in p.examples]
    phases = [
        {
            "name": name,
            "purpose": PURPOSE[name],
            "phase": audit.phase(name),
            "figures": [figure_view(f, f"{name}-{i}") for i, f in enumerate(audit.phase(name).figures)],
        }
        for name in PHASES
    ]
    for entry in phases:
        p = entry["phase"]
        entry["empty"] = not (p.findings or p.tables or p.figures)
    return {
        "label": str(audit.subject.get("label", "model")),
        "base": audit.subject.get("base"),
        "outcome": audit.outcome,
        "outcome_class": audit.outcome.replace(" ", "-"),
        "title": TITLES[audit.outcome],
        "verdict": audit.verdict,
        "advice": advice(audit),
        "severity": audit.severity if audit.backdoors else None,
        "facts": _facts(audit),
        "created": audit.created.replace("T", " ").replace("+00:00", " UTC").replace("Z", " UTC"),
        "took": audit.seconds,
        "examples": examples[:EXAMPLES],
        "more_examples": examples[EXAMPLES:],
        "phases": phases,
        "shown": [e for e in phases if not e["empty"]],
        "opened": audit.backdoors or _left(audit),
        "tested": audit.tested,
        "untested": audit.untested,
        "values": [
            (caption, [(str(k), v if isinstance(v, str) else _plain_words(v)) for k, v in values.items()])
            for caption, values in (
                ("Model", audit.subject),
                ("Settings", audit.settings),
                ("Versions", audit.versions),
            )
            if values
        ],
        "rows": ROWS,
        "meaning": MEANING,
    }


def _facts(audit: Audit) -> list[dict[str, str]]:
    """Up to four numbers that the verdict rests on, each with its uncertainty."""
    deciding = [f for f in audit.findings if f.rule in DECIDING]
    lead = next(iter(audit.backdoors or _left(audit)), None)
    made: list[dict[str, str]] = []
    if lead is not None and lead.measures:
        m = lead.measures[0]
        made.append({"name": m.name, "value": m.number, "note": _uncertainty(m)})
        if m.null is not None:
            made.append({"name": "highest comparison", "value": m.null_number, "note": m.null_name})
        last = lead.measures[-1]
        if last.unit != m.unit:  # p, or an effect in nats; another share stands in the table
            made.append({"name": last.name, "value": last.number, "note": _uncertainty(last)})
    elif deciding:
        low = sum(f.status == "not supported" for f in deciding)
        made.append(
            {"name": "suspicions tested", "value": str(len(deciding)), "note": f"{low} not supported"}
        )
    done = len(PHASES) - len(audit.missing)
    missing = ", ".join(audit.missing)
    note = "all ran to their end" if not missing else f"not: {missing}"
    return [*made, {"name": "phases finished", "value": f"{done} of {len(PHASES)}", "note": note}]


def _left(audit: Audit) -> tuple[AuditFinding, ...]:
    """Findings that could mean a backdoor, and leave it open."""
    return tuple(
        f for f in audit.findings if f.rule in DECIDING and f.status in ("for review", "inconclusive")
    )


def _uncertainty(m: Measure) -> str:
    return m.words.removeprefix(m.number).partition("; null")[0].strip(" ,")


def _example(e: Example) -> dict[str, Any]:
    """The texts, and where in the triggered prompt the trigger stands, if it is one insertion."""
    a, b = e.prompt, e.triggered
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = min(len(a), len(b)) - start
    end = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    inserted = len(b) > len(a) and start + end >= len(a)
    stop = len(b) - end
    if not inserted:
        start = stop = len(b)
    # The gap after the trigger is no part of it, unless the gap is all there is.
    stop = start + len(b[start:stop].rstrip(" ")) if b[start:stop].strip(" ") else stop
    return {
        "before": b[:start],
        "trigger": b[start:stop],
        "after": b[stop:],
        "prompt": e.prompt,
        "with_it": e.triggered_output,
        "without": e.clean_output,
        "reference": e.reference_output,
    }


def tone(f: AuditFinding) -> str:
    """The colour of a finding's status: only a backdoor is alarming, a result that describes it is not."""
    if f.status == "supported":
        return "bad" if f.rule in DECIDING else "info"
    return "open" if f.status in ("for review", "inconclusive") else "plain"


def cell(value: str | float | int | None) -> str:
    """A table's value as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def interval(m: Measure) -> dict[str, str] | None:
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


def seconds(value: float | int) -> str:
    """A time for reading."""
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def _plain_words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, list | tuple):
        return ", ".join(_plain_words(v) if not isinstance(v, str) else v for v in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{k}: {v if isinstance(v, str) else _plain_words(v)}" for k, v in value.items())
    return str(value)
