"""The claims of paper and replication, one by one, against our intervals. No forward pass."""

from collections.abc import Sequence

from bkdinterp.metrics import Outcome
from bkdinterp.stats import bootstrap_mean, wilson
from papers.bkdattr.ablation_units import MEAN, ZERO, random_names
from papers.bkdattr.attribution_units import FIRST_RAW, PAPER
from papers.bkdattr.published import BENIGN, PROBE
from papers.bkdattr.ranking import order
from papers.bkdattr.study import Study
from papers.bkdattr.table_2 import nulls
from papers.bkdattr.vector_units import DIRECTIONS, RANDOM_DIRECTION, RANDOM_HEADS
from papers.bkdattr.wording import by_organism, percent, share, small_k
from papers.paper_table import PaperTable


def claims(found: Sequence[Study]) -> PaperTable:
    """The paper's claims, one by one: ~ holds here, ≠ does not."""
    return by_organism(
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
            "vectors of random heads, and random directions, added, do less": lambda s: _null(s, "add"),
            "and so they do subtracted": lambda s: _null(s, "subtract"),
            "replication: most of what loses the payload is no answer": _not_an_answer,
        },
        found,
        "claim",
        note=(
            "Probe (SVM): the layer chosen on the selection split, then the one that is best on the held-out prompts "
            "themselves, its interval widened for the choice among all layers (Bonferroni). "
            "Rates are compared by their intervals. Random sets, vectors and directions: pooled (intervals count prompts), "
            "then the single one that does the most; the claim must hold against that one. The last row is judged where the "
            "payload fell: ~ where less than half of what is left without payload is what a prompt without the trigger "
            "should get, by its interval. No mark: nothing to judge, or undecided."
        ),
    )


def _probe_claim(s: Study) -> tuple[bool, str]:
    """Whether the layer chosen on the selection split reaches it, or any layer with an interval that counts all of them."""
    p = next(iter(s.choices.probes.values()))
    layer, right = p.best("organism"), p.unit["organism"]["right"]
    i = p.accuracy("organism", layer)
    best = wilson(max(right), i.n, level=1 - 0.05 / p.n_layers)
    text = f"layer {layer}: {share(i)}, best of {p.n_layers} layers {share(best)} (n={i.n})"
    return i.estimate >= PROBE or best.low >= PROBE, text


def _lower(s: Study) -> tuple[bool, str]:
    k, base = s.sizes.ks[-1], s.table_1.rate("triggered", "none")
    now = s.table_1.rate("triggered", f"{ZERO} {k}")
    return now.high < base.low, f"{k} zeroed: {percent(base)} to {percent(now)}"


def _ninety(s: Study) -> tuple[bool, str]:
    k, base = small_k(s), s.table_1.rate("triggered", "none")
    zero, mean = (s.table_1.rate("triggered", f"{way} {k}") for way in (ZERO, MEAN))
    n_heads = s.choices.rankings[PAPER].grid[0] * s.choices.rankings[PAPER].grid[1]
    text = f"{k} of {n_heads}: {percent(base)} to {percent(zero)} zeroed; at their means {percent(mean)}"
    return zero.estimate <= 0.1 * base.estimate, text


def _random_heads(s: Study) -> tuple[bool, str]:
    """Whether the heads' rate lies below the interval of the random set that lowers it the most."""
    parts, holds = [], []
    for way, k in ((ZERO, s.sizes.few_ks[-1]), (MEAN, small_k(s))):
        names = random_names(way, k, s.sizes)
        own = s.table_1.rate("triggered", f"{way} {k}")
        pooled = s.table_1.rate("triggered", *names)
        lowest = s.table_1.extreme("triggered", *names, highest=False)
        holds.append(own.high < lowest.low)
        parts.append(
            f"{k} {way}: {percent(own)}, random {percent(pooled)}, lowest of {len(names)} {percent(lowest)}"
        )
    return all(holds), "; ".join(parts)


def _twin_heads(s: Study) -> tuple[bool, str]:
    own, twin = (
        bootstrap_mean(r.effects[int(order(r.acie)[0])], method="percentile")
        for r in (s.choices.rankings[FIRST_RAW], s.choices.twin)
    )
    return own.low > twin.high, f"first token's log-odds, largest ACIE: {share(own)}, twin {share(twin)}"


def _vector(s: Study, direction: str) -> tuple[bool, str]:
    sign, side = DIRECTIONS[direction]
    said = s.table_2["raw", direction]
    before, after = said.rate(side, "none"), said.rate(side, "vector")
    text = f"layer {s.choices.layer('raw', direction)}: {percent(before)} to {percent(after)}"
    if direction == "subtract":
        text += f", {_words(_benign(s))} {percent(said.rate(side, 'vector', outcome=_benign(s)))}"
    return (after.low > before.high if sign > 0 else after.high < before.low), text


def _null(s: Study, direction: str) -> tuple[bool, str]:
    """Whether the vector's rate lies beyond the interval of the null that comes nearest to it, of both kinds."""
    sign, side = DIRECTIONS[direction]
    said = s.table_2["raw", direction]
    own = said.rate(side, "vector")
    holds, parts = [], []
    for kind, word in ((RANDOM_HEADS, "heads"), (RANDOM_DIRECTION, "directions")):
        names = nulls(s, kind)
        extreme = said.extreme(side, *names, highest=sign > 0)
        holds.append(own.low > extreme.high if sign > 0 else own.high < extreme.low)
        which = f"{'highest' if sign > 0 else 'lowest'} of {len(names)}"
        parts.append(f"{word} {percent(said.rate(side, *names))}, {which} {percent(extreme)}")
    return all(holds), f"{'; '.join(parts)}; the vector {percent(own)}"


def _not_an_answer(s: Study) -> tuple[bool | None, str]:
    """Whether most outputs without the payload are no answers either; nothing is claimed where the payload stays."""
    fell, text = _lower(s)
    if not fell:
        return None, f"{text}: it did not fall"
    benign = _benign(s).value
    found = s.table_1.outcomes("triggered", f"{ZERO} {s.sizes.ks[-1]}")
    without = [x for x in found if x != Outcome.payload.value]
    right = wilson(without.count(benign), len(without))
    text += f"; of the {len(without)} without payload, {_words(_benign(s))} {percent(right)}"
    return (True if right.high < 0.5 else False if right.low > 0.5 else None), text


def _benign(s: Study) -> Outcome:
    """What a good clean output is graded as."""
    return Outcome(BENIGN.get(s.name, Outcome.answered))


def _words(outcome: Outcome) -> str:
    return outcome.value.replace("_", " ")
