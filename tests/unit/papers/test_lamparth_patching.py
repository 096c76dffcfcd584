"""Table XII from units made by hand: means over seeds, Student's intervals, and every seed beside them."""

import pytest

from bkdinterp.stats import Interval
from papers import Agreement
from papers.lamparth.published import MODULES, TABLE_XII
from papers.lamparth.table_xii import EFFECT, PATCHED, tables_of


def unit(base, effect):
    """Every module has the same effect."""
    values = {"denoising base": base} | {
        f"{way} {m}": e for m in MODULES for way, e in (("denoising", effect), ("noising", -effect))
    }
    return {key: Interval(x, x - 0.01, x + 0.01, 9, "bootstrap").to_dict() for key, x in values.items()}


def test_patched_shares_and_effects_are_means_over_seeds():
    units = [unit(0.9, -0.9), unit(0.8, -0.5), unit(0.7, 0.0)]
    table, seeds = tables_of(units, 3, name="x", n=9, paper=TABLE_XII)
    assert (table.name, seeds.name) == ("x", "x-seeds") and table.over == "3 seeds, 9 prompts each"
    after, effect = table["L2 MLP", PATCHED].ours, table["L2 MLP", EFFECT].ours
    # 0, .3 and .7: t(.975, 2) = 4.3027 makes it wider than a share can be
    assert (after.estimate, after.low, after.high) == (pytest.approx(1 / 3), 0.0, 1.0)
    assert (effect.n, effect.method) == (3, "t") and effect.estimate == pytest.approx(-1.4 / 3)
    assert effect.high - effect.estimate == pytest.approx(4.3027 * 0.45092 / 3**0.5, rel=1e-3)
    assert table["none", PATCHED].ours.estimate == pytest.approx(0.8)
    assert [seeds[f"seed {i}", "L3 MLP"].ours.estimate for i in range(3)] == [-0.9, -0.5, 0.0]
    assert seeds["seed 1", "p+t unpatched"].ours.n == 9


@pytest.mark.parametrize(("effect", "mark"), [(-0.9, Agreement.agrees), (0.0, Agreement.differs)])
def test_a_row_agrees_where_the_patch_lowers_the_share_as_in_the_paper(effect, mark):
    table, _ = tables_of([unit(0.9, effect)] * 2, 3, name="x", n=9, paper=TABLE_XII)
    assert table["L2 MLP", EFFECT].agreement is mark


def test_without_figures_there_are_no_marks_and_one_seed_is_over_prompts():
    table, _ = tables_of([unit(0.9, -0.5)], 2, name="x", n=9, paper={})
    assert not any(table.count().values())
    after = table["L1 MLP", PATCHED].ours
    assert (after.estimate, after.low, after.high) == pytest.approx((0.4, 0.39, 0.41)) and after.n == 9
