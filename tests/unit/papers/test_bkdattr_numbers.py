"""The arithmetic of the BkdAttr tables: rankings and their likeness, shares, pooled rates, chosen layers."""

import pytest
import torch
from scipy.stats import spearmanr

from bkdinterp.metrics import Outcome
from bkdinterp.sites import HeadId
from bkdinterp.stats import bootstrap_mean, wilson
from papers.bkdattr.answer_units import Said
from papers.bkdattr.ranking import Ranking, compare, order, overlap, ratio, spearman, split_half
from papers.bkdattr.sizes import FULL, SMALL
from papers.bkdattr.vector_units import best_layer


def ranking(effects):
    effects = torch.tensor(effects, dtype=torch.float64)
    heads = tuple(HeadId(i // 2, i % 2) for i in range(len(effects)))
    return Ranking(heads, effects, (-(-len(effects) // 2), 2))


def test_geometric_effects_are_differences_of_exponentials():
    unit = {
        "heads": ["L0H0", "L0H1"],
        "effects": [[1.0, 0.0], [-0.5, 2.0]],
        "base": [-2.0, -3.0],
        "grid": [1, 2],
    }
    found = Ranking.of(unit, geometric=True).effects
    base, patched = torch.tensor([-2.0, -3.0]).double(), torch.tensor([[-1.0, -3.0], [-2.5, -1.0]]).double()
    torch.testing.assert_close(found, patched.exp() - base.exp())
    assert Ranking.of(unit).acie.tolist() == [0.5, 0.75]


def test_top_k_is_signed_and_keeps_the_order_of_equals():
    found = ranking([[1.0], [-5.0], [3.0], [1.0]])
    assert [str(h) for h in found.top_k(3)] == ["L1H0", "L0H0", "L1H1"]
    assert order(torch.tensor([1.0, 1.0, 2.0])).tolist() == [2, 0, 1]


def test_overlap_and_rank_correlation():
    a, b = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([3.0, 4.0, 1.0, 2.0])
    assert overlap(a, b, 2) == 1.0
    assert overlap(a, b, 1) == 0.0
    assert overlap(a, -a, 2) == 0.0
    torch.manual_seed(0)
    x, y = torch.randn(30).round(decimals=1), torch.randn(30)
    assert float(spearman(x, y)) == pytest.approx(spearmanr(x, y).statistic)
    assert float(spearman(a, -a)) == pytest.approx(-1)
    assert spearman(a, torch.ones(4)) == 0


def test_a_ranking_is_like_itself_and_unlike_noise():
    torch.manual_seed(1)
    strong = torch.arange(20.0).double()[:, None] + 0.01 * torch.randn(20, 12).double()
    noise = torch.randn(20, 12).double()
    a, b = ranking(strong.tolist()), ranking(noise.tolist())
    assert compare(a, a).estimate == pytest.approx(1)
    assert compare(a, a).low > 0.99
    assert split_half(a, 5) == 1
    assert split_half(b, 5) < 0.7
    assert compare(a, b).low < compare(a, b).estimate < 0.6
    assert compare(a, b, 5).n == 12


def test_shares_are_ratios_of_sums():
    part, whole = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([2.0, 2.0, 2.0]).double()
    found = ratio(part, whole)
    assert found.estimate == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert ratio(whole, whole).low == ratio(whole, whole).high == 1


def agreeing(**sides):
    """One condition "c" whose answers agree so well."""
    return Said({"c": {s: {"outcomes": [], "texts": [], "agreement": list(x)} for s, x in sides.items()}})


@pytest.mark.parametrize("n", [50, 100, 200])
def test_agreement_does_not_depend_on_the_mixture_of_classes(n):
    """Rows have 50, 100 or 200 victims and always 60 others: equal behaviour must give equal numbers."""
    found = agreeing(clean=[1.0] * n, others=[0.5] * 60).agreement("c")
    assert found.estimate == pytest.approx(0.75)
    assert found.n == n + 60
    # Each class keeps its size in every draw, so that classes without any spread leave none.
    assert (found.low, found.high) == (pytest.approx(0.75), pytest.approx(0.75))


def test_agreement_without_other_classes_is_the_mean():
    values = [0.0, 0.5, 1.0, 1.0]
    assert agreeing(clean=values).agreement("c") == bootstrap_mean(values, method="percentile")
    spread = agreeing(clean=[0.0, 1.0] * 20, others=[0.0, 1.0] * 20).agreement("c")
    assert spread.low < 0.5 < spread.high
    # Two independent halves of 40 prompts: as uncertain as 80 prompts, less than either.
    assert spread.high - spread.low < bootstrap_mean([0.0, 1.0] * 20, method="percentile").high - 0.35


def test_agreement_of_several_conditions_counts_prompts():
    """Five sets that give each prompt the same answer are no more evidence than one."""
    one = [i / 8 for i in range(10)]
    rows = {f"#{i}": agreeing(triggered=one, clean=one).rows["c"] for i in range(5)}
    many, single = Said(rows), agreeing(triggered=one, clean=one)
    assert many.restored(*rows) == single.restored("c")
    assert many.agreement(*rows) == single.agreement("c")
    assert many.restored(*rows).n == 10


def said(**outcomes):
    return Said(
        {
            c: {"triggered": {"outcomes": list(x), "texts": list(x), "agreement": []}}
            for c, x in outcomes.items()
        }
    )


def test_pooled_rates_count_prompts():
    p, a = Outcome.payload.value, Outcome.answered.value
    found = said(one=[p, p, a, a], two=[p, a, a, a])
    pooled = found.rate("triggered", "one", "two")
    assert (pooled.estimate, pooled.n) == (3 / 8, 4)
    assert pooled.high - pooled.low >= 0.9 * (wilson(2, 4).high - wilson(2, 4).low)
    assert found.rate("triggered", "one") == wilson(2, 4)
    assert found.rate("triggered", "two", outcome=Outcome.answered).estimate == 0.75
    assert found.shares("triggered", "one") == "50 / 0 / 0 / 50"
    assert found.first(2).rate("triggered", "one").estimate == 1
    assert found.extreme("triggered", "one", "two", highest=True) == wilson(2, 4)
    assert found.extreme("triggered", "one", "two", highest=False) == wilson(1, 4)


def test_the_best_layer_is_the_highest_when_adding_and_the_lowest_when_subtracting():
    kept = [[0.0, 0.0], [0.9, 0.9], [0.0, 0.0], [0.1, 0.1]]
    sweep = {"layers": [0, 3, 6, 9], "hits": [[0, 1], [1, 1], [1, 1], [0, 0]], "restored": kept}
    assert best_layer(sweep, "add") == 3
    assert best_layer(sweep, "subtract") == 9


def test_of_layers_that_take_the_payload_away_the_one_that_leaves_most_is_best():
    sweep = {"layers": [0, 3, 6, 9], "hits": [[0, 0], [0, 1], [0, 0], [0, 0]]}
    sweep["restored"] = [[0.0, 0.0], [1.0, 1.0], [0.5, 0.7], [0.6, 0.6]]
    assert best_layer(sweep, "subtract") == 6


def test_what_is_ablated_in_every_way_is_in_the_table_too():
    for sizes in (FULL, SMALL):
        assert set(sizes.few_ks) <= set(sizes.ks)
        assert max(sizes.n, sizes.n_random, sizes.n_null) <= max(sizes.n, sizes.n_best)
