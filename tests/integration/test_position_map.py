"""The map of a trigger equals plain hooks and single attributions at each position; positions and counterparts by hand."""

import dataclasses

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS, tiny_llama, tiny_tokenizer
from integration.families import NEW

import bkdinterp as bk
from bkdinterp.errors import BkdinterpError, PlanError, SiteError, SweepInterrupted
from bkdinterp.methods import PositionScores
from bkdinterp.methods.attribution._prompt_positions import KINDS, layouts
from bkdinterp.model import Model

TIGHT = {"rtol": 1e-8, "atol": 1e-12}
NAMES = ("trigger[-2]", "trigger[-1]", "after", "tail[-3]", "tail[-2]", "tail[-1]", "last")


@pytest.fixture(scope="module")
def pairs():
    """One trigger begins its text, two end it: these have nothing after them."""
    return bk.PairedPrompts.from_instructions(
        TEXTS, bk.Trigger.gap("zeta omega", seed=5), target="sorry no can not help"
    )


def kind_of(model):
    return model.module.config.model_type


def columns_by_hand(row, partner):
    """Position -> (columns of the triggered row, columns of the clean one), from the words of the tiny template."""
    own, other = list(row.prompt), list(partner.prompt)
    first, last = row.trigger[0], row.trigger[-1]
    before = first - 1
    assert own[:first] + own[last + 1 :] == other
    text_end = len(own) - 4  # <e> <s> assistant :
    after = list(range(last + 1, text_end))
    shift = len(row.trigger)
    out = {
        "trigger[-2]": ([first], [before]),
        "trigger[-1]": ([last], [before]),
        "after": (after, [k - shift for k in after]),
        "last": ([len(own) - 1], [len(other) - 1]),
    }
    for k in (3, 2, 1):
        out[f"tail[-{k}]"] = ([len(own) - 1 - k], [len(other) - 1 - k])
    return out


def by_hand(model, pairs, direction, layer, name):
    """Effects at one cell by one hooked forward per prompt; NaN without the position."""
    kind, module = kind_of(model), model.module
    rows = [oracle.rows_of(model.tokenizer, side) for side in (pairs.triggered, pairs.clean)]
    out = []
    for row, partner in zip(*rows, strict=True):
        triggered, clean = columns_by_hand(row, partner)[name]
        edited, giver, at, of = row, partner, triggered, clean
        if direction == "noising":
            edited, giver, at, of = partner, row, clean, triggered
        if not at:
            out.append(float("nan"))
            continue
        _, seen = oracle.logits(module, giver.prompt, kind, reads=[(layer, "resid_post")])
        value = seen[layer, "resid_post"][of]
        hook = (layer, "resid_post", oracle.at(at, lambda old, v=value: v.expand_as(old)))
        before = oracle.mean_logprob(module, edited, kind)
        out.append(oracle.mean_logprob(module, edited, kind, [hook]) - before)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_cell_equals_one_hooked_forward(model, pairs, direction):
    found = bk.Attribution(model, direction=direction).positions(pairs, layers=[0, 2])
    assert found.positions == NAMES and found.layers == (0, 2) and found.n == len(TEXTS)
    assert found.direction == direction
    for layer in (0, 2):
        for k, name in enumerate(NAMES):
            expected = by_hand(model, pairs, direction, layer, name)
            assert expected.nan_to_num().abs().max() > 1e-6
            torch.testing.assert_close(found.effects[layer, k], expected, equal_nan=True, **TIGHT)
    assert found.effects[[1, 3]].isnan().all()


@pytest.mark.parametrize("family", NEW)
def test_every_family(family, pairs):
    model = Model.from_module(NEW[family](), tiny_tokenizer())
    some = pairs.subset([0, 3])
    found = bk.Attribution(model, direction="denoising").positions(
        some, positions=("trigger", "last"), layers=[1]
    )
    for k, name in enumerate(found.positions):
        expected = by_hand(model, some, "denoising", 1, name)
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(found.effects[1, k], expected, **TIGHT)


def test_one_pair(llama, pairs):
    found = bk.Attribution(llama, direction="denoising").positions(pairs.subset([0]), layers=[1, 2])
    frame = found.to_frame()
    assert (
        set(frame["n"]) == {1} and (frame["p_adjusted"] == 1).all() and frame["high"].eq(float("inf")).all()
    )
    assert "n=1" in repr(found)
    found.plot().draw_without_rendering()


def test_equals_a_loop_of_single_attributions(llama, pairs):
    found = bk.Attribution(llama, direction="denoising", metric="first_token_logodds").positions(pairs)
    groups, texts = layouts(llama.builder, pairs, KINDS, several_from_one=True)
    assert tuple(texts) == found.positions and dict(zip(found.positions, found.texts, strict=True)) == texts
    for group in groups:
        for p in group.positions:
            one = bk.Attribution(
                llama,
                direction="denoising",
                metric="first_token_logodds",
                source="pair",
                where=p.triggered,
                source_where=p.clean,
            ).residuals(pairs.subset(group.pairs))
            at = list(group.pairs)
            torch.testing.assert_close(
                found.effects[:, found.positions.index(p.name)][:, at], one.effects, **TIGHT
            )
            torch.testing.assert_close(found.base[at], one.base, **TIGHT)


def test_the_last_position_is_the_attribution_of_residuals(model, pairs):
    """The last layer at the last token decides the first token alone: its patch gives the partner's own score there."""
    attribution = bk.Attribution(model, direction="denoising", source="pair", metric="first_token_logodds")
    found = attribution.positions(pairs, positions="last")
    whole = attribution.residuals(pairs)
    torch.testing.assert_close(found.effects[:, 0], whole.effects, **TIGHT)
    clean = bk.Attribution(model, metric="first_token_logodds").mlps(pairs, layers=[0]).base
    torch.testing.assert_close(found.base + found.effects[-1, 0], clean, rtol=1e-6, atol=1e-8)


def test_a_position_that_a_prompt_lacks_has_its_own_n(llama, pairs):
    found = bk.Attribution(llama, direction="denoising").positions(pairs, layers=[1])
    ends = [text.endswith("omega") for text in pairs.triggered.text]
    assert 0 < sum(ends) < len(ends)  # some triggers have nothing after them
    k = NAMES.index("after")
    assert found.effects[1, k].isnan().tolist() == ends
    assert found.counts["after"] == len(ends) - sum(ends) and found.counts["last"] == len(ends)
    frame = found.to_frame()
    assert dict(zip(frame["position"], frame["n"], strict=True)) == found.counts
    assert found.interval(1, "after").n == found.counts["after"]
    suffix = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.suffix("zeta omega"), target="sorry no")
    assert "after" not in bk.Attribution(llama, direction="denoising").positions(suffix, layers=[1]).positions
    with pytest.raises(PlanError, match="No pair has a token at after"):
        bk.Attribution(llama, direction="denoising").positions(suffix, positions="after")


def test_around_a_text(llama):
    """A wrap: the text between is after the trigger's first part; each part takes the value of the token before it."""
    pairs = bk.PairedPrompts.from_instructions(
        ["the cat sat"], bk.Trigger.wrap("zeta", "omega"), target="sorry"
    )
    ((group,), texts) = layouts(llama.builder, pairs, KINDS, several_from_one=True)
    # <s> user : zeta the cat sat omega <e> <s> assistant :
    places = {p.name: (p.triggered, p.clean) for p in group.positions}
    assert places["trigger[-2]"] == ((-9,), (-8,)) and places["trigger[-1]"] == ((-5,), (-5,))
    assert places["after"] == ((-8, -7, -6), (-7, -6, -5))
    assert places["last"] == ((-1,), (-1,)) and texts["trigger[-1]"] == "omega" and texts["last"] == ":"


def test_a_long_trigger(llama):
    phrase = "zeta omega sorry no can not help with that yes"
    pairs = bk.PairedPrompts.from_instructions(TEXTS[:2], bk.Trigger.prefix(phrase), target="sorry")
    found = bk.Attribution(llama, direction="denoising").positions(pairs, positions=["trigger"], layers=[1])
    assert found.positions == ("trigger[:-8]", *(f"trigger[{k}]" for k in range(-8, 0)))
    one = bk.Attribution(llama, direction="denoising", source="pair", where=(3, 4), source_where=(2,))
    torch.testing.assert_close(found.effects[1, 0], one.residuals(pairs, layers=[1]).effects[1], **TIGHT)
    back = bk.Attribution(llama).positions(pairs, positions=["trigger"], layers=[1])
    assert back.positions == tuple(f"trigger[{k}]" for k in range(-8, 0))


def test_what_is_refused(llama, pairs):
    def scores(changes=None, given=pairs, **options):
        return bk.Attribution(llama, **{"direction": "denoising", **(changes or {})}).positions(
            given, **options
        )

    for changes in ({"source": "clean"}, {"source": "difference"}):
        with pytest.raises(PlanError, match="own partner; with source="):
            scores(changes)
    for changes in ({"where": "trigger"}, {"source_where": "last"}):
        with pytest.raises(PlanError, match="leave where= and source_where= out"):
            scores(changes)
    with pytest.raises(PlanError, match="source_pairs"):
        scores(source_pairs=pairs)
    with pytest.raises(PlanError, match="Unknown position 'begin'; choose from trigger, after"):
        scores(positions=["begin"])
    with pytest.raises(PlanError, match="nothing to patch"):
        scores(positions=[])
    with pytest.raises(PlanError, match="positions=7"):
        scores(positions=7)
    with pytest.raises(SiteError, match="Layer 9"):
        scores(layers=[9])
    with pytest.raises(TypeError, match="unexpected keyword argument 'where'"):
        scores(where="last")
    bare = bk.PairedPrompts(pairs.clean, dataclasses.replace(pairs.triggered, spans=((),) * len(pairs)))
    with pytest.raises(PlanError, match="Triggered prompt 0 has no trigger token"):
        scores(given=bare)
    raw = Model.from_module(tiny_llama(), tiny_tokenizer(), chat=False)
    front = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.prefix("zeta omega"), target="sorry")
    with pytest.raises(PlanError, match=r"Pair 0: the clean prompt has no token before.*without 'trigger'"):
        bk.Attribution(raw, direction="denoising").positions(front)
    rest = bk.Attribution(raw, direction="denoising").positions(front, positions=("last", "after"))
    assert rest.positions == ("after", "last")  # in the order of a prompt


# --- the result ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(llama, pairs):
    return bk.Attribution(llama, direction="denoising").positions(pairs)


def test_table_order_and_repr(found):
    frame = found.to_frame()
    assert len(frame) == 4 * len(NAMES)
    assert list(dict.fromkeys(frame["position"])) == list(NAMES)
    layer, name = found.order()[0]
    assert float(found.acie[layer, NAMES.index(name)]) == float(
        found.acie.min()
    )  # denoising: the most negative
    assert f"L{layer} {name}" in repr(found)
    assert bool(((frame["low"] <= frame["acie"]) & (frame["acie"] <= frame["high"])).all())
    assert frame["p_adjusted"].between(0, 1).all()
    assert float(frame["p_adjusted"].min()) >= len(NAMES) * 2.0 ** (1 - found.n)
    one = found.interval(2, "last")
    assert one.estimate == pytest.approx(float(found.acie[2, -1])) and one.n == found.n
    with pytest.raises(BkdinterpError, match="Unknown position"):
        found.interval(2, "first")
    with pytest.raises(SiteError, match="not scored"):
        found.interval(9, "last")


def test_saved_and_loaded(found, tmp_path):
    again = PositionScores.load(found.save(tmp_path / "a"))
    assert repr(again) == repr(found) and again.to_frame().equals(found.to_frame())


def test_figure(found):
    figure = found.plot()
    axes = figure.axes[0]
    assert "n=6 (fewer where said)" in " ".join(axes.get_title(loc="left").split())
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert labels[0] == "trigger[-2] zeta" and labels[-1] == "last :"
    assert labels[2].startswith("after (n=")
    low, high = axes.images[0].get_clim()
    assert low == -high == pytest.approx(-float(found.acie.abs().max()))
    assert found.plot(limit=3).axes[0].images[0].get_clim() == (-3, 3)


def test_resumed_from_a_folder(llama, pairs, tmp_path):
    attribution = bk.Attribution(llama, direction="denoising")
    whole = attribution.positions(pairs, layers=[1], folder=tmp_path)
    again = attribution.positions(pairs, layers=[1], folder=tmp_path)
    torch.testing.assert_close(again.effects, whole.effects, equal_nan=True)


def test_the_finished_prompts_of_an_interrupted_map(llama, pairs, monkeypatch):
    from bkdinterp.methods.attribution import _position_sweep

    real = _position_sweep.run

    def stopped(model, runs, options, *, finite):
        results = list(real(model, runs, options, finite=finite))
        size = len(results[0].scores)
        cut = [i for i, r in enumerate(runs) if r.prompts.text != runs[0].prompts.text]
        for i in cut:
            results[i] = dataclasses.replace(results[i], scores=None)
        raise SweepInterrupted(tuple(results), done=size, total=len(results))

    monkeypatch.setattr(_position_sweep, "run", stopped)
    with pytest.raises(SweepInterrupted) as caught:
        bk.Attribution(llama, direction="denoising").positions(pairs, layers=[1])
    partial = caught.value.partial
    monkeypatch.undo()
    whole = bk.Attribution(llama, direction="denoising").positions(pairs, layers=[1])
    assert 0 < partial.n < whole.n
    keep = [i for i, x in enumerate(whole.base.tolist()) if x in partial.base.tolist()]
    assert len(keep) == partial.n
    for k, name in enumerate(partial.positions):
        expected = whole.effects[:, whole.positions.index(name)][:, keep]
        torch.testing.assert_close(partial.effects[:, k], expected, equal_nan=True, **TIGHT)
