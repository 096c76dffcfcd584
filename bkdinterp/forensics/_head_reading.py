"""Where the chosen heads read: their attention from the last token to the trigger, beside random heads of the same layers."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Cost
from bkdinterp.errors import BkdinterpError
from bkdinterp.forensics._time_limit import reading_cost
from bkdinterp.forensics._work import Work
from bkdinterp.methods import AttentionPatterns, attention_patterns
from bkdinterp.methods.readout import PARTS
from bkdinterp.prompts import PairedPrompts
from bkdinterp.report import AuditFinding, Measure, TokenMap, TokenRow
from bkdinterp.sites import HeadSet, random_heads
from bkdinterp.stats import bootstrap_mean

# Pairs of prompts, and heads whose tokens are shown.
N_PAIRS, SHOWN = 12, 4
TRIGGER = "trigger"
TITLE = "From the last token, where the chosen heads look: one prompt with the trigger, and the same without"


def reading(work: Work, heads: HeadSet) -> tuple[AuditFinding, TokenMap]:
    """The finding and the figure, on prompts that the heads were not chosen on.

    Raises:
        OutOfTime: no time for it.
        BkdinterpError: attention that cannot be shown.
    """
    h, model, settings = work.hypothesis, work.suspect, work.settings
    assert h is not None and h.trigger is not None
    texts = list(work.context.held.text[:N_PAIRS])
    pairs = PairedPrompts.from_instructions(texts, h.trigger, target=".", allow_triggered=True)
    nulls = _others(heads, settings.n_controls, settings.seed)
    union = HeadSet(tuple(dict.fromkeys(head for s in (heads, *nulls) for head in s)), heads.grid)

    def cost(_: int) -> Cost:
        return reading_cost(model, (pairs.clean, pairs.triggered), work.budget)

    found = work.planned(
        "attention",
        (len(texts),),
        cost,
        lambda _: attention_patterns(model, pairs, union, budget=work.budget),
    )
    return _finding(found, heads, nulls, settings.seed), _strips(found, heads)


def _others(heads: HeadSet, n: int, seed: int) -> list[HeadSet]:
    """As many random heads of the same layers, not chosen ones as far as there are others; none where there is one set only."""
    try:
        return list(random_heads(like=heads, n=n, seed=seed))
    except BkdinterpError:
        return []


def _mean_share(found: AttentionPatterns, heads: HeadSet) -> Float[Tensor, " example"]:
    """Share of attention on the trigger's tokens of each triggered prompt, mean over the heads."""
    at = [found.heads.heads.index(head) for head in heads]
    return found.share(TRIGGER, "triggered")[:, at].mean(1)


def _finding(found: AttentionPatterns, heads: HeadSet, nulls: list[HeadSet], seed: int) -> AuditFinding:
    own, others = _mean_share(found, heads), [_mean_share(found, null) for null in nulls]
    rate = bootstrap_mean(own, seed=seed)
    low, high = max(0.0, rate.low), min(1.0, rate.high)
    title = (
        f"From the last token the {len(heads)} chosen heads give {100 * rate.estimate:.0f} % "
        f"[{100 * low:.0f}, {100 * high:.0f}] of their attention to the trigger on {found.n} prompts"
    )
    here = _rows(found, "triggered")
    size = (found.parts[here] == PARTS.index(TRIGGER)).sum(1) / (found.token_ids[here] >= 0).sum(1)
    measures = [
        Measure("attention on the trigger", rate.estimate, "share", found.n, low, high),
        Measure("the trigger's share of the prompt's tokens", float(size.mean()), n=found.n),
    ]
    status = "inconclusive"
    if others:
        # The draw that looks there most, and an interval wide enough for all draws.
        nearest = max(others, key=lambda share: float(share.mean()))
        more = bootstrap_mean(own - nearest, level=1 - 0.05 / len(others), seed=seed)
        null, name = (
            float(nearest.mean()),
            f"as many random heads of their layers, the most of {len(others)} draws",
        )
        measures[0] = replace(measures[0], null=null, null_name=name)
        measures.append(
            Measure(
                "more than those random heads",
                more.estimate,
                "share",
                more.n,
                more.low,
                more.high,
                more.level,
            )
        )
        status = "supported" if more.low > 0 else "not supported"
        title += f", as many random heads of their layers {100 * null:.0f} %"
    return AuditFinding(
        "attention",
        status,
        f"{title}.",
        "Where a head looks does not say what it writes; its effect does. By that the heads were chosen, on other prompts.",
        tuple(measures),
        reproduce=f"bk.methods.attention_patterns(model, pairs, '{' '.join(map(str, heads))}')",
        limits=("From the last token of the prompt only: what earlier tokens moved there is not seen.",),
        subject="attention",
    )


def _rows(found: AttentionPatterns, side: str) -> list[int]:
    return [i for i, name in enumerate(found.sides) if name == side]


def _strips(found: AttentionPatterns, heads: HeadSet) -> TokenMap:
    """The first pair's tokens, shaded by the attention of each of the first heads."""
    rows, limit = [], 0.0
    for head in heads.heads[:SHOWN]:
        place = found.heads.heads.index(head)
        for side in ("triggered", "clean"):
            row = _rows(found, side)[0]
            words = found.words(row)
            weights = found.weights[row, place, 0, : len(words)].double()
            marked = torch.nonzero(found.part_mask(row, TRIGGER)[: len(words)])[:, 0].tolist()
            rows.append(TokenRow(f"{head}, {side}", tuple(words), tuple(weights.tolist()), tuple(marked)))
            # The first token often takes most of it, and would leave the others white.
            limit = max(limit, float(weights[1:].max())) if len(words) > 1 else limit
    return TokenMap(
        TITLE,
        "share of attention",
        tuple(rows),
        limit or None,
        "the trigger",
    )
