"""What attention and MLPs write themselves, as shares of the trigger's effect. No forward pass."""

from collections.abc import Sequence

from papers.bkdattr.attribution_units import FIRST, WHOLE
from papers.bkdattr.module_units import HEADS, PARTS
from papers.bkdattr.study import Study
from papers.paper_table import Cell, PaperTable


def module_shares(found: Sequence[Study]) -> PaperTable:
    """What attention and MLPs write themselves at the last token, as shares of the trigger's effect."""
    cells: dict[tuple[str, str], Cell] = {}
    words = {"noising": "clean prompts", "denoising": "triggered prompts"}
    for s in found:
        for part in ("base", *PARTS):
            row = f"{s.name}, {'nothing' if part == 'base' else part_in_words(s, part)}"
            for direction, prompts in words.items():
                if part != "base":
                    for metric, label in ((FIRST, "first token"), (WHOLE, "whole target")):
                        cells[row, f"{label}, {prompts}"] = Cell(s.modules.share(metric, direction, part))
                cells[row, f"payload rate, {prompts}"] = Cell(s.modules.rate(direction, part))
    columns = [f"{x}, {p}" for x in ("first token", "whole target", "payload rate") for p in words.values()]
    n = len(found[0].modules.unit["hits"]["noising"]["base"])
    return PaperTable.of(
        "bkdattr-modules",
        "All attentions or all MLPs patched from each prompt's partner: share of the trigger's effect, and payload rates",
        cells,
        columns=columns,
        over=f"n={n} held-out pairs",
        corner="organism, patched",
        note=(
            "1 = the whole difference between clean and triggered prompts (log-odds of the first token; mean "
            'log-probability of the target). "Attention": all attn_out the partner\'s, MLPs held; "MLPs": the other way '
            'round; "MLPs, free": attention follows; "attention, free" is 1 by construction, since what the last token '
            "knows of others came through attention. Scores: last prompt token and target tokens; payload rates: the last "
            "prompt token only, before generation."
        ),
    )


def part_in_words(s: Study, part: str) -> str:
    """A patched part, as rows and answers name it."""
    return f"top {s.sizes.k_vector} heads" if part == HEADS else part
