"""Figures of attention patterns: shares by part of the prompt, and one prompt's tokens coloured by weight. No forward pass."""

import math
from typing import TYPE_CHECKING, Any

import torch

from bkdinterp.methods.readout._attention_patterns import PARTS, AttentionPatterns
from bkdinterp.plotting import ends, labelled_map, share_bars, token_grid, visible
from bkdinterp.results import caption

if TYPE_CHECKING:
    import matplotlib.figure

PER_LINE = 8  # tokens on a line of a text


def plot_parts(
    found: AttentionPatterns, top: int, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """Shares of each part for the first ``top`` heads, with a bar per side."""
    heads = found.heads.heads[:top]
    parts = [part for part in reversed(PARTS) if any(part in found.parts_of(s) for s in found.names)]
    groups = {
        str(head): {
            part: {s: found.interval(head, part, s) for s in found.names if part in found.parts_of(s)}
            for part in parts
        }
        for head in heads
    }
    n = f"n={found.n}" + (" pairs" if len(found.names) > 1 else "")
    some = "" if len(heads) == len(found.heads) else f"the first {len(heads)} of {len(found.heads)} heads"
    return share_bars(
        groups,
        title=title or caption("Attention by part of the prompt", found.fingerprint, _from(found), n, some),
        xlabel="share of attention, mean over prompts with 95 % interval",
        xlim=ends(limit) or (0, 1),
        ax=ax,
    )


def plot_tokens(
    found: AttentionPatterns, row: int, example: int, head: int, title: str | None, ax: Any, limit: Any
) -> "matplotlib.figure.Figure":
    """One example's tokens; ``row`` is its place in the result, ``example`` its index in its side."""
    words, side = found.words(row), found.sides[row]
    queries = [i for i in found.queries[row].tolist() if i >= 0]
    weights = found.weights[row, head, : len(queries), : len(words)].double()
    name = f"{side} prompt {example}" if len(found.names) > 1 else f"prompt {example}"
    text = title or caption(
        f"Attention of {found.heads.heads[head]} on {name}", found.fingerprint, _from(found)
    )
    if limit is None and len(words) > 1:
        # The first token often takes most of it, and would leave the others white.
        limit = float(weights[:, 1:].max()) or None
    scale: dict[str, Any] = {"title": text, "label": "attention", "limit": limit, "ax": ax}
    marked = found.part_mask(row, "trigger").nonzero().flatten().tolist()
    if len(queries) > 1:
        labels = [f"{i} {visible(word)}" for i, word in enumerate(words)]
        return labelled_map(
            weights,
            rows=[labels[i] for i in queries],
            columns=labels,
            scale="share",
            xlabel="to",
            ylabel="from",
            marked=marked,
            **scale,
        )
    lines = math.ceil(len(words) / PER_LINE)
    cells = torch.full((lines * PER_LINE,), torch.nan, dtype=torch.float64)
    cells[: len(words)] = weights[0]
    shown = [*words, *[""] * (lines * PER_LINE - len(words))]
    return token_grid(
        [shown[i * PER_LINE : (i + 1) * PER_LINE] for i in range(lines)],
        cells.reshape(lines, PER_LINE),
        # Not "from token 8": what attends is one token, which the title names.
        rows=[f"tokens {i * PER_LINE}–{min(len(words), (i + 1) * PER_LINE) - 1}" for i in range(lines)],
        xlabel="the prompt's tokens, line by line",
        marked=[divmod(i, PER_LINE) for i in marked],
        marked_label="the trigger",
        **scale,
    )


def _from(found: AttentionPatterns) -> str:
    """Which tokens attend, in words."""
    named = {"last": "the last token", "all": "all tokens", "trigger": "the trigger's tokens"}
    some = "token" if found.where.single else "tokens"
    return f"from {named.get(str(found.where), f'{some} {found.where}')}"
