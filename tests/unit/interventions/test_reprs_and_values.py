"""Edits print in a line, whatever they hold; partial keeps conflict like replacements; NaN is refused when they are made."""

import pytest
import torch

from bkdinterp.errors import SiteConflictError, SiteError
from bkdinterp.interventions import (
    BASE,
    Apply,
    CachedAblate,
    Edit,
    From,
    MeanAblate,
    Patch,
    PCPReplace,
    Read,
    ResampleAblate,
    Scale,
    Stack,
    Steer,
    ZeroAblate,
    lowered,
)
from bkdinterp.sites import Component, Site, Where

MLP = Site.parse("L1.mlp_out")
BIG = torch.ones(5, 400)


def double(x):
    return 2 * x


ALL = {
    "ZeroAblate(L0H1 @ last)": ZeroAblate("L0H1"),
    "Scale(L0H1, L0H2 @ all, factor=0.5)": Scale("L0H1 L0H2", 0.5, where="all"),
    "MeanAblate(L1.mlp_out @ last)": MeanAblate(MLP, {MLP: BIG[0]}),
    "ResampleAblate(L1.mlp_out @ last)": ResampleAblate(MLP, {MLP: BIG}),
    "Patch(L1.mlp_out @ trigger)": Patch(MLP, {MLP: BIG[0]}, where="trigger"),
    "Steer(L1.mlp_out, coeff=-2 @ last)": Steer(MLP, BIG[0], -2),
    "PCPReplace(L1.mlp_out, rank 5)": PCPReplace(MLP, BIG, torch.ones(5)),
    "CachedAblate(1 heads @ last)": CachedAblate("L0H1"),
    "Apply(L1.mlp_out @ last)": Apply(MLP, double),
    "Stack(ZeroAblate(L0H1 @ last), Steer(L1.mlp_out, coeff=1 @ last))": ZeroAblate("L0H1")
    + Steer(MLP, BIG[0]),
    "Stack()": Stack(),
    "Edit(L1.mlp_out @ last, keep=0.5, value=[400])": Edit(MLP, keep=0.5, value=BIG[0]),
    "Edit(L1.mlp_out @ last, keep=1, read=mlp_in through rank 5)": Edit(
        MLP, read=Component.mlp_in, U=BIG.T, V=BIG.T
    ),
    "From(BASE, L1.z @ last, scale=-1)": From(BASE, Read("L1.z"), scale=-1.0),
}


@pytest.mark.parametrize("text", ALL)
def test_reprs_are_one_short_line(text):
    assert repr(ALL[text]) == text


def test_a_large_stack_shows_its_first_items():
    stack = Stack(tuple(ZeroAblate(f"L{i}H0") for i in range(50)))
    assert repr(stack).endswith("... (50 items))") and len(repr(stack)) < 120
    assert len(repr(ZeroAblate([f"L{i}H0" for i in range(50)]))) < 60


def test_scale_lowers_to_a_keep():
    (edit,) = Scale(MLP, 0.5).lower()
    assert (edit.keep, edit.value, edit.site) == (0.5, None, MLP)
    assert Scale(MLP, 0).lower()[0].keep == 0 and type(Scale(MLP, 1).lower()[0].keep) is int
    assert lowered(Scale(MLP, torch.tensor(0.5)))[0].keep == 0.5


def test_a_partial_keep_conflicts_like_a_replacement():
    for keep, conflicts in ((0, True), (0.5, True), (-1.0, True), (1, False), (1.0, False)):
        a, b = Edit(MLP, keep=keep), Edit(MLP, value=BIG[0])
        assert a.conflicts(b) is b.conflicts(a) is conflicts
    with pytest.raises(SiteConflictError, match="State an order"):
        Scale(MLP, 0.5) + Scale(MLP, 0.5)
    assert [e.keep for e in Scale(MLP, 0.5).then(Scale(MLP, 0.5)).lower()] == [0.5, 0.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(bad):
    one, rows, padded = torch.tensor([1.0, bad]), torch.tensor([[1.0, 2.0], [1.0, bad]]), torch.ones(2, 3, 2)
    padded[0, 0, 1] = bad
    for make in (
        lambda: MeanAblate(MLP, {MLP: one}),
        lambda: ResampleAblate(MLP, {MLP: rows}),
        lambda: Patch(MLP, {MLP: one}),
        lambda: Patch(MLP, {MLP: padded}),
        lambda: Steer(MLP, rows),
        lambda: PCPReplace(MLP, rows, torch.ones(2)),
        lambda: Edit(MLP, value=one),
        lambda: Edit(MLP, read=Component.mlp_in, U=rows, V=torch.ones(2, 2)),
    ):
        with pytest.raises(SiteError):
            make()


def test_padding_of_activations_is_no_fault():
    padded = torch.ones(2, 3, 2)
    padded[0, 2] = torch.nan
    assert Patch(MLP, {MLP: padded}, where=Where("all")).lower()[0].value is padded
    ResampleAblate(MLP, {MLP: padded}, where=Where("all"))


def test_no_values_yet():
    for make, fix in (
        (lambda: MeanAblate("L1.z"), r"means=Means\.collect\(model, prompts, 'L1.z'\)"),
        (lambda: ResampleAblate("L1.z"), r"activations=Activations\.collect\(model, prompts, 'L1.z'\)"),
        (lambda: Patch("L1.z"), r"source=Run\(prompts\), or Activations\.collect"),
    ):
        with pytest.raises(SiteError, match=fix):
            make()
