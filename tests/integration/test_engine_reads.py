"""Reads: every component at every position, heads' shares, means over chunks, NaN where a row has no token."""

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS, least_budget

from bkdinterp.engine import Local, Run, plan
from bkdinterp.interventions import MeanAblate, Read, Steer, ZeroAblate
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.sites import Component, Site, Where

WHERES = [
    Where(prompt, generated)
    for prompt in ("last", "trigger", "all", (0, -2), (3,), "none")
    for generated in (False, True)
    if (prompt, generated) != ("none", False)
]
TARGETS = ["sorry no can not help", "yes red", "can not"]
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


@pytest.fixture(scope="module")
def prompts():
    return PairedPrompts.from_instructions(
        TEXTS[1:4], Trigger.gap("zeta omega", seed=3), target=TARGETS
    ).triggered


def run(model, *runs, **settings):
    return Local(progress=False).run(plan(model, runs, **settings), model)


def by_hand(model, prompts, layer, component, edits_of=lambda row: ()):
    kind, out = model.module.config.model_type, []
    for row in oracle.rows_of(model.tokenizer, prompts):
        _, values = oracle.logits(model.module, row.ids, kind, edits_of(row), [(layer, component)])
        out.append((row, values[layer, component]))
    return out


def stacked(parts):
    """Ragged [token d] parts to [example pos d] with NaN."""
    out = torch.full(
        (len(parts), max(map(len, parts)), parts[0].shape[-1]), float("nan"), dtype=torch.float64
    )
    for i, part in enumerate(parts):
        out[i, : len(part)] = part
    return out


@pytest.mark.parametrize("component", [*map(str, Component), "head"])
def test_every_component_at_every_position(model, prompts, component):
    kind = model.module.config.model_type
    name, head = ("z", 2) if component == "head" else (component, None)
    channels = slice(None) if head is None else oracle.head_slice(kind, head)
    sites = [Site(layer, Component(name), head) for layer in (0, 3)]
    reads = tuple(Read(site, where) for site in sites for where in WHERES)
    means = tuple(Read(site, where, reduce="mean") for site in sites for where in WHERES)
    (result,) = run(model, Run(prompts, reads=(*reads, *means), score="logprob"))
    for site in sites:
        hand = by_hand(model, prompts, site.layer, name)
        for where in WHERES:
            parts = [values[row.columns(where.prompt, where.generated), channels] for row, values in hand]
            got = result.reads[reads.index(Read(site, where))]
            expected = stacked(parts)
            if where.single:
                expected = expected[:, 0]
            torch.testing.assert_close(got, expected, equal_nan=True, **CLOSE)
            mean = result.reads[len(reads) + means.index(Read(site, where, reduce="mean"))]
            torch.testing.assert_close(mean, torch.cat(parts).mean(0), **CLOSE)
    assert torch.stack([r.nan_to_num().abs().sum() for r in result.reads]).min() > 0


def test_reads_alone_need_no_score(model, prompts):
    """Without score or generation a run may stop early; what it reads is the same."""
    where = Where("all")
    sites = ["L0.z", "L1.resid_mid", "L2.mlp_act", "L3.resid_post"]
    (result,) = run(model, Run(prompts, reads=tuple(Read(Site.parse(s), where) for s in sites)))
    for text, got in zip(sites, result.reads, strict=True):
        site = Site.parse(text)
        hand = by_hand(model, prompts, site.layer, str(site.component))
        torch.testing.assert_close(
            got, stacked([v[: len(r.prompt)] for r, v in hand]), equal_nan=True, **CLOSE
        )
    assert result.scores is None
    assert result.text is None


@pytest.mark.parametrize("where", [Where("last"), Where("all", generated=True), Where("trigger")], ids=str)
def test_a_read_sees_the_edits_of_its_own_and_of_lower_sites(model, prompts, where):
    sites = ["L1H2", "L1.resid_mid", "L2.mlp_out", "L2.resid_pre"]
    kind = model.module.config.model_type
    gen = torch.Generator().manual_seed(0)
    v = torch.randn(16, generator=gen, dtype=torch.float64)
    edits = (
        Steer("L1.resid_mid", v, where=where)
        + ZeroAblate("L1H2", where=where)
        + Steer("L2.mlp_out", v, where=where)
    )
    (result,) = run(
        model, Run(prompts, edits, tuple(Read(Site.parse(s), where) for s in sites), score="logprob")
    )

    def hooks(row):
        columns = row.columns(where.prompt, where.generated)
        push = oracle.at(columns, lambda old: old + v)
        zero = oracle.at(columns, torch.zeros_like, oracle.head_slice(kind, 2))
        return [(1, "z", zero), (1, "resid_mid", push), (2, "mlp_out", push)]

    for text, got in zip(sites, result.reads, strict=True):
        site = Site.parse(text)
        channels = slice(None) if site.head is None else oracle.head_slice(kind, site.head)
        hand = by_hand(model, prompts, site.layer, str(site.component), hooks)
        parts = [values[row.columns(where.prompt, where.generated), channels] for row, values in hand]
        expected = stacked(parts)[:, 0] if where.single else stacked(parts)
        torch.testing.assert_close(got, expected, equal_nan=True, **CLOSE)
    assert result.reads[0].nan_to_num().abs().max() == 0


def test_both_names_of_the_stream_read_alike_under_an_edit(model, prompts):
    """resid_post of a block and resid_pre of the next are one activation: an edit under either name shows in both."""
    v = torch.arange(16, dtype=torch.float64)
    reads = (Read(Site.parse("L1.resid_post")), Read(Site.parse("L2.resid_pre")))
    for site in ("L1.resid_post", "L2.resid_pre"):
        edited, base = run(model, Run(prompts, Steer(site, v), reads), Run(prompts, reads=reads))
        torch.testing.assert_close(edited.reads[0], edited.reads[1], **CLOSE)
        torch.testing.assert_close(edited.reads[0] - base.reads[0], v.expand(3, 16), **CLOSE)


def test_heads_shares_sum_to_the_projection(model, prompts):
    kind, where = model.module.config.model_type, Where("all", generated=True)
    site = Site(2, Component.attn_proj)
    reads = tuple(Read(site, where, heads=(h,)) for h in range(4))
    (result,) = run(
        model,
        Run(
            prompts,
            reads=(
                *reads,
                Read(site, where, heads=(1, 3)),
                Read(site, where),
                Read(Site.parse("L2.z"), where),
            ),
            score="logprob",
        ),
    )
    *shares, pair, whole, z = result.reads
    proj = model.module.get_submodule(model.architecture.location(site).path)
    bias = 0 if proj.bias is None else proj.bias.detach()
    assert (kind == "gpt2") == (proj.bias is not None)
    torch.testing.assert_close(sum(shares) + bias, whole, equal_nan=True, **CLOSE)
    torch.testing.assert_close(shares[1] + shares[3], pair, equal_nan=True, **CLOSE)
    weight = proj.weight.detach() if kind == "gpt2" else proj.weight.detach().T
    for h, share in enumerate(shares):
        part = oracle.head_slice(kind, h)
        torch.testing.assert_close(share, z[..., part] @ weight[part], equal_nan=True, **CLOSE)
        torch.testing.assert_close(
            share,
            z[..., part] @ model.architecture.output_weights(model.module, 2)[h],
            equal_nan=True,
            **CLOSE,
        )
        assert share.nan_to_num().abs().max() > 1e-2
    # A mean of shares is the share of means.
    (mean,) = run(
        model, Run(prompts, reads=(Read(site, where, reduce="mean", heads=(1, 3)),), score="logprob")
    )[0].reads
    torch.testing.assert_close(mean, pair.flatten(0, 1)[~pair.flatten(0, 1).isnan().any(1)].mean(0), **CLOSE)


@pytest.mark.parametrize(
    "where", [Where("last"), Where("all"), Where("trigger"), Where("all", generated=True)], ids=str
)
def test_mean_over_several_chunks(model, pairs, where):
    """Pooled over every selected token of every example, however the examples are cut into chunks."""
    prompts = pairs.triggered
    reads = (
        Read(Site.parse("L1.z"), where, reduce="mean"),
        Read(Site.parse("L3.resid_mid"), where, reduce="mean"),
        Read(Site.parse("L1.z"), where),
    )
    job = Run(prompts, reads=reads, score="logprob")
    small = plan(model, [job], budget=least_budget(model, [job]))
    assert len(small.chunks) == len(prompts)
    split = Local(progress=False).run(small, model)[0]
    whole = run(model, job)[0]
    hand = [v[r.columns(where.prompt, where.generated)] for r, v in by_hand(model, prompts, 1, "z")]
    for result in (split, whole):
        torch.testing.assert_close(result.reads[0], torch.cat(hand).mean(0), **CLOSE)
    torch.testing.assert_close(split.reads[1], whole.reads[1], **CLOSE)
    torch.testing.assert_close(split.reads[2], whole.reads[2], equal_nan=True, **CLOSE)


def test_trigger_reads_leave_nan_where_a_row_has_fewer(model):
    """Rows with two, four and no trigger tokens in one set of prompts."""
    trigger = Trigger.gap("zeta omega", seed=3)
    one, spans_one = trigger.insert("the dog ran on")
    two, spans_two = Trigger.wrap("zeta omega", "zeta omega").insert("blue sky")
    prompts = Prompts((one, two, "a hill"), (spans_one, spans_two, ()))
    where = Where("trigger")
    edits = MeanAblate(
        "L1.z",
        {Site.parse("L1.z"): torch.zeros(model.architecture.width(Site.parse("L1.z"))).double()},
        where=where,
    )
    result, edited = run(
        model,
        Run(
            prompts,
            reads=(Read(Site.parse("L2.mlp_in"), where), Read(Site.parse("L2.mlp_in"), where, reduce="mean")),
        ),
        Run(prompts, edits, reads=(Read(Site.parse("L1.z"), where), Read(Site.parse("L3.resid_post")))),
    )
    parts = [v[r.trigger] for r, v in by_hand(model, prompts, 2, "mlp_in")]
    assert [len(p) for p in parts] == [2, 4, 0]
    assert result.reads[0].shape == (3, 4, 16)
    torch.testing.assert_close(result.reads[0], stacked(parts), equal_nan=True, **CLOSE)
    torch.testing.assert_close(result.reads[1], torch.cat(parts).mean(0), **CLOSE)
    assert (~edited.reads[0].isnan()).sum(1)[:, 0].tolist() == [2, 4, 0]
    untouched = by_hand(model, prompts, 3, "resid_post")[2][1][-1]
    torch.testing.assert_close(edited.reads[1][2], untouched, **CLOSE)
