"""The frame of hover figures, drawn by plotly: panels on one scale, titles that fit, the style of the other figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting._hover_text import escaped, wrapped
from bkdinterp.plotting._style import GREY, LIGHT

if TYPE_CHECKING:
    import plotly.graph_objects

# Sizes of letters in pixels, and the width of a letter as a share of its size.
TITLE, PANEL, LABEL, TICK = 16, 13, 14, 12
_LETTER = 0.52
_LEFT, _RIGHT, _BOTTOM, _GAP = 70, 30, 60, 50
_BAR = 34  # plotly's buttons, above the title
# Since version 7 a button opens plotly's cloud with the figure's data, which may be of a model that nobody else should know.
_UNWANTED = ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d"]


def need_plotly() -> None:
    """Stop where plotly is missing.

    Raises:
        BkdinterpError: plotly is missing.
    """
    try:
        import plotly.graph_objects  # noqa: F401
    except ImportError as error:
        raise BkdinterpError("Hover figures need plotly: pip install bkdinterp[hover]") from error


def new_hover_figure(
    names: Sequence[str],
    size: tuple[float, float],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    left: float = 0.0,
    right: float = 0.0,
    below: float = 0.0,
) -> "plotly.graph_objects.Figure":
    """A figure with one empty panel per name, side by side with one y axis.

    Args:
        names: titles of the panels; a single panel has none.
        size: width and height of one panel in pixels.
        title: title of the figure.
        xlabel: label of every x axis.
        ylabel: label of the first y axis.
        left: pixels for long labels of rows.
        right: pixels for a legend or a colour bar.
        below: pixels for long labels of columns.

    Raises:
        BkdinterpError: plotly is missing, or there is no panel.
    """
    need_plotly()
    from plotly.subplots import make_subplots

    n = len(names)
    if not n:
        raise BkdinterpError("A hover figure needs at least one panel.")
    wide, high = size
    inner = n * wide + (n - 1) * _GAP
    heads = [wrapped(name, _letters(wide, PANEL)) for name in names] if n > 1 else []
    width = inner + _LEFT + left + _RIGHT + right
    # Titles are written for matplotlib, where a dollar sign needs a backslash.
    whole = wrapped(title.replace(r"\$", "$"), _letters(width - 28, TITLE))
    above = _BAR + 1.3 * (TITLE * _lines([whole]) + PANEL * _lines(heads)) + 14
    figure: Any = make_subplots(
        rows=1,
        cols=n,
        shared_yaxes=True,
        horizontal_spacing=_GAP / inner if n > 1 else 0,
        subplot_titles=[escaped(head) for head in heads] or None,
    )
    figure.update_annotations(font_size=PANEL)
    figure.update_layout(
        title={"text": escaped(whole), "x": 0, "xref": "container", "pad": {"l": 14, "t": _BAR}, "font_size": TITLE,
               "y": 1, "yref": "container", "yanchor": "top", "xanchor": "left"},
        width=width,
        height=high + above + _BOTTOM + below,
        margin={"l": _LEFT + left, "r": _RIGHT + right, "t": above, "b": _BOTTOM + below},
        font={"size": TICK, "color": "black"},
        plot_bgcolor="white",
        paper_bgcolor="white",
        modebar_remove=_UNWANTED,
        hoverlabel={"bgcolor": "white", "bordercolor": GREY, "align": "left", "font_size": PANEL, "font_color": "black"},
    )  # fmt: skip
    figure.update_xaxes(title={"text": escaped(xlabel), "font_size": LABEL}, showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(title={"text": escaped(ylabel), "font_size": LABEL}, row=1, col=1)
    return figure


def rule_values(figure: Any, limit: tuple[float, float] | None) -> None:
    """Light horizontal lines, a darker one at 0, and the given ends of the y axis."""
    figure.update_yaxes(showgrid=True, gridcolor=LIGHT, zeroline=True, zerolinecolor=GREY, zerolinewidth=1)
    figure.update_xaxes(ticks="outside", tickcolor=GREY, showline=True, linecolor=GREY)
    if limit is not None:
        margin = 0.03 * (limit[1] - limit[0])
        figure.update_yaxes(range=[limit[0] - margin, limit[1] + margin])


def tick_texts(texts: Sequence[str | int], *, turned: bool = False) -> dict[str, Any]:
    """Ticks of an axis of cells: all texts, or of whole numbers about twelve."""
    step = max(1, -(-len(texts) // 12)) if all(isinstance(t, int) for t in texts) else 1
    at = list(range(0, len(texts), step))
    angle = {"tickangle": -90} if turned else {}
    return {"tickvals": at, "ticktext": [escaped(texts[i]) for i in at], **angle}


def text_width(texts: Sequence[str | int]) -> float:
    """Width in pixels of the longest of an axis's texts, at most a third of a page."""
    return min(320.0, TICK * _LETTER * max(len(str(text)) for text in texts))


def key_width(labels: Sequence[str]) -> float:
    """Width in pixels of a legend beside the panels."""
    return min(280.0, 50.0 + text_width(labels))


def _letters(width: float, size: float) -> int:
    return int(width / (size * _LETTER))


def _lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=0)
