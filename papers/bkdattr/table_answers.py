"""The four questions that the paper left open, answered with numbers. No forward pass."""

from collections.abc import Sequence

from bkdinterp.stats import Interval, paired_rates
from papers.bkdattr.ablation_units import MEAN, ZERO
from papers.bkdattr.answer_units import Said
from papers.bkdattr.attribution_units import FIRST, FIRST_RAW, PAPER
from papers.bkdattr.module_units import ATTENTION, HEADS, MLPS, MLPS_FREE
from papers.bkdattr.ranking import compare
from papers.bkdattr.study import Study
from papers.bkdattr.table_modules import part_in_words
from papers.bkdattr.vector_units import DIFFERENCE, DIRECTIONS
from papers.bkdattr.wording import by_organism, large_k, percent, share, small_k
from papers.paper_table import PaperTable


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
    text = ", ".join(f"{part_in_words(s, part)} {share(a)} / {share(b)}" for part, (a, b) in shares.items())
    return None, f"of the first token's log-odds, on clean / triggered prompts: {text}"


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
