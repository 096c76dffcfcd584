"""Primitives lower to the affine edits of the design's table; nothing here needs a model."""

import pytest
import torch

from bkdinterp.errors import SiteError
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
    Stack,
    Steer,
    ZeroAblate,
    as_sites,
    derangement,
)
from bkdinterp.sites import Component, HeadId, HeadSet, Site, Where

MLP = Site.parse("L1.mlp_out")
TRIGGER = Where("trigger", generated=True)


def unchecked(cls, **fields):
    """The class's own checks alone: the tests' type checker would refuse wrong shapes before them."""
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    made.__post_init__()


def applied(edit, x, read=None):
    """The design's formula, by hand: keep * x + value + U V^T read on [d]."""
    out = edit.keep * x
    if edit.value is not None:
        out = out + edit.value
    if edit.read is not None:
        out = out + edit.U @ (edit.V.T @ read)
    return out


X = torch.tensor([1.0, -2.0, 3.0, 0.5]).double()


def test_zero():
    first, second = ZeroAblate("L1H2 L0.mlp_out", where=TRIGGER).lower()
    assert (first.site, second.site) == (Site(1, Component.z, 2), Site(0, Component.mlp_out))
    assert first.where == second.where == TRIGGER
    assert torch.equal(applied(first, X), torch.zeros(4).double())


def test_mean():
    mean = torch.arange(4.0).double()
    (edit,) = MeanAblate(MLP, {MLP: mean}).lower()
    assert (edit.keep, edit.read, edit.where) == (0, None, Where("last"))
    assert torch.equal(applied(edit, X), mean)


def test_steer():
    v = torch.ones(4).double()
    (edit,) = Steer(MLP, v, coeff=-2.5, where=TRIGGER).lower()
    assert (edit.keep, edit.where) == (1, TRIGGER)
    assert torch.equal(applied(edit, X), X - 2.5)
    assert torch.equal(v, torch.ones(4).double())
    assert torch.equal(applied(Steer(MLP, v, coeff=0.0).lower()[0], X), X)


def test_patch_with_values():
    value = torch.randn(3, 4)
    (edit,) = Patch(MLP, {MLP: value}).lower()
    assert edit.keep == 0
    assert torch.equal(edit.value, value)


def test_patch_from_a_run():
    class Source:
        prompts = object()

    source = Source()
    (edit,) = Patch("L1H2", source, where=TRIGGER).lower()
    assert isinstance(edit.value, From)
    assert edit.value.run is source
    assert edit.value.scale == 1.0
    assert edit.value.read == Read(Site.parse("L1H2"), TRIGGER)


def test_resample_takes_another_examples_value_and_the_same_one_everywhere():
    a = torch.arange(5.0)[:, None].expand(5, 4)
    b = 10 + a
    sites = [MLP, Site.parse("L2H1")]
    first, second = ResampleAblate(sites, {sites[0]: a, sites[1]: b}, seed=3).lower()
    assert first.keep == 0
    assert not (first.value == a).any()
    assert torch.equal(first.value + 10, second.value)
    assert sorted(first.value[:, 0].tolist()) == a[:, 0].tolist()
    (other,) = ResampleAblate(MLP, {MLP: a}, seed=4).lower()
    assert not torch.equal(first.value, other.value)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 50])
def test_derangement_has_no_fixed_point(n):
    for seed in range(30):
        order = derangement(n, seed=seed)
        assert sorted(order.tolist()) == list(range(n))
        assert not (order == torch.arange(n)).any()
        assert torch.equal(order, derangement(n, seed=seed))
    if n > 3:
        assert len({tuple(derangement(n, seed=s).tolist()) for s in range(30)}) > 3


def test_cached_is_one_addition_per_layer():
    low, high = CachedAblate("L3H0 L1H2 L1H0", where=Where("all")).lower()
    assert (low.site, high.site) == (Site(1, Component.attn_proj), Site(3, Component.attn_proj))
    for edit, heads in ((low, (0, 2)), (high, (0,))):
        assert (edit.keep, edit.where) == (1, Where("all"))
        assert edit.value.run is BASE
        assert edit.value.scale == -1.0
        assert edit.value.read.heads == heads
        assert edit.value.read.reduce is None


def test_apply_keeps_the_function():
    def double(x):
        return 2 * x

    (edit,) = Apply(MLP, fn=double).lower()
    assert edit.fn is double


# --- PCP: Eq. 1 of arXiv 2302.12461 ---------------------------------------------------------------------------


def pcp(rank=3, d=8):
    basis = torch.linalg.qr(
        torch.randn(d, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0].T
    factors = torch.tensor([2.0, -0.5, 1.25], dtype=torch.float64)[:rank]
    return basis, factors


def test_pcp_is_a_symmetric_matrix_with_these_eigenpairs():
    basis, factors = pcp()
    (edit,) = PCPReplace(MLP, basis, factors).lower()
    matrix = edit.U @ edit.V.T
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-14)
    assert torch.linalg.matrix_rank(matrix) == 3
    for direction, factor in zip(basis, factors, strict=True):
        torch.testing.assert_close(matrix @ direction, factor * direction, rtol=1e-12, atol=1e-14)
    # What is orthogonal to the directions is dropped.
    away = torch.linalg.qr(torch.cat([basis.T, torch.randn(8, 1).double()], 1))[0][:, -1]
    assert (matrix @ away).abs().max() < 1e-12
    assert torch.equal(
        applied(edit, torch.randn(8).double(), torch.zeros(8).double()), torch.zeros(8).double()
    )


def test_pcp_reads_the_modules_own_input_everywhere():
    basis, factors = pcp()
    (mlp,) = PCPReplace(MLP, basis, factors).lower()
    (attn,) = PCPReplace("L2.attn_out", basis, factors).lower()
    assert (mlp.read, attn.read) == (Component.mlp_in, Component.attn_in)
    assert mlp.where == Where("all", generated=True)
    assert mlp.keep == attn.keep == 0


def test_pcp_that_cannot_be():
    basis, factors = pcp()
    with pytest.raises(SiteError, match="mlp_out or attn_out"):
        PCPReplace("L1.resid_mid", basis, factors)
    with pytest.raises(SiteError, match=r"\(3, 8\) and \(2,\)"):
        unchecked(PCPReplace, site=MLP, directions=basis, factors=factors[:2], where=Where("all"))


# --- edits and stacks -----------------------------------------------------------------------------------------


def test_edits_that_cannot_be():
    u, v = torch.ones(4, 2), torch.ones(4, 2)
    with pytest.raises(SiteError, match="go together"):
        Edit(MLP, read=Component.mlp_in, U=u)
    with pytest.raises(SiteError, match="go together"):
        Edit(MLP, U=u, V=v)
    for late in (Component.mlp_out, Component.resid_post):
        with pytest.raises(SiteError, match="computed later"):
            Edit(MLP, read=late, U=u, V=v)
    with pytest.raises(SiteError, match="U has rank 2 but V has rank 3"):
        unchecked(Edit, site=MLP, keep=1, value=None, read=Component.mlp_in, U=u, V=torch.ones(4, 3), fn=None)
    for keep in (float("nan"), float("inf"), True, "0", None):
        with pytest.raises(SiteError, match=r"Edit\.keep="):
            Edit(MLP, keep=keep)
    with pytest.raises(SiteError, match=r"shape \(\)"):
        Edit(MLP, value=torch.tensor(1.0))
    with pytest.raises(SiteError, match="attn_proj"):
        Read(MLP, heads=(1,))


def test_missing_values_say_how_to_get_them():
    with pytest.raises(SiteError, match=r"L1\.mlp_out.*Means\.collect"):
        MeanAblate(MLP, {}).lower()
    with pytest.raises(SiteError, match=r"mean of shape \[d\].*\(2, 4\)"):
        MeanAblate(MLP, {MLP: torch.ones(2, 4)}).lower()
    with pytest.raises(SiteError, match="two examples"):
        ResampleAblate(MLP, {MLP: torch.ones(4)}).lower()


@pytest.mark.parametrize(
    "spelling",
    [
        "L1H2, L0.mlp_out",
        "L1H2 L0.mlp_out",
        [HeadId(1, 2), Site.parse("L0.mlp_out")],
        ["L1H2", "L0.mlp_out", "L1H2"],
    ],
    ids=["commas", "spaces", "objects", "repeated"],
)
def test_spellings_of_sites(spelling):
    assert [str(s) for s in as_sites(spelling)] == ["L1H2", "L0.mlp_out"]


def test_a_head_set_and_a_single_site():
    assert as_sites(HeadSet.of("L1H2 L0H0")) == (Site.parse("L1H2"), Site.parse("L0H0"))
    assert as_sites(HeadId(1, 2)) == as_sites(Site(1, Component.z, 2)) == (Site.parse("L1H2"),)
    with pytest.raises(SiteError):
        as_sites("L1H2 and L2H3")


def test_stacks_flatten_sums_and_keep_orders():
    a, b, c = ZeroAblate("L0H0"), ZeroAblate("L1H0"), ZeroAblate("L2H0")
    assert ((a + b) + c).items == (a + (b + c)).items == (a, b, c)
    assert str(a + b) == f"{a} + {b}"
    ordered = a.then(Steer("L0H0", torch.ones(2)))
    assert ordered.ordered
    assert [e.keep for e in ordered.lower()] == [0, 1]
    assert " then " in str(ordered)
    assert [str(e.site) for e in (ordered + b).lower()] == ["L0H0", "L0H0", "L1H0"]
    assert len(ordered + b) == 2
    assert str(Stack()) == "unedited"
    with pytest.raises(TypeError):
        a + 1


def test_descriptions_name_sites_and_positions():
    assert str(ZeroAblate("L0H0 L0H1", where=TRIGGER)) == "ZeroAblate(L0H0, L0H1 @ trigger+generated)"
    assert "5 sites" in str(ZeroAblate("L0H0 L0H1 L0H2 L0H3 L1H0"))
    assert str(Steer(MLP, torch.ones(4), coeff=-0.5)) == "Steer(L1.mlp_out, coeff=-0.5 @ last)"
    assert str(CachedAblate("L0H0 L1H1")) == "CachedAblate(2 heads @ last)"
    assert str(PCPReplace(MLP, *pcp())) == "PCPReplace(L1.mlp_out, rank 3)"
