"""An audit as Markdown: for a ticket, a repository or a mail. What a model wrote stands in code, never as markup. No model."""

import math
import re
from collections.abc import Iterator, Sequence

from bkdinterp.report._advice import advice
from bkdinterp.report._audit_json import normal
from bkdinterp.report._audit_record import Audit
from bkdinterp.report._evidence import PHASES, AuditFinding, Curves, Figure, HeadMap, Phase, Table
from bkdinterp.report._frameworks import words
from bkdinterp.report._statuses import MEANING
from bkdinterp.report._visible_text import visible

# Of a table, a text in code, and a list of heads; all of them are in audit.json.
ROWS, LETTERS, HEADS = 40, 300, 8
# Of a shaded text, and letters of one of its tokens.
TOKENS, TOKEN = 3, 40
# What CommonMark and its common extensions may read as markup; bare addresses and mentions become links by ":", "@" and "www.".
_ESCAPED = re.compile(
    r"([\\`*_{}\[\]<>#|~&!@$^]|(?<=\w):(?=//)|(?<=www)\.|^[-+=](?=\s|-|=)|^\d+[.)](?=\s))", re.IGNORECASE
)


def markdown(audit: Audit) -> str:
    """The text."""
    audit = normal(audit)
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    yield f"# Backdoor audit: {_text(str(audit.subject.get('label', 'model')))}"
    yield ""
    yield f"**{audit.outcome.capitalize()}.** {_text(audit.verdict)}"
    yield ""
    if audit.backdoors:
        yield f"**Severity: {audit.severity.level}.** {_text(audit.severity.reason)}"
        yield ""
    yield from (f"- {_text(line)}" for line in advice(audit))
    yield ""
    version = _text(str(audit.versions.get("bkdinterp", "")))
    yield f"{audit.created}, {audit.seconds:.0f} s, bkdinterp {version}."
    yield ""
    first, *others = audit.untested
    more = f" {len(others)} more stand below." if others else ""
    yield f"**Not covered by this verdict:** {_text(first)}{more}"
    yield ""
    yield from _examples(audit)
    yield "## Evidence"
    yield ""
    yield "; ".join(f"**{status}**: {means}" for status, means in MEANING.items()) + "."
    yield ""
    for phase in audit.phases:
        yield from _evidence(phase)
    yield "## What was tried"
    yield ""
    yield from _grid(("phase", "state", "seconds", "note"), [_tried(audit.phase(name)) for name in PHASES])
    yield "## What was not tested"
    yield ""
    yield from (f"- {_text(text)}" for text in audit.untested)
    yield ""
    yield "What was tested:"
    yield ""
    yield from (f"- {_text(text)}" for text in audit.tested)
    yield ""
    for title, values in (
        ("Model", audit.subject),
        ("Settings", audit.settings),
        ("Versions", audit.versions),
    ):
        if values:
            yield f"## {title}"
            yield ""
            yield from (f"- {_text(str(name))}: {_code(str(value))}" for name, value in values.items())
            yield ""


def _examples(audit: Audit) -> Iterator[str]:
    examples = [e for p in audit.phases for e in p.examples]
    if not examples:
        return
    yield "## Trigger and behaviour"
    yield ""
    for e in examples:
        yield f"- with the trigger: {_code(e.triggered)}"
        yield f"  - the suspect answers: {_code(e.triggered_output)}"
        yield f"  - without it ({_code(e.prompt)}): {_code(e.clean_output)}"
        if e.reference_output is not None:
            yield f"  - the reference, with it: {_code(e.reference_output)}"
    yield ""


def _tried(phase: Phase) -> tuple[str, ...]:
    return phase.name, phase.state, f"{phase.seconds:.0f}", _text(phase.reason)


def _evidence(phase: Phase) -> Iterator[str]:
    if not (phase.findings or phase.tables or phase.figures):
        return
    yield f"### {phase.name.capitalize()}"
    yield ""
    for f in phase.findings:
        yield from _finding(f)
    for figure in phase.figures:
        yield from _figure(figure)
    for table in phase.tables:
        yield from _table(table)


def _finding(f: AuditFinding) -> Iterator[str]:
    yield f"- **{f.status}** ({_text(f.rule)}): {_text(f.title)}"
    if f.detail:
        yield f"  {_text(f.detail)}"
    yield from (f"  - {_text(str(m))}" for m in f.measures)
    yield from (f"  - limit: {_text(limit)}" for limit in f.limits)
    yield from (f"  - {_text(words(id_))}" for id_ in f.taxonomy)
    if f.reproduce:
        yield f"  - again: {_code(f.reproduce, 2000)}"
    yield ""


def _figure(figure: Figure) -> Iterator[str]:
    """The strongest heads or tokens, or the highest point of each curve; the page draws the rest."""
    if isinstance(figure, HeadMap):
        places = [
            (v, i, j)
            for i, row in enumerate(figure.effects[0])
            for j, v in enumerate(row)
            if math.isfinite(v)
        ]
        best = sorted(places, key=lambda place: (-place[0], place[1:]))[:HEADS]
        named = ", ".join(f"layer {i} head {j}: {v:.3g}" for v, i, j in best)
        unit = _text(figure.unit)
        yield f"**{_text(figure.title)}** ({unit}, n={figure.n}, {_text(figure.models[0])}), the strongest: {named}"
        yield ""
    elif isinstance(figure, Curves):
        yield f"**{_text(figure.title)}**, highest {_text(figure.ylabel)}:"
        yield ""
        for line in figure.lines:
            points = [(y, x) for x, y in zip(figure.x, line.y, strict=True) if math.isfinite(y)]
            if points:
                y, x = max(points, key=lambda point: (point[0], -point[1]))
                yield f"- {_text(line.name)}: {y:.3g} at {_text(figure.xlabel)} {x:g}"
        yield ""
    else:
        yield f"**{_text(figure.title)}** ({_text(figure.unit)}), the strongest tokens:"
        yield ""
        for row in figure.rows[:ROWS]:
            named = ", ".join(
                f"{_code(row.tokens[i], TOKEN)} {row.values[i]:.3g}" for i in row.strongest(TOKENS)
            )
            total = (
                f"; on {_text(figure.mark_name)} {row.on_marked:.3g}"
                if row.marked and figure.mark_name
                else ""
            )
            yield f"- {_text(row.label)}: {named or 'none'}{total}"
        yield ""


def _table(table: Table) -> Iterator[str]:
    yield f"**{_text(table.title)}**"
    yield ""
    rows = [tuple(_cell(value) for value in row) for row in table.rows[:ROWS]]
    yield from _grid(tuple(_text(c) for c in table.columns), rows)
    if len(table.rows) > ROWS:
        yield f"{len(table.rows) - ROWS} more rows are in audit.json."
        yield ""
    if table.note:
        yield _text(table.note)
        yield ""


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (columns, ["---"] * len(columns), *rows):
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _cell(value: str | float | int | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else _text(visible(str(value), LETTERS))


def _text(text: str) -> str:
    """As prose: nothing in it is markup, and it stays on its line."""
    return _ESCAPED.sub(_escaped, " ".join(visible(text).split()))


def _escaped(found: re.Match[str]) -> str:
    """With a backslash before the character that makes it markup: the last, as in ``1\\.``."""
    return f"{found[0][:-1]}\\{found[0][-1]}"


def _code(text: str, most: int = LETTERS) -> str:
    """As code, with a fence longer than any run of backticks in it."""
    shown = " ".join(visible(text, most).split()) or " "
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}"
