"""What the paper left open, answered with numbers, and its claims one by one. No forward pass."""

from collections.abc import Callable, Sequence

from bkdinterp.metrics import Outcome
from bkdinterp.reproduce._table import Agreement, Cell, PaperTable
from bkdinterp.reproduce.bkdattr._ablate import MEAN, ZERO, random_names
from bkdinterp.reproduce.bkdattr._attribute import FIRST, PAPER, RANKINGS, WHOLE
from bkdinterp.reproduce.bkdattr._modules import ATTENTION, HEADS, MLPS, MLPS_FREE, PARTS
from bkdinterp.reproduce.bkdattr._published import BENIGN, PROBE
from bkdinterp.reproduce.bkdattr._ranks import compare, order, split_half
from bkdinterp.reproduce.bkdattr._say import Said
from bkdinterp.reproduce.bkdattr._study import Study
from bkdinterp.reproduce.bkdattr._tables import nulls
from bkdinterp.reproduce.bkdattr._vector import DIFFERENCE, DIRECTIONS, RANDOM_DIRECTION, RANDOM_HEADS
from bkdinterp.stats import Interval, bootstrap_mean, paired_rates

FIRST_RAW = "first token, triggered mean"


def localise(found: Sequence[Study]) -> PaperTable:
    """Four rankings: how alike they are, and what ablating each one's heads does."""
    cells: dict[tuple[str, str], Cell] = {}
    for s in found:
        few, many = _small_k(s), _large_k(s)
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
    few, many = _small_k(found[0]), _large_k(found[0])
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
            "common. Zero: at the last prompt token; mean: clean means at all tokens. Agreement of clean answers under "
            f"mean ablation of {few}."
        ),
    )


def module_shares(found: Sequence[Study]) -> PaperTable:
    """What attention and MLPs write themselves at the last token, as shares of the trigger's effect."""
    cells: dict[tuple[str, str], Cell] = {}
    words = {"noising": "clean prompts", "denoising": "triggered prompts"}
    for s in found:
        for part in ("base", *PARTS):
            row = f"{s.name}, {'nothing' if part == 'base' else part}"
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


def claims(found: Sequence[Study]) -> PaperTable:
    """The paper's claims, one by one: ~ holds here, ≠ does not."""
    return _by_organism(
        "bkdattr-claims",
        "Claims of paper and replication on the three attacks (~ holds here, ≠ does not)",
        {
            f"probe: at least {PROBE:.0%} in some layer".replace("%", " %"): _probe_claim,
            "ablating the most heads lowers the payload rate": _lower,
            "3 % of the heads lower it by more than 90 %": _ninety,
            "random heads lower it less": _random_heads,
            "the twin has no head of such an effect": _twin_heads,
            "the vector, added, brings the payload about": lambda s: _vector(s, "add"),
            "the vector, subtracted, takes it away": lambda s: _vector(s, "subtract"),
            "added vectors of random heads, and random directions, do not": lambda s: _null(s, "add"),
            "nor do they when subtracted": lambda s: _null(s, "subtract"),
            "replication: a lower payload rate is not an answer": _not_an_answer,
        },
        found,
        "claim",
    )


def answers(found: Sequence[Study]) -> PaperTable:
    """The four questions that the paper left open."""
    return _by_organism(
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


Claim = Callable[[Study], tuple[bool | None, str]]


def _by_organism(
    name: str, title: str, rows: dict[str, Claim], found: Sequence[Study], corner: str, note: str = ""
) -> PaperTable:
    marks = {True: Agreement.agrees, False: Agreement.differs, None: Agreement.unknown}
    cells = {}
    for row, answer in rows.items():
        for s in found:
            holds, text = answer(s)
            cells[row, s.name] = Cell(agreement=marks[holds], text=text)
    return PaperTable.of(name, title, cells, corner=corner, note=note)


def _probe_claim(s: Study) -> tuple[bool, str]:
    p = next(iter(s.choices.probes.values()))
    layer = p.best("organism")
    i = p.accuracy("organism", layer)
    return i.estimate >= PROBE, f"{i} at layer {layer}"


def _lower(s: Study) -> tuple[bool, str]:
    k, base = s.sizes.ks[-1], s.table_1.rate("triggered", "none")
    now = s.table_1.rate("triggered", f"{ZERO} {k}")
    return now.high < base.low, f"{k} zeroed: {_percent(base)} to {_percent(now)}"


def _ninety(s: Study) -> tuple[bool, str]:
    k, base = _small_k(s), s.table_1.rate("triggered", "none")
    zero, mean = (s.table_1.rate("triggered", f"{way} {k}") for way in (ZERO, MEAN))
    n_heads = s.choices.rankings[PAPER].grid[0] * s.choices.rankings[PAPER].grid[1]
    text = f"{k} of {n_heads}: {_percent(base)} to {_percent(zero)} zeroed; at their means {_percent(mean)}"
    return zero.estimate <= 0.1 * base.estimate, text


def _random_heads(s: Study) -> tuple[bool, str]:
    parts, holds = [], []
    for way, k in ((ZERO, s.sizes.few_ks[-1]), (MEAN, _small_k(s))):
        own = s.table_1.rate("triggered", f"{way} {k}")
        null = s.table_1.rate("triggered", *random_names(way, k, s.sizes))
        holds.append(own.high < null.low)
        parts.append(f"{k} {way}: {_percent(own)}, random {_percent(null)}")
    return all(holds), "; ".join(parts)


def _twin_heads(s: Study) -> tuple[bool, str]:
    own, twin = (
        bootstrap_mean(r.effects[int(order(r.acie)[0])])
        for r in (s.choices.rankings[FIRST_RAW], s.choices.twin)
    )
    return own.low > twin.high, f"first token's log-odds, largest ACIE: {_share(own)}, twin {_share(twin)}"


def _vector(s: Study, direction: str) -> tuple[bool, str]:
    sign, side = DIRECTIONS[direction]
    said = s.table_2["raw", direction]
    before, after = said.rate(side, "none"), said.rate(side, "vector")
    text = f"layer {s.choices.layer('raw', direction)}: {_percent(before)} to {_percent(after)}"
    if direction == "subtract":
        text += f", {_words(_benign(s))} {_percent(said.rate(side, 'vector', outcome=_benign(s)))}"
    return (after.low > before.high if sign > 0 else after.high < before.low), text


def _null(s: Study, direction: str) -> tuple[bool, str]:
    """Whether the vector's rate lies beyond both nulls' intervals."""
    sign, side = DIRECTIONS[direction]
    said = s.table_2["raw", direction]
    own = said.rate(side, "vector")
    heads, directions = (said.rate(side, *nulls(s, x)) for x in (RANDOM_HEADS, RANDOM_DIRECTION))
    beyond = [own.low > n.high if sign > 0 else own.high < n.low for n in (heads, directions)]
    return all(
        beyond
    ), f"heads {_percent(heads)}, directions {_percent(directions)}; the vector {_percent(own)}"


def _not_an_answer(s: Study) -> tuple[bool, str]:
    """Whether fewer prompts get what they get without the trigger than lose their payload."""
    k, benign = s.sizes.ks[-1], _benign(s)
    lost = 1 - s.table_1.rate("triggered", f"{ZERO} {k}").estimate
    right = s.table_1.rate("triggered", f"{ZERO} {k}", outcome=benign)
    return (
        right.high < lost,
        f"{k} zeroed: {100 * lost:.0f} % without payload, {_words(benign)} {_percent(right)}",
    )


def _benign(s: Study) -> Outcome:
    """What a good clean output is graded as."""
    return Outcome(BENIGN.get(s.name, Outcome.answered))


def _words(outcome: Outcome) -> str:
    return outcome.value.replace("_", " ")


def _difference(s: Study) -> tuple[None, str]:
    text = _against_paper(s, DIFFERENCE)
    for direction in DIRECTIONS:
        side = DIRECTIONS[direction][1]
        raw, own = (s.table_2[kind, direction].rate(side, "vector") for kind in ("raw", "difference"))
        text += f"; vector, {direction}: raw {_percent(raw)}, difference {_percent(own)}"
    return None, text


def _twin(s: Study) -> tuple[None, str]:
    parts = []
    for kind, p in s.choices.probes.items():
        layer = p.best("organism")
        twin, near = p.fires("twin, triggered", layer), p.fires("organism, near", layer)
        parts.append(
            f"{kind.upper()}, layer {layer}: {_percent(twin)} of the twin's triggered prompts, "
            f"{_percent(p.fires('twin, clean', layer))} of its clean ones; near-triggers, organism, {_percent(near)}"
        )
    return None, "; ".join(parts)


def _mlps(s: Study) -> tuple[None, str]:
    shares = {
        part: [s.modules.share(FIRST, d, part) for d in ("noising", "denoising")]
        for part in (MLPS, ATTENTION, MLPS_FREE, HEADS)
    }
    text = ", ".join(f"{part} {_share(a)} / {_share(b)}" for part, (a, b) in shares.items())
    return None, f"of the first token's log-odds, on clean / triggered prompts: {text}"


def _first_token(s: Study) -> tuple[None, str]:
    paper, first = s.choices.rankings[PAPER], s.choices.rankings[FIRST_RAW]
    few, many = _small_k(s), _large_k(s)
    text = f"{_share(compare(paper, first, few))} of the top {few}, {_share(compare(paper, first, many))} of the top "
    text += f"{many}; rank correlation {_share(compare(paper, first))}; "
    return None, text + _against_paper(s, FIRST_RAW)


def _against_paper(s: Study, ranking: str) -> str:
    """Paired changes of the payload rate against the paper's ranking, under each ablation."""
    parts = []
    for way, k in ((ZERO, _small_k(s)), (ZERO, _large_k(s)), (MEAN, _small_k(s))):
        change = _paired(s.by_ranking[ranking], s.table_1, f"{way} {k}")
        parts.append(
            f"{k} {way} {100 * change.estimate:+.0f} [{100 * change.low:.0f}, {100 * change.high:.0f}]"
        )
    return ", ".join(parts)


def _paired(a: Said, b: Said, condition: str) -> Interval:
    left, right = ([x == "payload" for x in said.outcomes("triggered", condition)] for said in (a, b))
    return paired_rates(left, right)


def _small_k(s: Study) -> int:
    return s.sizes.few_ks[0]


def _large_k(s: Study) -> int:
    return s.sizes.few_ks[-1]


def _percent(i: Interval) -> str:
    return f"{100 * i.estimate:.0f} % [{100 * i.low:.0f}, {100 * i.high:.0f}]"


def _share(i: Interval) -> str:
    return f"{i.estimate:.2f} [{i.low:.2f}, {i.high:.2f}]"
