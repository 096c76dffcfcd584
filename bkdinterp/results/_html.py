"""A small static table for notebooks: no script, no style sheet, nothing but escaped text. No forwards."""

from html import escape
from typing import TYPE_CHECKING, Any

from bkdinterp.reprs import cut

if TYPE_CHECKING:
    import pandas

ROWS, COLUMNS, CELL = 8, 12, 80
# A notebook would typeset "$...$" after parsing, where escaping is of no use, and a formula may hold a link to a script.
_NO_FORMULAS = "tex2jax_ignore mathjax_ignore"


def html_table(title: str, frame: "pandas.DataFrame") -> str:
    """A title line, the first rows and columns, and the size of the whole table.

    Cells may hold the output of a suspect model. So every cell is shortened and escaped, control characters are shown, and
    markup and formulas stay text.
    """
    columns = list(frame.columns[:COLUMNS])
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    rows = []
    for row in frame.iloc[:ROWS, :COLUMNS].itertuples(index=False, name=None):
        rows.append("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>")
    size = f"{len(frame)} rows x {len(frame.columns)} columns"
    shown = "" if len(frame) <= ROWS and len(frame.columns) <= COLUMNS else "; the first are shown"
    return (
        f'<div class="{_NO_FORMULAS}"><p><code>{escape(title)}</code></p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p>{size}{shown}; all of them: <code>.to_frame()</code></p></div>"
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return escape(f"{value:.4g}")
    return escape(cut(str(value), CELL))
