"""Figures of a report as places and numbers for its SVG templates: head maps, curves, shaded tokens. Pure arithmetic."""

import math
from collections.abc import Sequence
from typing import Any

from bkdinterp.report._evidence import Curves, HeadMap, TokenMap

# Of a head map's cell, and of a chart, in SVG units.
CELL, GAP = 20, 2
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 260, 62, 14, 12, 40
TICKS = 5


def head_view(figure: HeadMap, name: str) -> dict[str, Any]:
    """Cells of every model on one scale, symmetric around zero."""
    values = [v for grid in figure.effects for row in grid for v in row if math.isfinite(v)]
    limit = max((abs(v) for v in values), default=0.0) or 1.0
    chosen = set(figure.chosen)
    panels = []
    for m, (model, grid) in enumerate(zip(figure.models, figure.effects, strict=False)):
        order = sorted(
            ((v, i, j) for i, row in enumerate(grid) for j, v in enumerate(row) if math.isfinite(v)),
            reverse=True,
        )
        rank = {(i, j): k + 1 for k, (_, i, j) in enumerate(order)}
        cells = []
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                low, high = (_at(ends, m, i, j) for ends in (figure.low, figure.high))
                cells.append(
                    {
                        "layer": i,
                        "head": j,
                        "x": i * (CELL + GAP),
                        "y": j * (CELL + GAP),
                        "sign": "none" if not math.isfinite(value) else "pos" if value >= 0 else "neg",
                        "opacity": f"{min(1.0, abs(value) / limit):.3f}" if math.isfinite(value) else "0",
                        "rank": rank.get((i, j), 10**6),
                        "chosen": m == 0 and (i, j) in chosen,
                        "text": _head_text(model, i, j, value, low, high, figure),
                    }
                )
        n_layers, n_heads = len(grid), max((len(row) for row in grid), default=0)
        panels.append(
            {
                "model": model,
                "cells": cells,
                "width": n_layers * (CELL + GAP),
                "height": n_heads * (CELL + GAP),
                "n_layers": n_layers,
                "n_heads": n_heads,
            }
        )
    return {
        "kind": "heads",
        "name": name,
        "title": figure.title,
        "unit": figure.unit,
        "n": figure.n,
        "limit": f"{limit:.3g}",
        "panels": panels,
        "most": min(64, max((len(p["cells"]) for p in panels), default=1)),
        "k": max(1, len(chosen)),
        "cell": CELL,
    }


def _at(grids: Sequence[Any], m: int, i: int, j: int) -> float | None:
    try:
        value = grids[m][i][j]
    except IndexError:
        return None
    return value if math.isfinite(value) else None


def _head_text(
    model: str, i: int, j: int, value: float, low: float | None, high: float | None, figure: HeadMap
) -> str:
    if not math.isfinite(value):
        return f"{model}, layer {i}, head {j}: not scored"
    ends = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{model}, layer {i}, head {j}: {value:.3g}{ends} {figure.unit}, n={figure.n}"


def chart_view(figure: Curves, name: str) -> dict[str, Any]:
    """Lines, bands and axes; points without a value interrupt a line."""
    ys = [
        v for line in figure.lines for part in (line.y, line.low, line.high) for v in part if math.isfinite(v)
    ]
    low, high = (min([*ys, 0.0]), max([*ys, 0.0])) if ys else (0.0, 1.0)
    high = high if high > low else low + 1.0
    xs = [v for v in figure.x if math.isfinite(v)] or [0.0]
    first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1.0

    def x(v: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (v - first) / (last - first)

    def y(v: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - v) / (high - low)

    lines = []
    for k, line in enumerate(figure.lines):
        points = [
            (x(a), y(b), a, b)
            for a, b in zip(figure.x, line.y, strict=False)
            if math.isfinite(a) and math.isfinite(b)
        ]
        band = ""
        if len(line.low) == len(line.high) == len(figure.x):
            edge = [(x(a), y(b)) for a, b in zip(figure.x, line.high, strict=True) if math.isfinite(b)]
            edge += [
                (x(a), y(b)) for a, b in list(zip(figure.x, line.low, strict=True))[::-1] if math.isfinite(b)
            ]
            band = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
        lines.append(
            {
                "name": line.name,
                "null": line.null,
                "series": k % 4,
                "points": " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in points),
                "band": band,
                "dots": [
                    {"x": f"{a:.1f}", "y": f"{b:.1f}", "text": f"{line.name}, {figure.xlabel} {u:g}: {v:.3g}"}
                    for a, b, u, v in points
                ],
            }
        )
    return {
        "kind": "curves",
        "name": name,
        "title": figure.title,
        "xlabel": figure.xlabel,
        "ylabel": figure.ylabel,
        "lines": lines,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "xticks": [{"at": f"{x(v):.1f}", "text": f"{v:g}"} for v in _ticks(first, last, whole=True)],
        "yticks": [{"at": f"{y(v):.1f}", "text": f"{v:.3g}"} for v in _ticks(low, high)],
        "mark": None if figure.mark is None or not math.isfinite(figure.mark) else f"{x(figure.mark):.1f}",
        "marked": "" if figure.mark is None else f"{figure.mark:g}",
        "zero": f"{y(0.0):.1f}",
    }


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / TICKS
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    if whole:
        step = max(1.0, step)
    start = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(start, math.floor(high / step + 1e-9) + 1)]


def token_view(figure: TokenMap, name: str) -> dict[str, Any]:
    """Tokens with their shade, on one scale."""
    values = [abs(v) for row in figure.rows for v in row.values if math.isfinite(v)]
    limit = max(values, default=0.0) or 1.0
    rows = []
    for row in figure.rows:
        tokens = []
        for token, value in zip(row.tokens, row.values, strict=False):
            known = math.isfinite(value)
            tokens.append(
                {
                    "text": token or " ",
                    "sign": "none" if not known else "pos" if value >= 0 else "neg",
                    # Ten shades: a style of its own for each value would need inline styles, which the policy forbids.
                    "shade": min(10, round(10 * abs(value) / limit)) if known else 0,
                    "value": f"{value:.3g} {figure.unit}".strip() if known else "no value",
                }
            )
        rows.append({"label": row.label, "tokens": tokens})
    return {
        "kind": "tokens",
        "name": name,
        "title": figure.title,
        "unit": figure.unit,
        "limit": f"{limit:.3g}",
        "rows": rows,
    }
