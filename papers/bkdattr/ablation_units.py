"""Table 1: what the organism says with its top heads ablated, by any ranking, and with random heads ablated.

Three ways: set to zero at the last prompt token (the paper's text), the released code's cached subtraction, and the
clean mean at all tokens. Cost: one generation per condition, prompt and side.
"""

from collections.abc import Callable, Mapping, Sequence

from bkdinterp.interventions import CachedAblate, Intervention, MeanAblate, ZeroAblate
from bkdinterp.methods import Means
from bkdinterp.sites import HeadSet, Where, random_heads
from papers.bkdattr.answer_units import SIDES, Said, say, unedited
from papers.bkdattr.attribution_units import PAPER
from papers.bkdattr.ranking import Ranking
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject
from papers.paper import Job

ZERO, CACHED, MEAN = "zero", "cached", "mean"
EVERYWHERE = Where("all", generated=True)


def table_1(job: Job, subject: Subject, sizes: Sizes, ranking: Ranking) -> Said:
    """Conditions ``none``, ``zero 8``, ``random zero 8 #0`` and so on."""
    ways = {
        ZERO: {f"{ZERO} {k}": ranking.top_k(k) for k in sizes.ks},
        CACHED: {f"{CACHED} {k}": ranking.top_k(k) for k in sizes.few_ks},
        MEAN: {f"{MEAN} {k}": ranking.top_k(k) for k in sizes.few_ks},
    }
    found = unedited(job, subject, sizes).first(sizes.n)
    for way, sets in ways.items():
        found |= _ablated(job, subject, sizes, f"ablate-{way}", way, sets, sizes.n)
    for way, ks in random_ks(sizes).items():
        for k in ks:
            sets = dict(zip(random_names(way, k, sizes), random_sets(ranking, k, sizes), strict=True))
            found |= _ablated(job, subject, sizes, f"ablate-{way}-random-{k}", way, sets, sizes.n_random)
    return found


def by_ranking(job: Job, subject: Subject, sizes: Sizes, rankings: Mapping[str, Ranking]) -> dict[str, Said]:
    """The same ablations for the heads of every other ranking: zeroed at each of the few k, mean at the least."""
    found = {}
    for name, ranking in rankings.items():
        if name == PAPER:
            continue
        said = Said({})
        for way, ks in ((ZERO, sizes.few_ks), (MEAN, sizes.few_ks[:1])):
            sets = {f"{way} {k}": ranking.top_k(k) for k in ks}
            # Clean utility of one of them; it depends on how many heads go, hardly on which.
            sides = SIDES if way == MEAN else ("triggered",)
            unit = f"ablate-{way}-by-{_slug(name)}"
            said |= _ablated(job, subject, sizes, unit, way, sets, sizes.n, sides)
        found[name] = said
    return found


def random_ks(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Way -> numbers of heads that random sets are ablated in; means at the fewest only, where they suffice."""
    return {ZERO: sizes.few_ks, MEAN: sizes.few_ks[:1]}


def random_names(way: str, k: int, sizes: Sizes) -> list[str]:
    """Conditions of the random sets."""
    return [f"random {way} {k} #{i}" for i in range(sizes.random_sets)]


def random_sets(ranking: Ranking, k: int, sizes: Sizes) -> list[HeadSet]:
    """Random sets of ``k`` heads, none of them among the top ``k``."""
    return random_heads(like=ranking.top_k(k), n=sizes.random_sets, seed=sizes.seed, match="any")


def _ablated(
    job: Job,
    subject: Subject,
    sizes: Sizes,
    name: str,
    way: str,
    sets: Mapping[str, HeadSet],
    n: int,
    sides: Sequence[str] = SIDES,
) -> Said:
    key = {"way": way, "sets": {c: str(heads) for c, heads in sets.items()}}
    if way == MEAN:
        key["n_means"] = str(sizes.n_means)
    return say(job, subject, sizes, name, key, _edits(subject, sizes, way, sets), n=n, sides=sides)


def _edits(
    subject: Subject, sizes: Sizes, way: str, sets: Mapping[str, HeadSet]
) -> Callable[[], dict[str, Intervention]]:
    def edits() -> dict[str, Intervention]:
        if way == ZERO:
            return {c: ZeroAblate(heads) for c, heads in sets.items()}
        if way == CACHED:
            return {c: CachedAblate(heads) for c, heads in sets.items()}
        union = _union(list(sets.values()))
        clean = subject.selection(sizes.n_means, sizes).clean
        means = Means.collect(subject.organism.model, clean, union, where="all")
        return {c: MeanAblate(heads, means, where=EVERYWHERE) for c, heads in sets.items()}

    return edits


def _union(sets: Sequence[HeadSet]) -> HeadSet:
    whole = sets[0]
    for heads in sets[1:]:
        whole = whole | heads
    return whole


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
