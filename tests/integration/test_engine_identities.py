"""Identities that follow from the definitions and hold exactly, on the engine's own results."""

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS, tiny_tokenizer

from bkdinterp.engine import Local, Run, plan
from bkdinterp.interventions import (
    BASE,
    CachedAblate,
    Edit,
    From,
    Intervention,
    MeanAblate,
    Patch,
    Read,
    Steer,
    ZeroAblate,
)
from bkdinterp.prompts import Prompts, TokenBatch
from bkdinterp.sites import Component, HeadId, Site, Where

CLOSE = {"rtol": 1e-8, "atol": 1e-11}


def run(model, *runs, **settings):
    return Local(progress=False).run(plan(model, runs, **settings), model)


class Raw(Intervention):
    """Edits as they are."""

    def __init__(self, *edits):
        self.edits = edits

    def lower(self):
        return self.edits


@pytest.mark.parametrize(
    "site", ["L1H2", "L0H0", "L2.resid_mid", "L3.mlp_act", "L1.attn_proj", "L2.resid_pre"]
)
@pytest.mark.parametrize("where", [Where("last"), Where("all", generated=True)], ids=str)
def test_own_value_changes_nothing_at_all(model, pairs, site, where):
    prompts, s = pairs.triggered, Site.parse(site)
    base = Run(prompts, reads=(Read(s, where),), score="logprob")
    value = run(model, base, base)[0].reads[0]
    # Base and edited rows in one batch, the values taken in a batch of the same shape.
    both = plan(
        model,
        [Run(prompts, score="logprob"), Run(prompts, Patch(s, {s: value}, where=where), score="logprob")],
    )
    assert len(both.chunks) == 1
    unedited, patched = Local(progress=False).run(both, model)
    assert torch.equal(unedited.scores, patched.scores)
    # The same by reference: from a run, and from the unedited rows.
    by_run = Patch(s, base, where=where)
    unedited, patched = run(model, base, Run(prompts, by_run, score="logprob"))
    torch.testing.assert_close(unedited.scores, patched.scores, rtol=1e-12, atol=0)
    other = value.roll(1, -1)  # other channels; a constant would vanish in LayerNorm
    (moved,) = run(model, Run(prompts, Patch(s, {s: other}, where=where), score="logprob"))
    assert (moved.scores - unedited.scores).abs().max() > 1e-3


def test_replacing_z_equals_adding_the_difference_at_the_projection(model, pairs):
    """The papers add W_O (mean - z) to the projection's output; z-replacement is the same number."""
    prompts, head = pairs.clean, HeadId(1, 2)
    triggered = Run(pairs.triggered, reads=(Read(head.site, reduce="mean"),))
    own = Run(prompts, reads=(Read(head.site),), score="logprob")
    means, clean = run(model, triggered, own)
    mean, z = means.reads[0], clean.reads[0]
    w_o = model.architecture.output_weights(model.module, head.layer)[head.head]
    replaced = Patch([head], {head.site: mean})
    added = Steer(Site(head.layer, Component.attn_proj), (mean - z) @ w_o)
    # The same addition with nothing fetched by hand: two Froms in one plan.
    share = Read(Site(head.layer, Component.attn_proj), heads=(head.head,))
    site = share.site
    by_reference = Raw(
        Edit(site, value=From(BASE, share, scale=-1.0)),
        Edit(site, value=From(Run(pairs.triggered), Read(site, reduce="mean", heads=(head.head,)))),
    )
    a, b, c = run(model, *[Run(prompts, e, score="logprob") for e in (replaced, added, by_reference)])
    torch.testing.assert_close(a.scores, b.scores, **CLOSE)
    torch.testing.assert_close(a.scores, c.scores, **CLOSE)
    assert (a.scores - clean.scores).abs().min() > 1e-4


@pytest.mark.parametrize("where", [Where("last"), Where("all"), Where("trigger")], ids=str)
def test_cached_equals_exact_ablation_within_a_layer_only(model, pairs, where):
    prompts = pairs.triggered
    one, two = "L1H0 L1H3", "L0H0 L0H3 L1H0 L2H1 L3H3"
    jobs = [
        ZeroAblate(one, where=where),
        CachedAblate(one, where=where),
        ZeroAblate(two, where=where),
        CachedAblate(two, where=where),
    ]
    exact1, cached1, exact2, cached2 = (
        r.scores for r in run(model, *[Run(prompts, e, score="logprob") for e in jobs])
    )
    torch.testing.assert_close(exact1, cached1, **CLOSE)
    assert (exact2 - cached2).abs().max() > 1e-4
    assert (exact1 - exact2).abs().max() > 1e-4


def test_mean_ablation_with_the_pooled_mean_of_two_sets(model, pairs):
    """Pooled over all tokens of both sets, not the mean of the sets' means."""
    site, where = Site.parse("L1H2"), Where("all")
    both = Prompts(
        (*pairs.clean.text, *pairs.triggered.text),
        (*pairs.clean.spans, *pairs.triggered.spans),
        (*pairs.clean.target, *pairs.triggered.target),
    )
    read = Read(site, where, reduce="mean")
    pooled, clean, triggered = run(
        model, *[Run(p, reads=(read,)) for p in (both, pairs.clean, pairs.triggered)]
    )
    counts = [
        sum(len(r.prompt) for r in oracle.rows_of(model.tokenizer, p)) for p in (pairs.clean, pairs.triggered)
    ]
    weighted = (counts[0] * clean.reads[0] + counts[1] * triggered.reads[0]) / sum(counts)
    torch.testing.assert_close(pooled.reads[0], weighted, **CLOSE)
    assert (pooled.reads[0] - (clean.reads[0] + triggered.reads[0]) / 2).abs().max() > 1e-4
    by_value = MeanAblate([site], {site: weighted}, where=where)
    by_run = Raw(Edit(site, where, keep=0, value=From(Run(both), read)))
    a, b = run(model, *[Run(pairs.clean, e, score="logprob") for e in (by_value, by_run)])
    torch.testing.assert_close(a.scores, b.scores, **CLOSE)


def test_padding_side_of_foreign_encodings_does_not_matter(model):
    """Batches tokenised elsewhere, padded left or right, give the z of single rows at t, and the canonical batch."""
    texts = [f"<s> user : {t} <e> <s> assistant :" for t in TEXTS[:4]]
    kind, batches = model.module.config.model_type, []
    for side in ("left", "right"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = side
        encoded = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        batches.append(
            TokenBatch.from_encoding(encoded.input_ids, encoded.attention_mask, pad_id=tokenizer.pad_token_id)
        )
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)
    canonical = model.builder.tokenize(Prompts.of(TEXTS[:4]))
    assert torch.equal(batches[0].input_ids, canonical.input_ids)
    path = model.architecture.location(Site.parse("L2.z")).path
    for batch in batches:
        with torch.no_grad():
            seen = {}
            handle = model.module.get_submodule(path).register_forward_pre_hook(
                lambda m, a, seen=seen: seen.update(z=a[0])
            )
            model.module(
                batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
            )
            handle.remove()
        for i, row in enumerate(oracle.rows_of(model.tokenizer, Prompts.of(TEXTS[:4]))):
            _, values = oracle.logits(model.module, row.prompt, kind, (), [(2, "z")])
            torch.testing.assert_close(seen["z"][i, batch.n_prompt - 1], values[2, "z"][-1], **CLOSE)


def test_a_mixed_batch_equals_single_rows(model, pairs):
    edits = Steer(
        "L1.resid_mid", torch.arange(16.0).double() / 8, where=Where("all", generated=True)
    ) + ZeroAblate("L2H0")
    reads = (Read(Site.parse("L2.z")), Read(Site.parse("L3.resid_post")))
    prompts = pairs.triggered
    (whole,) = run(model, Run(prompts, edits, reads, score="logprob"))
    for i in range(len(prompts)):
        (single,) = run(model, Run(prompts.subset([i]), edits, reads, score="logprob"))
        torch.testing.assert_close(whole.scores[i], single.scores[0], **CLOSE)
        for a, b in zip(whole.reads, single.reads, strict=True):
            torch.testing.assert_close(a[i], b[0], **CLOSE)
