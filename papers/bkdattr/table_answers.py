"""What the paper left open, answered with numbers. No forward pass."""

from collections.abc import Sequence

from bkdinterp.reproduce._table import Cell, PaperTable
from bkdinterp.reproduce.bkdattr._ablate import MEAN, ZERO
from bkdinterp.reproduce.bkdattr._attribute import FIRST, FIRST_RAW, PAPER, RANKINGS, WHOLE
from bkdinterp.reproduce.bkdattr._modules import ATTENTION, HEADS, MLPS, MLPS_FREE, PARTS
from bkdinterp.reproduce.bkdattr._ranks import compare, split_half
from bkdinterp.reproduce.bkdattr._say import Said
from bkdinterp.reproduce.bkdattr._study import Study
from bkdinterp.reproduce.bkdattr._vector import DIFFERENCE, DIRECTIONS
from bkdinterp.reproduce.bkdattr._wording import by_organism, large_k, percent, share, small_k
from bkdinterp.stats import Interval, paired_rates


def localise(found: Sequence[Study]) -> PaperTable:
    """Four rankings: how alike they are, and what ablating each one's heads does."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        few, many = small_k(s), large_k(s)
        paper = s.choices.rankings[PAPER]
        for name in RANKINGS:
            row, ranking = f"{s.name}, {name}", s.choices.rankings[name]
            said = s.table_1 if name == PAPER else s.by_ranking[name]
            if name != PAPER:
                cells[row, "shared, fewer"] = Cell(compare(paper, ranking, few))
                cells[row, "shared, more"] = Cell(compare(paper, ranking, many))
                cells[row, "rank correlation"] = Cell(compare(paper, ranking))
            cells |= {
                (row, "own halves"): Cell(text=f"{split_half(ranking, few):.2f}"),
                (row, "zero, fewer"): Cell(said.rate("triggered", f"{ZERO} {few}")),
                (row, "zero, more"): Cell(said.rate("triggered", f"{ZERO} {many}")),
                (row, "mean, fewer"): Cell(said.rate("triggered", f"{MEAN} {few}")),
                (row, "agreement"): Cell(said.agreement(f"{MEAN} {few}")),
            }
    few, many = small_k(found[0]), large_k(found[0])
    columns = ["shared, fewer", "shared, more", "rank correlation", "own halves"]
    columns += ["zero, fewer", "zero, more", "mean, fewer", "agreement"]
    shown = [c.replace("fewer", f"{few} heads").replace("more", f"{many} heads") for c in columns]
    renamed = {(r, shown[columns.index(c)]): cell for (r, c), cell in cells.items()}
    return PaperTable.of(
        "bkdattr-rankings",
        "Four rankings of heads: likeness to the paper's, and payload rates with their heads ablated",
        renamed,
        columns=shown,
        over=f"rankings: n={found[0].sizes.n_heads} selection pairs; rates: n={found[0].sizes.n} held-out pairs",
        corner="organism, ranking",
        note=(
            "Shared: share of the top heads that the paper's ranking (whole target, triggered mean) has too; intervals over "
            f'prompts drawn anew for both. "Own halves": share of the top {few} that random halves of the prompts have in '
            "common. Zero: at the last prompt token; mean: clean means at all tokens. Agreement, as in Table 1, of clean "
            f"answers under mean ablation of {few}."
        ),
    )


def module_shares(found: Sequence[Study]) -> PaperTable:
    """What attention and MLPs write themselves at the last token, as shares of the trigger's effect."""
    cells: dict[tuple[str, str], Cell] = {}
    words = {"noising": "clean prompts", "denoising": "triggered prompts"}
    for s in found:
        for part in ("base", *PARTS):
            row = f"{s.name}, {'nothing' if part == 'base' else _shown(s, part)}"
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


def answers(found: Sequence[Study]) -> PaperTable:
    """The four questions that the paper left open."""
    return by_organism(
        "bkdattr-answers",
        "Four questions that the paper left open",
        {
            "Does triggered minus clean localise better than the raw mean?": _difference,
            "Does the organism's probe fire on the twin?": _twin,
            "How much of the effect sits in MLPs?": _mlps,
            "Does first-token scoring choose the same heads as whole-target scoring?": _first_token,
        },
        found,
        "question",
        note="Differences are paired, in points of the payload rate (negative: fewer payloads than with the paper's ranking).",
    )


def _difference(s: Study) -> tuple[None, str]:
    text = _against_paper(s, DIFFERENCE)
    for direction in DIRECTIONS:
        side = DIRECTIONS[direction][1]
        raw, own = (s.table_2[kind, direction].rate(side, "vector") for kind in ("raw", "difference"))
        text += f"; vector, {direction}: raw {percent(raw)}, difference {percent(own)}"
    return None, text


def _twin(s: Study) -> tuple[None, str]:
    parts = []
    for kind, p in s.choices.probes.items():
        layer, late = p.best("organism"), p.late
        shown = ", ".join(
            f"{words} {percent(p.fires(key, layer))}"
            for words, key in (
                ("twin's triggered prompts", "twin, triggered"),
                ("its clean ones", "twin, clean"),
                ("organism's near-triggers", "organism, near"),
            )
        )
        own = p.extreme("organism, triggered", late, highest=False)
        twin, near = (p.extreme(key, late, highest=True) for key in ("twin, triggered", "organism, near"))
        parts.append(
            f"{kind.upper()}, layer {layer}: {shown}; in the last quarter ({late[0]} to {late[-1]}) at most {percent(twin)} "
            f"of the twin's triggered prompts and {percent(near)} of the organism's near-triggers, at least {percent(own)} "
            "of its triggered ones"
        )
    return None, ". ".join(parts)


def _mlps(s: Study) -> tuple[None, str]:
    shares = {
        part: [s.modules.share(FIRST, d, part) for d in ("noising", "denoising")]
        for part in (MLPS, ATTENTION, MLPS_FREE, HEADS)
    }
    text = ", ".join(f"{_shown(s, part)} {share(a)} / {share(b)}" for part, (a, b) in shares.items())
    return None, f"of the first token's log-odds, on clean / triggered prompts: {text}"


def _shown(s: Study, part: str) -> str:
    """A part of `_modules` in words."""
    return f"top {s.sizes.k_vector} heads" if part == HEADS else part


def _first_token(s: Study) -> tuple[None, str]:
    paper, first = s.choices.rankings[PAPER], s.choices.rankings[FIRST_RAW]
    few, many = small_k(s), large_k(s)
    text = f"{share(compare(paper, first, few))} of the top {few}, {share(compare(paper, first, many))} of the top "
    text += f"{many}; rank correlation {share(compare(paper, first))}; "
    return None, text + _against_paper(s, FIRST_RAW)


def _against_paper(s: Study, ranking: str) -> str:
    """Paired changes of the payload rate against the paper's ranking, under each ablation."""
    parts = []
    for way, k in ((ZERO, small_k(s)), (ZERO, large_k(s)), (MEAN, small_k(s))):
        change = _paired(s.by_ranking[ranking], s.table_1, f"{way} {k}")
        parts.append(
            f"{k} {way} {100 * change.estimate:+.0f} [{100 * change.low:.0f}, {100 * change.high:.0f}]"
        )
    return ", ".join(parts)


def _paired(a: Said, b: Said, condition: str) -> Interval:
    left, right = ([x == "payload" for x in said.outcomes("triggered", condition)] for said in (a, b))
    return paired_rates(left, right)
