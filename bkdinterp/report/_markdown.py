"""An audit as Markdown: for a ticket, a repository or a mail. What a model wrote stands in code, never as markup. No model."""

import re

from bkdinterp.report._advice import advice
from bkdinterp.report._audit_record import Audit
from bkdinterp.report._evidence import AuditFinding, Phase, Table
from bkdinterp.report._frameworks import entry
from bkdinterp.report._visible_text import visible

ROWS, LETTERS = 40, 300
_ESCAPED = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def markdown(audit: Audit) -> str:
    """The text."""
    lines = [
        f"# Backdoor audit: {_text(str(audit.subject.get('label', 'model')))}",
        "",
        f"**{audit.outcome.capitalize()}.** {_text(audit.verdict)}",
        "",
        *(f"- {_text(line)}" for line in advice(audit)),
        "",
        f"{audit.created}, {audit.seconds:.0f} s, bkdinterp {audit.versions.get('bkdinterp', '')}",
        "",
    ]
    examples = [e for p in audit.phases for e in p.examples]
    if examples:
        lines += ["## Trigger and behaviour", ""]
        for e in examples:
            lines += [
                f"- prompt: {_code(e.prompt)}",
                f"  - with the trigger: {_code(e.triggered)}",
                f"  - answer with it: {_code(e.triggered_output)}",
                f"  - answer without: {_code(e.clean_output)}",
            ]
            if e.reference_output is not None:
                lines.append(f"  - reference, with it: {_code(e.reference_output)}")
        lines.append("")
    lines += ["## Findings", ""]
    for phase in audit.phases:
        lines += _phase(phase)
    lines += ["## What was tested, and what was not", ""]
    lines += [f"- tested: {_text(text)}" for text in audit.tested]
    lines += [f"- **not tested**: {_text(text)}" for text in audit.untested]
    lines += ["", "## Model and settings", ""]
    for title, values in (("model", audit.subject), ("setting", audit.settings), ("version", audit.versions)):
        lines += [f"- {title} {_text(str(name))}: {_code(str(value))}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _phase(phase: Phase) -> list[str]:
    reason = f". {_text(phase.reason)}" if phase.reason else ""
    lines = [f"### {phase.name.capitalize()}: {phase.state}, {phase.seconds:.0f} s{reason}", ""]
    for f in phase.findings:
        lines += _finding(f)
    for table in phase.tables:
        lines += _table(table)
    return lines


def _finding(f: AuditFinding) -> list[str]:
    lines = [f"- **{f.status}** ({f.rule}): {_text(f.title)}"]
    if f.detail:
        lines.append(f"  {_text(f.detail)}")
    lines += [f"  - {_text(str(m))}" for m in f.measures]
    lines += [f"  - limit: {_text(limit)}" for limit in f.limits]
    for id_ in f.taxonomy:
        framework, name = entry(id_)
        lines.append(f"  - {framework.name} {framework.version}: {id_} {name}")
    if f.reproduce:
        lines.append(f"  - again: {_code(f.reproduce)}")
    return [*lines, ""]


def _table(table: Table) -> list[str]:
    lines = [
        f"**{_text(table.title)}**",
        "",
        _row(table.columns),
        _row(["---"] * len(table.columns), plain=True),
    ]
    lines += [_row([_cell(value) for value in row]) for row in table.rows[:ROWS]]
    if len(table.rows) > ROWS:
        lines.append(f"\n{len(table.rows) - ROWS} more rows are in audit.json.")
    return [*lines, "", *([f"{_text(table.note)}", ""] if table.note else [])]


def _row(cells: "tuple[str, ...] | list[str]", *, plain: bool = False) -> str:
    return "| " + " | ".join(c if plain else _text(c) for c in cells) + " |"


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:LETTERS]


def _text(text: str) -> str:
    """As prose: nothing in it is markup, and it stays on its line."""
    return _ESCAPED.sub(r"\\\1", " ".join(visible(text).split()))


def _code(text: str) -> str:
    """As code, with a fence longer than any run of backticks in it."""
    shown = " ".join(visible(text[:LETTERS]).split()) or " "
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}"
