"""Figures of a report as places and texts for its SVG templates: head maps, curves, shaded tokens. Pure arithmetic.

Every mark has a row, a column and a text of its own, so that one script serves the pointer and the arrow keys in all of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from bkdinterp.report._evidence import Curves, Figure, HeadMap, Line, TokenMap
from bkdinterp.report._visible_text import visible

# Of a head map in SVG units: a cell's largest and smallest side, and the width that a map of many layers should keep.
CELL, SMALLEST, MAP_WIDTH = 28, 9, 960
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 490, 250, 54, 12, 14, 44
TICKS = 5
# Heads that the table below a map names, and that its slider can outline.
LISTED, OUTLINED = 10, 64
SHADES = 10
# Tokens of a text that the table below shaded texts names.
STRONGEST = 3
# Of one figure; two models of 126 layers and 128 heads have 32,256 marks.
MARKS = 50_000
# Of a name that stands at every mark, so that a long one does not make the page long as often as there are marks.
_NAME = 80
# Beyond these, sums of numbers from a hostile file would overflow.
_LARGEST = 1e100


def figure_view(figure: Figure, name: str) -> dict[str, Any]:
    """What the template of a figure's kind needs; `name` is the figure's id in the page."""
    if _marks(figure) > MARKS:
        made: dict[str, Any] = {"kind": "undrawn"}
    elif isinstance(figure, HeadMap):
        made = _head_view(figure)
    else:
        made = _chart_view(figure) if isinstance(figure, Curves) else _token_view(figure)
    return {"name": name, "title": figure.title} | made


def _marks(figure: Figure) -> int:
    if isinstance(figure, HeadMap):
        return sum(len(row) for grid in figure.effects for row in grid)
    parts = figure.lines if isinstance(figure, Curves) else figure.rows
    return sum(len(part.y if isinstance(part, Line) else part.tokens) for part in parts)


def _head_view(figure: HeadMap) -> dict[str, Any]:
    """Cells of every model on one scale, symmetric around zero."""
    limit = _limit([v for grid in figure.effects for row in grid for v in row])
    n_layers, n_heads = len(figure.effects[0]), len(figure.effects[0][0])
    cell = max(SMALLEST, min(CELL, MAP_WIDTH // n_layers))
    order = sorted(
        ((i, j) for i in range(n_layers) for j in range(n_heads) if math.isfinite(figure.effects[0][i][j])),
        key=lambda at: (-figure.effects[0][at[0]][at[1]], at),
    )
    rank = {at: k + 1 for k, at in enumerate(order)}
    panels = [
        {
            "model": model,
            "cells": [
                {
                    "row": j,
                    "column": i,
                    "x": i * cell,
                    "y": j * cell,
                    "sign": _sign(grid[i][j]),
                    "opacity": _share(grid[i][j], limit),
                    "rank": rank.get((i, j), 0),
                    "text": f"layer {i}, head {j}: {_head_words(figure, m, i, j)}",
                }
                for j in range(n_heads)
                for i in range(n_layers)
            ],
            # Below a map, for whoever does not point: the suspect's strongest heads, with the other models' values of them.
            "listed": [_head_words(figure, m, i, j) for i, j in order[:LISTED]],
        }
        for m, (model, grid) in enumerate(zip(figure.models, figure.effects, strict=True))
    ]
    return {
        "kind": "heads",
        "unit": figure.unit,
        "n": figure.n,
        "interval": bool(figure.low and figure.high),
        "limit": f"{limit:.3g}",
        "panels": panels,
        "chosen": [{"x": (i + 0.5) * cell, "y": (j + 0.5) * cell} for i, j in figure.chosen],
        "listed": [f"layer {i}, head {j}" for i, j in order[:LISTED]],
        "layers": range(n_layers),
        "heads": range(n_heads),
        "step": max(1, math.ceil(n_layers / 30)) * (5 if n_layers > 12 else 1),
        "head_step": max(1, math.ceil(14 / cell)),
        "width": n_layers * cell,
        "height": n_heads * cell,
        "most": min(OUTLINED, len(order)),
        "k": min(OUTLINED, len(order), max(1, len(figure.chosen))),
        "cell": cell,
    }


def _head_words(figure: HeadMap, m: int, i: int, j: int) -> str:
    value = figure.effects[m][i][j]
    if not math.isfinite(value):
        return "not scored"
    ends = ""
    if figure.low and figure.high and math.isfinite(figure.low[m][i][j] + figure.high[m][i][j]):
        ends = f" [{_signed(figure.low[m][i][j])}, {_signed(figure.high[m][i][j])}]"
    return f"{_signed(value)} {visible(figure.unit, _NAME)}{ends}, n={figure.n}"


def _chart_view(figure: Curves) -> dict[str, Any]:
    """Lines, bands and axes; points without a value interrupt a line."""
    ys = [v for line in figure.lines for part in (line.y, line.low, line.high) for v in part if _known(v)]
    low, high = _range([*ys, 0.0])
    xs = [v for v in figure.x if _known(v)] or [0.0]
    first, last = _range(xs)

    def place(a: float | int, b: float | int) -> tuple[float, float]:
        across, up = (a - first) / (last - first), (b - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT) * across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up

    lines, axis = [], visible(figure.xlabel, _NAME)
    for k, line in enumerate(figure.lines):
        dots, name = [], visible(line.name, _NAME)
        for c, (a, b) in enumerate(zip(figure.x, line.y, strict=True)):
            if _known(a) and _known(b):
                x, y = place(a, b)
                words = f"{name}, {axis} {a:g}: {_point_words(line, c)}"
                dots.append({"row": k, "column": c, "x": f"{x:.1f}", "y": f"{y:.1f}", "text": words})
        band = ""
        if line.low and line.high:
            whole = [
                (a, b, c)
                for a, b, c in zip(figure.x, line.low, line.high, strict=True)
                if _known(a) and _known(b) and _known(c)
            ]
            edge = [place(a, c) for a, _, c in whole] + [place(a, b) for a, b, _ in reversed(whole)]
            band = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        path, pen = "", "M"
        known = {d["column"]: d for d in dots}
        for c in range(len(figure.x)):
            path, pen = (f"{path}{pen}{known[c]['x']} {known[c]['y']}", "L") if c in known else (path, "M")
        lines.append(
            {"name": line.name, "null": line.null, "series": k % 4, "path": path, "band": band, "dots": dots}
        )
    mark = figure.mark if figure.mark is not None and _known(figure.mark) else None
    return {
        "kind": "curves",
        "xlabel": figure.xlabel,
        "ylabel": figure.ylabel,
        "lines": lines,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "xticks": [
            {"at": f"{place(v, low)[0]:.1f}", "text": f"{v:g}"}
            for v in _ticks(first, last, whole=all(float(v).is_integer() for v in xs))
        ],
        "yticks": [{"at": f"{place(first, v)[1]:.1f}", "text": f"{v:.3g}"} for v in _ticks(low, high)],
        "mark": None if mark is None else f"{place(mark, low)[0]:.1f}",
        "marked": "" if mark is None else f"{mark:g}",
        "zero": f"{place(first, 0.0)[1]:.1f}",
    }


def _range(values: Sequence[float | int]) -> tuple[float, float]:
    """Least and greatest; further apart where all are the same."""
    low, high = float(min(values)), float(max(values))
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def _point_words(line: Line, c: int) -> str:
    text = f"{line.y[c]:.3g}"
    if line.low and line.high and _known(line.low[c]) and _known(line.high[c]):
        text += f" [{line.low[c]:.3g}, {line.high[c]:.3g}]"
    return text


def _ticks(low: float | int, high: float | int, *, whole: bool = False) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / TICKS
    if not math.isfinite(rough) or rough <= 1e-300:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((s * power for s in (1, 2, 5, 10) if s * power >= rough), 10 * power)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, min(last, first + 3 * TICKS) + 1)]


def _token_view(figure: TokenMap) -> dict[str, Any]:
    """Tokens with their shade, on one scale; and the strongest of each text for a table."""
    given = figure.limit is not None and _known(figure.limit) and figure.limit > 0
    limit = float(figure.limit or 0) if given else _limit([v for row in figure.rows for v in row.values])
    mark, rows = visible(figure.mark_name, _NAME), []
    for r, row in enumerate(figure.rows):
        tokens, marked = [], set(row.marked)
        for c, (token, value) in enumerate(zip(row.tokens, row.values, strict=True)):
            # In classes: a shade of its own for every value would need inline styles, which the policy forbids.
            shade = round(SHADES * min(1.0, abs(value) / limit)) if math.isfinite(value) else 0
            tokens.append(
                {
                    "row": r,
                    "column": c,
                    "text": token,
                    "sign": _sign(value),
                    "shade": shade,
                    "words": f"{_token_words(figure, value)}{f', in {mark}' if mark and c in marked else ''}",
                    "marked": c in marked,
                }
            )
        listed = [{"text": row.tokens[i], "words": f"{row.values[i]:.3g}"} for i in row.strongest(STRONGEST)]
        total = f"{row.on_marked:.3g}" if marked and math.isfinite(row.on_marked) else ""
        rows.append({"label": row.label, "tokens": tokens, "listed": listed, "on_marked": total})
    signs = {t["sign"] for row in rows for t in row["tokens"]}
    return {
        "kind": "tokens",
        "unit": figure.unit,
        "limit": f"{limit:.3g}",
        "beyond": given,
        "rows": rows,
        "negative": "neg" in signs,
        "mark": figure.mark_name if any(row.marked for row in figure.rows) else "",
    }


def _token_words(figure: TokenMap, value: float | int) -> str:
    return f"{value:.3g} {visible(figure.unit, _NAME)}".strip() if math.isfinite(value) else "no value"


def _limit(values: Sequence[float | int]) -> float:
    return max((abs(float(v)) for v in values if math.isfinite(v)), default=0.0) or 1.0


def _sign(value: float | int) -> str:
    return "none" if not math.isfinite(value) else "pos" if value >= 0 else "neg"


def _share(value: float | int, limit: float) -> str:
    return f"{min(1.0, abs(value) / limit):.2f}" if math.isfinite(value) else "0"


def _signed(value: float | int) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _known(value: float | int) -> bool:
    return math.isfinite(value) and abs(value) < _LARGEST
