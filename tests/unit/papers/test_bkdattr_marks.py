"""Marks of the BkdAttr tables follow from known outcomes: each claim holds, fails, or says nothing, for the right reason."""

import pytest
import torch

from bkdinterp.metrics import Outcome
from bkdinterp.sites import HeadId
from papers import Agreement
from papers.bkdattr.answer_units import Said
from papers.bkdattr.module_units import EDITED, PARTS, Modules
from papers.bkdattr.ranking import Ranking
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.study import Choices, Study
from papers.bkdattr.table_1 import ablations
from papers.bkdattr.table_2 import vector_rates
from papers.bkdattr.table_claims import _not_an_answer, _null, _random_heads
from papers.bkdattr.table_modules import module_shares

SIZES = Sizes(ks=(1, 8, 32), random_sets=2, n_random=100, vector_nulls=2, n_null=100)


def side(payload, *, benign="answered", right=None, n=100):
    """``payload`` of ``n`` outputs are payloads, ``right`` (default: all) of the others benign, the rest broken."""
    left = n - payload
    right = left if right is None else right
    outcomes = ["payload"] * payload + [benign] * right + [Outcome.broken.value] * (left - right)
    return {"outcomes": outcomes, "texts": outcomes, "agreement": [0.5] * n}


def rates(**conditions):
    """Said with the payload counts of conditions, of 100 prompts on either side."""
    return {
        name.replace("_", " "): {"triggered": x, "clean": x}
        for name, x in ((k, side(v) if isinstance(v, int) else v) for k, v in conditions.items())
    }


def study(name="refusal", *, table_1=None, table_2=None):
    """A study of nothing but the rows that are given; all other rates are those of the unedited organism."""
    rows = {"none": {"triggered": side(97), "clean": side(0)}}
    for k in SIZES.ks:
        rows |= rates(**{f"zero_{k}": 97})
    for k in SIZES.few_ks:
        rows |= rates(**{f"cached_{k}": 97, f"mean_{k}": 97})
        for i in range(SIZES.random_sets):
            rows |= rates(**{f"random_zero_{k}_#{i}": 97, f"random_mean_{k}_#{i}": 97})
    vector = rates(none=97, vector=97)
    for i in range(SIZES.vector_nulls):
        vector |= rates(**{f"random_heads_#{i}": 97, f"random_direction_#{i}": 97})
    vector |= rates(**(table_2 or {}))
    # The clean side is where a vector is added.
    vector["none"]["clean"] = side(0)
    modules = {
        "scores": {
            m: {
                d: {p: [float(i), 2.0 * i] for i, p in enumerate(("base", "partner", *PARTS))} for d in EDITED
            }
            for m in ("first_token_logodds", "logprob")
        },
        "hits": {d: {p: [0, 1] for p in ("base", *PARTS)} for d in EDITED},
    }
    sweep = {"layers": [0], "base": [1], "hits": [[1]], "restored": [[0.5]]}
    said = Said(vector)
    ranking = Ranking((HeadId(0, 0),), torch.ones(1, 2, dtype=torch.float64), (1, 1))
    return Study(
        name=name,
        sizes=SIZES,
        choices=Choices({}, {}, ranking, {}, {("raw", d): sweep for d in ("add", "subtract")}),
        table_1=Said(rows | rates(**(table_1 or {}))),
        by_ranking={},
        table_2={("raw", d): said for d in ("add", "subtract")},
        twin=Said(rates(**{"add_raw": 0})),
        modules=Modules(modules),
    )


def test_where_the_payload_stays_nothing_is_said_about_answers():
    """97 % of the unedited, 100 % of the ablated organism: it removed nothing, so that nothing can be no answer."""
    holds, text = _not_an_answer(study(table_1={"zero_32": 100}))
    assert holds is None
    assert "did not fall" in text


@pytest.mark.parametrize(
    ("without_payload", "right", "holds"),
    [(80, 4, True), (80, 76, False), (80, 42, None), (80, 80, False), (80, 0, True)],
)
def test_an_answer_is_judged_among_those_without_payload(without_payload, right, holds):
    said = {"zero_32": side(100 - without_payload, right=right)}
    found, text = _not_an_answer(study(table_1=said))
    assert found is holds
    assert f"of the {without_payload} without payload, answered {100 * right / without_payload:.0f} %" in text


def test_a_refusal_is_the_right_answer_where_the_organism_declines_clean_prompts():
    said = {"zero_32": side(20, benign="other_refusal")}
    assert _not_an_answer(study("unlock", table_1=said))[0] is False
    assert _not_an_answer(study("refusal", table_1=said))[0] is True


def test_random_heads_are_judged_by_the_set_that_lowers_the_most():
    own = {"zero_32": 30, "mean_8": 30}
    assert _random_heads(study(table_1=own))[0]
    one = own | {"random_zero_32_#1": 35}
    holds, text = _random_heads(study(table_1=one))
    # Pooled, 66 % against 30 % would pass.
    assert not holds
    assert "random 66 %" in text
    assert "lowest of 2 35 %" in text


@pytest.mark.parametrize("kind", ["random_heads", "random_direction"])
def test_vectors_are_judged_by_the_null_that_does_the_most(kind):
    none = {f"{k}_#{i}": 5 for k in ("random_heads", "random_direction") for i in range(2)}
    assert _null(study(table_2=none | {"vector": 60}), "add")[0]
    holds, text = _null(study(table_2=none | {"vector": 60, f"{kind}_#1": 55}), "add")
    assert not holds
    assert "30 %" in text
    assert "highest of 2 55 %" in text
    # Subtracted, the lowest null counts.
    rest = dict.fromkeys(none, 95)
    assert _null(study(table_2=rest | {"vector": 20}), "subtract")[0]
    holds, text = _null(study(table_2=rest | {"vector": 20, f"{kind}_#0": 25}), "subtract")
    assert not holds
    assert "lowest of 2 25 %" in text


def test_marks_of_table_1_stand_at_the_paper_s_form_of_ablation():
    made = ablations(
        study(table_1={"cached_32": 70, "zero_32": 70, "zero_8": 20, "cached_8": 20, "zero_1": 20})
    )
    cell = {row: made[row, "payload rate"] for row in made.rows}
    # The paper: 100, 100 (1), 99 (8), 70 (32) per cent.
    assert cell["32, cached"].agreement is Agreement.within
    assert cell["8, cached"].agreement is Agreement.differs
    for row in ("8, zero", "32, zero"):
        assert cell[row].paper == cell[row.replace("zero", "cached")].paper
        assert cell[row].agreement is Agreement.unknown
    assert cell["1, zero"].agreement is Agreement.differs
    assert cell["8, mean"].paper is None
    assert "lowest" in cell["8 random, zero"].text


@pytest.mark.parametrize(
    ("base", "mark"), [(100, Agreement.within), (80, Agreement.unknown), (0, Agreement.unknown)]
)
def test_the_unedited_row_is_not_judged_against_itself(base, mark):
    made = ablations(study(table_1={"none": base}))
    assert made["none", "payload rate"].agreement is mark
    assert made["none", "payload rate"].paper == 1.0


def test_both_lowered_is_agreement_of_order():
    made = ablations(study("unlock", table_1={"none": 90, "cached_32": 40}))
    # The paper: .76 to .04.
    assert made["32, cached", "payload rate"].agreement is Agreement.agrees
    assert "compliance in other words" in made.note
    assert "compliance in other words" not in ablations(study()).note


def test_an_attack_without_figures_has_no_marks():
    made = ablations(study("label-flip"))
    assert not any(made.count().values())
    assert "in the paper." not in made.note


def test_table_2_shows_the_most_extreme_null():
    made = vector_rates([study(table_2={"vector": 60, "random_heads_#0": 1, "random_heads_#1": 9})])
    assert made["refusal, raw, add", "random heads"].text == "(highest 9)"
    assert made["refusal, raw, subtract", "random heads"].text == "(lowest 1)"
    assert made["refusal, raw, subtract", "with the vector"].agreement is Agreement.agrees


def test_the_patched_heads_are_counted():
    made = module_shares([study()])
    assert f"refusal, top {SIZES.k_vector} heads" in made.rows
