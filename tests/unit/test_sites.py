"""Addresses: parsing, order, overlap; head sets and their nulls; positions."""

import pytest

from bkdinterp.errors import BkdinterpError, SiteError
from bkdinterp.sites import Component, HeadId, HeadSet, Site, Where, random_heads


def heads(text, grid=None):
    return HeadSet.of(text, grid)


# --- sites ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", list(Component))
def test_a_site_reads_what_it_writes(component):
    site = Site(12, component)
    assert str(site) == f"L12.{component.value}"
    assert Site.parse(str(site)) == site
    assert Site.parse(site) == site


def test_a_heads_site():
    site = Site(3, Component.z, 7)
    assert str(site) == "L3H7"
    assert Site.parse("L3H7") == Site.parse(HeadId(3, 7)) == HeadId(3, 7).site == site
    assert Site.parse(" L3.z ") == Site(3, Component.z)


@pytest.mark.parametrize(
    "text", ["", "L3", "3H7", "L3H", "L-1H2", "L3.", "L3.q", "L3.Z", "L3H7.z", "L3.z.7", "layer 3"]
)
def test_text_that_is_no_site(text):
    with pytest.raises(SiteError):
        Site.parse(text)


def test_the_message_lists_the_components():
    with pytest.raises(SiteError, match=r"'queries'.*resid_pre.*resid_post"):
        Site.parse("L0.queries")


def test_sites_that_cannot_be():
    with pytest.raises(SiteError, match=r"layer=-1 must be at least 0"):
        Site(-1, Component.z)
    with pytest.raises(SiteError, match=r"head=-2 must be at least 0"):
        Site(0, Component.z, -2)
    with pytest.raises(SiteError, match=r"layer=True must be an integer"):
        Site(True, Component.z)
    with pytest.raises(SiteError, match="residual channels, not heads"):
        Site(0, Component.attn_proj, 2)
    assert issubclass(SiteError, BkdinterpError)
    assert issubclass(SiteError, ValueError)


def test_order_is_the_forward_pass():
    order = [
        "resid_pre",
        "attn_in",
        "z",
        "attn_proj",
        "attn_out",
        "resid_mid",
        "mlp_in",
        "mlp_act",
        "mlp_out",
        "resid_post",
    ]
    assert [str(c) for c in sorted(Component, key=lambda c: c.rank)] == order
    sites = [
        Site(1, Component.resid_pre),
        Site(0, Component.resid_post),
        Site(0, Component.z),
        Site(0, Component.mlp_in),
    ]
    assert [str(s) for s in sorted(sites, key=lambda s: s.order)] == [
        "L0.z",
        "L0.mlp_in",
        "L0.resid_post",
        "L1.resid_pre",
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("L3.z", "L3H1", True),
        ("L3H1", "L3H1", True),
        ("L3H1", "L3H2", False),
        ("L3H1", "L4H1", False),
        ("L3.z", "L3.attn_proj", False),
        ("L3.z", "L3.z", True),
    ],
)
def test_overlap(a, b, expected):
    assert Site.parse(a).overlaps(Site.parse(b)) is expected
    assert Site.parse(b).overlaps(Site.parse(a)) is expected


# --- heads ----------------------------------------------------------------------------------------------------


def test_head_ids():
    assert HeadId.parse("L12H7") == HeadId.parse("l12h7") == HeadId.parse((12, 7)) == HeadId(12, 7)
    assert str(HeadId(0, 10)) == "L0H10"
    assert sorted([HeadId(1, 0), HeadId(0, 9), HeadId(0, 10)]) == [HeadId(0, 9), HeadId(0, 10), HeadId(1, 0)]
    with pytest.raises(SiteError, match="L12H7"):
        HeadId.parse("12.7")
    with pytest.raises(SiteError, match="count from 0"):
        HeadId(0, -1)


@pytest.mark.parametrize(
    "spelling",
    [
        "L1H2, L0H3 L1H2;L2H0",
        ["L1H2", "L0H3", "L2H0"],
        [(1, 2), (0, 3), (2, 0)],
        [HeadId(1, 2), "L0H3", (2, 0)],
    ],
    ids=["text", "texts", "tuples", "mixed"],
)
def test_spellings_of_a_set(spelling):
    found = HeadSet.of(spelling)
    assert str(found) == "L1H2, L0H3, L2H0"
    assert HeadSet.of(str(found)) == found
    assert repr(found) == "HeadSet(L1H2, L0H3, L2H0)"
    assert len(found) == 3
    assert [str(s) for s in found.sites] == ["L1H2", "L0H3", "L2H0"]
    assert found.by_layer() == {0: [3], 1: [2], 2: [0]}


def test_one_head_and_no_head():
    assert HeadSet.of(HeadId(1, 2)) == HeadSet.of("L1H2")
    assert len(HeadSet.of("")) == len(HeadSet.of([])) == 0
    assert HeadSet.of(HeadSet.of("L1H2", (4, 4))).grid == (4, 4)


def test_a_head_outside_the_grid():
    with pytest.raises(SiteError, match=r"L1H4 is out of range.*4 layers of 4 heads"):
        heads("L0H0 L1H4", (4, 4))
    with pytest.raises(SiteError, match="L4H0"):
        heads("L4H0", (4, 4))


def test_algebra():
    a, b = heads("L3H0 L1H1 L2H2", (4, 4)), heads("L2H2 L0H0")
    assert str(a | b) == "L3H0, L1H1, L2H2, L0H0"
    assert str(a & b) == "L2H2"
    assert str(a - b) == "L3H0, L1H1"
    assert (a | b).grid == (b | a).grid == (a & b).grid == (a - b).grid == (4, 4)
    assert a - a == HeadSet.of("")
    assert (a & b) | (a - b) == a
    with pytest.raises(SiteError, match="out of range"):
        a | heads("L9H0")


def test_equality_forgets_order_and_membership_takes_spellings():
    a, b = heads("L3H0 L1H1"), heads("L1H1 L3H0")
    assert a == b
    assert hash(a) == hash(b)
    assert list(a) != list(b)
    assert "L3H0" in a
    assert (1, 1) in a
    assert HeadId(0, 0) not in a
    assert a != heads("L3H0")


def test_random_heads_are_a_fair_null():
    like = heads("L0H0 L1H1 L2H2", (4, 4))
    drawn = random_heads(like=like, n=200, seed=0, match="any")
    assert len(drawn) == 200
    assert all(len(s) == 3 and s.grid == (4, 4) and not (s & like) for s in drawn)
    assert drawn == random_heads(like=like, n=200, seed=0, match="any")
    assert drawn != random_heads(like=like, n=200, seed=1, match="any")
    # Every other head comes up about equally often: 600 draws over 13 heads, 46 each.
    counts = {}
    for s in drawn:
        for h in s:
            counts[h] = counts.get(h, 0) + 1
    assert len(counts) == 13
    assert min(counts.values()) > 20
    assert max(counts.values()) < 80
    with_like = random_heads(like=like, n=200, seed=0, exclude_like=False, match="any")
    assert any(s & like for s in with_like)


@pytest.mark.parametrize("match", ["layer", "any"])
@pytest.mark.parametrize("exclude", [True, False])
def test_random_heads_differ_from_each_other_and_from_like(match, exclude):
    like = heads("L1H0 L1H3 L2H2 L3H1", (4, 5))
    for n in (1, 20, 48):  # 3 * 4 * 4 = 48 sets of other heads per layer
        drawn = random_heads(like=like, n=n, seed=3, exclude_like=exclude, match=match)
        assert len(set(drawn)) == n and like not in drawn
        assert all(len(s) == 4 for s in drawn)
        assert drawn == random_heads(like=like, n=n, seed=3, exclude_like=exclude, match=match)
        if exclude:
            assert not any(s & like for s in drawn)


def test_random_heads_lie_in_the_layers_of_like():
    like = heads("L3H1 L1H0 L3H4", (4, 9))
    drawn = random_heads(like=like, n=100, seed=0)
    assert {tuple(len(v) for v in s.by_layer().values()) for s in drawn} == {(1, 2)}
    assert {tuple(s.by_layer()) for s in drawn} == {(1, 3)}
    assert {h for s in drawn for h in s} == {HeadId(i, j) for i in (1, 3) for j in range(9)} - set(like)
    anywhere = random_heads(like=like, n=100, seed=0, match="any")
    assert {h.layer for s in anywhere for h in s} == {0, 1, 2, 3}


def test_random_heads_of_a_crowded_layer_take_as_few_of_like_as_they_can():
    like = heads("L0H0 L0H1 L0H2 L0H3 L0H4", (2, 9))
    drawn = random_heads(like=like, n=5, seed=0)
    assert {len(s & like) for s in drawn} == {1}
    # 8 of a layer's 9 heads: one is new, seven of the eight are the old ones.
    crowded = heads("L1H0 L1H1 L1H2 L1H3 L1H4 L1H5 L1H6 L1H7", (2, 9))
    assert len(set(random_heads(like=crowded, n=8, seed=0))) == 8
    with pytest.raises(SiteError, match=r"only 8 sets .* not 9; ask for fewer sets, or match='any'"):
        random_heads(like=crowded, n=9, seed=0)
    whole = crowded | heads("L1H8", (2, 9))
    with pytest.raises(SiteError, match="only 0 sets"):
        random_heads(like=whole, n=1, seed=0)
    assert len(random_heads(like=whole, n=1, seed=0, match="any", exclude_like=False)[0]) == 9


def test_random_heads_that_cannot_be_drawn():
    with pytest.raises(SiteError, match="grid"):
        random_heads(like=heads("L0H0"), n=1, seed=0)
    with pytest.raises(SiteError, match="Cannot draw 3 heads from the 1"):
        random_heads(like=heads("L0H0 L0H1 L1H0", (2, 2)), n=1, seed=0, match="any")
    with pytest.raises(SiteError, match="empty"):
        random_heads(like=heads("", (2, 2)), n=1, seed=0)
    with pytest.raises(SiteError, match="Unknown match 'head'; choose one of layer, any"):
        random_heads(like=heads("L0H0", (2, 2)), n=1, seed=0, match="head")
    with pytest.raises(SiteError, match="n=-1"):
        random_heads(like=heads("L0H0", (2, 2)), n=-1, seed=0)


# --- positions ------------------------------------------------------------------------------------------------


def test_where():
    assert Where() == Where("last")
    assert Where.of("trigger") == Where("trigger")
    assert Where.of([0, -2]) == Where((0, -2))
    assert Where.of(Where("all", generated=True)) == Where("all", generated=True)
    assert str(Where((0, -2), generated=True)) == "0,-2+generated"
    assert str(Where("trigger")) == "trigger"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("first", "'first'; choose last"), ("", "choose last"), ((), "at least one"), ((1, 1), "only once")],
)
def test_positions_that_cannot_be(prompt, message):
    # Made by hand: the tests' type checker would refuse a wrong word before the class can.
    where = object.__new__(Where)
    object.__setattr__(where, "prompt", prompt)
    object.__setattr__(where, "generated", False)
    with pytest.raises(SiteError, match=message):
        where.__post_init__()


def test_none_needs_generated():
    with pytest.raises(SiteError, match="selects no token"):
        Where("none")
    assert Where("none", generated=True).prompt == "none"


@pytest.mark.parametrize(
    ("where", "single"),
    [
        (Where("last"), True),
        (Where((3,)), True),
        (Where((-1,)), True),
        (Where((0, 1)), False),
        (Where("all"), False),
        (Where("trigger"), False),
        (Where("last", generated=True), False),
        (Where("none", generated=True), False),
    ],
    ids=str,
)
def test_one_token_per_row(where, single):
    assert where.single is single


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Where("last"), Where((-1,)), True),
        (Where("last"), Where((-2,)), False),
        (Where("last"), Where((0,)), True),  # a prompt of one token
        (Where((0, 1)), Where((1, 2)), True),
        (Where((0, 1)), Where((2,)), False),
        (Where("trigger"), Where("last"), True),
        (Where("all"), Where((5,)), True),
        (Where("all"), Where("none", generated=True), False),
        (Where("last", generated=True), Where("none", generated=True), True),
        (Where((0,), generated=True), Where((1,), generated=True), True),
        (Where((0,), generated=True), Where((1,)), False),
    ],
    ids=str,
)
def test_overlap_of_positions(a, b, expected):
    assert a.may_overlap(b) is expected
    assert b.may_overlap(a) is expected


def test_a_neurons_site():
    site = Site(3, Component.mlp_act, neuron=17)
    assert str(site) == "L3N17"
    assert Site.parse("L3N17") == Site.parse(site) == site
    assert site.overlaps(Site.parse("L3.mlp_act")) and Site.parse("L3.mlp_act").overlaps(site)
    assert not site.overlaps(Site.parse("L3N16"))
    assert not site.overlaps(Site.parse("L4N17"))
    with pytest.raises(SiteError, match="only 'mlp_act' has neurons"):
        Site(3, Component.mlp_out, neuron=1)
    with pytest.raises(SiteError, match=r"neuron=-1 must be at least 0"):
        Site(3, Component.mlp_act, neuron=-1)
