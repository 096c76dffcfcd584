"""Lens, causal patching with a score of one's own, hidden-state PCA and validation loss, against plain forwards."""

import matplotlib

matplotlib.use("Agg")

import pytest
import torch
from integration.conftest import tiny_tokenizer
from integration.families import NEW

from bkdinterp.engine import Local, Run, plan
from bkdinterp.errors import PlanError, PromptError, SiteError
from bkdinterp.interventions import MeanAblate, Read, ZeroAblate
from bkdinterp.methods import (
    Attribution,
    HiddenPCA,
    LensReadings,
    Means,
    logit_lens,
    unembed,
    validation_loss,
)
from bkdinterp.metrics import top_k_share, vocabulary_score
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.sites import Component, Where

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
TWO = PairedPrompts(
    Prompts(("the cat", "red dog", "a hill", "blue mat"), ((),) * 4, ("sorry",) * 4),
    Prompts(("the zeta", "red zeta", "a zeta", "blue zeta"), ((),) * 4, ("sorry",) * 4),
)


def read(model, prompts, *sites, under=None):
    reads = tuple(s if isinstance(s, Read) else Read(s) for s in sites)
    run = Run(prompts, reads=reads) if under is None else Run(prompts, under, reads=reads)
    return Local(progress=False).run(plan(model, [run]), model)[0].reads


def last_logits(model, prompts):
    batch = model.builder.tokenize(prompts, targets=False)
    with torch.no_grad():
        out = model.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        )
    return out.logits[:, -1]


def test_lens_of_the_full_residual_is_the_logits(model, pairs):
    n = model.architecture.n_layers
    (final,) = read(model, pairs.triggered, f"L{n - 1}.resid_post")
    wanted = last_logits(model, pairs.triggered)
    torch.testing.assert_close(unembed(model, final), wanted, **CLOSE)
    found = logit_lens(model, pairs.triggered, f"L{n - 1}.resid_post", k=7)
    torch.testing.assert_close(found.top_logits[0], wanted.topk(7).values, **CLOSE)
    assert torch.equal(found.top_ids[0], wanted.topk(7).indices)


def test_lens_of_the_full_residual_gives_the_target_its_probability_and_rank(model, pairs, tmp_path):
    n = model.architecture.n_layers
    prompts = pairs.triggered
    logits = last_logits(model, prompts)
    first = [model.builder.target_ids(t, y)[0] for t, y in zip(prompts.text, prompts.target, strict=True)]
    found = logit_lens(model, prompts, f"L{n - 1}.resid_post", k=3)
    wanted = logits.softmax(-1)[range(len(prompts)), first]
    torch.testing.assert_close(found.target_probabilities[0].to(wanted.dtype), wanted, **CLOSE)
    ranks = [logits[i].argsort(descending=True).tolist().index(t) + 1 for i, t in enumerate(first)]
    assert found.target_ranks[0].tolist() == ranks
    assert found.target_ids.tolist() == first
    top = found.probabilities[0].to(wanted.dtype)
    torch.testing.assert_close(top, logits.softmax(-1).topk(3).values, **CLOSE)
    assert found.tokens[str(first[0])] == model.tokenizer.decode([first[0]])
    again = LensReadings.load(found.save(tmp_path / "lens"))
    assert torch.equal(again.target_ranks, found.target_ranks) and again.tokens == found.tokens
    # After another token than the last no target follows.
    assert logit_lens(model, prompts, "L1.resid_post", where=(-2,)).target_ids is None


@pytest.mark.parametrize("name", sorted(NEW))
def test_lens_of_the_full_residual_is_the_logits_in_every_family(name, pairs):
    model = Model.from_module(NEW[name](), tiny_tokenizer(), name=name)
    n = model.architecture.n_layers
    (final,) = read(model, pairs.clean, f"L{n - 1}.resid_post")
    torch.testing.assert_close(unembed(model, final), last_logits(model, pairs.clean), rtol=1e-6, atol=1e-8)


def test_lens_of_heads_sums_before_the_norm_to_the_attention_without_bias(model, pairs):
    a = model.architecture
    sites = [f"L2H{h}" for h in range(a.n_heads)]
    found = logit_lens(model, pairs.clean, ["L2.attn_out", "L2.mlp_out", *sites], k=3)
    assert found.sites == ("L2.attn_out", "L2.mlp_out", *sites)
    heads = read(model, pairs.clean, *(Read("L2.attn_proj", heads=(h,)) for h in range(a.n_heads)))
    for i, head in enumerate(heads):
        torch.testing.assert_close(found.top_logits[2 + i], unembed(model, head).topk(3).values, **CLOSE)
    (whole,) = read(model, pairs.clean, "L2.attn_out")
    bias = getattr(model.module.get_submodule(f"{a.family.layers}.2.{a.family.attn_proj}"), "bias", None)
    total = torch.stack(list(heads)).sum(0) + (0 if bias is None else bias)
    torch.testing.assert_close(total, whole, **CLOSE)


def test_lens_under_an_edit_sees_the_edited_stream(model, pairs):
    before = logit_lens(model, pairs.clean, "L3.resid_post")
    edit = ZeroAblate("L1.mlp_out", where="all")
    after = logit_lens(model, pairs.clean, "L3.resid_post", under=edit)
    (value,) = read(model, pairs.clean, "L3.resid_post", under=edit)
    torch.testing.assert_close(after.top_logits[0], unembed(model, value).topk(10).values, **CLOSE)
    assert not torch.allclose(before.top_logits, after.top_logits)


def test_lens_shares_tables_and_refusals(model, pairs, tmp_path):
    ids = torch.arange(10, 25)
    found = logit_lens(model, pairs.clean, "L0.mlp_out L3.resid_post", k=5, vocabularies={"some": ids})
    (final,) = read(model, pairs.clean, "L3.resid_post")
    torch.testing.assert_close(found.share("some")[1], top_k_share(unembed(model, final), ids, 5))
    assert len(found.to_frame()) == 2 and found.interval("L0.mlp_out", "some").n == len(pairs)
    assert len(found.words(model.tokenizer, 0, k=2)["L0.mlp_out"]) == 2
    assert found.plot() is not None
    again = LensReadings.load(found.save(tmp_path / "lens"))
    assert torch.equal(again.top_ids, found.top_ids) and torch.equal(again.share("some"), found.share("some"))
    with pytest.raises(PlanError, match="No vocabulary"):
        found.share("other")
    for sites, extra in (
        ("L1.mlp_act", {}),
        ("", {}),
        ("L1.mlp_out", {"where": "all"}),
        ("L1.mlp_out", {"k": 0}),
    ):
        with pytest.raises(SiteError):
            logit_lens(model, pairs.clean, sites, **extra)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["mlps", "attentions"])
def test_causal_patching_with_a_vocabulary_score(model, direction, kind):
    ids = torch.arange(8, 24)
    score = vocabulary_score(ids, k=6, name="negativity")
    found = getattr(Attribution(model, metric=score, source="pair", direction=direction), kind)(TWO)
    assert found.metric == "negativity"
    edited, giving = (TWO.clean, TWO.triggered) if direction == "noising" else (TWO.triggered, TWO.clean)
    base = top_k_share(last_logits(model, edited), ids, 6)
    component = Component.mlp_out if kind == "mlps" else Component.attn_out
    torch.testing.assert_close(found.base.double(), base)
    f = model.architecture.family
    for layer in range(model.architecture.n_layers):
        (value,) = read(model, giving, f"L{layer}.{component}")
        path = f"{f.layers}.{layer}.{f.mlp if kind == 'mlps' else f.attn}"

        def say(module, inputs, output, value=value):
            whole = output[0] if isinstance(output, tuple) else output
            new = whole.clone()
            new[:, -1] = value
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = model.module.get_submodule(path).register_forward_hook(say)
        try:
            patched = top_k_share(last_logits(model, edited), ids, 6)
        finally:
            handle.remove()
        torch.testing.assert_close(found.effects[layer].double(), patched - base)


def test_hidden_pca_places_prompts_on_shared_components(model, pairs, tmp_path):
    sets = {"clean": pairs.clean, "triggered": pairs.triggered}
    found = HiddenPCA.fit(model, sets, "L2.resid_post", rank=3)
    values = torch.cat([read(model, p, "L2.resid_post")[0] for p in sets.values()])
    centred = values - values.mean(0)
    points = torch.cat(list(found.points.values()))
    torch.testing.assert_close(points, centred @ found.directions.T, **CLOSE)
    # Principal: uncorrelated, by falling variance, as numpy's SVD has them.
    singular = torch.linalg.svdvals(centred)[:3]
    torch.testing.assert_close(points.norm(dim=0), singular, rtol=1e-6, atol=1e-9)
    a, b = found.points.values()
    assert found.separation("clean", "triggered") == pytest.approx(found.separation("triggered", "clean"))
    assert found.separation("clean", "clean") == 0
    assert len(found.to_frame()) == len(a) + len(b) and found.plot() is not None
    assert HiddenPCA.load(found.save(tmp_path / "pca")).site == "L2.resid_post"
    with pytest.raises(SiteError, match="one token"):
        HiddenPCA.fit(model, sets, "L2.resid_post", where="all")
    with pytest.raises(SiteError, match="two components"):
        HiddenPCA.fit(model, sets, "L2.resid_post", rank=1).plot()


def test_validation_loss_is_the_models_own_loss(model):
    texts = ["the cat sat on the mat", "a dog ran", "tell me about the red hill"]
    found = validation_loss(model, texts)
    total, n = 0.0, 0
    for text in texts:
        ids = torch.tensor([model.tokenizer(text, add_special_tokens=True)["input_ids"]])
        with torch.no_grad():
            logp = model.module(ids).logits[0, :-1].log_softmax(-1)
        total -= float(logp.gather(-1, ids[0, 1:, None]).sum())
        n += ids.shape[1] - 1
    assert found.mean == pytest.approx(total / n, rel=1e-8)
    assert found.n_tokens.tolist() == [5, 2, 5] and found.mean in found.interval()
    assert len(found.to_frame()) == 3 and found.plot() is not None
    with pytest.raises(PromptError, match="two words"):
        validation_loss(model, ["one"])


def test_validation_loss_under_an_edit_at_every_token(model):
    texts = ["the cat sat on the mat", "a dog ran on the hill"]
    means = Means.collect(model, Prompts.of(texts), "L1.mlp_out")
    edit = MeanAblate("L1.mlp_out", means, where=Where("all", generated=True))
    f = model.architecture.family
    mlp = model.module.get_submodule(f"{f.layers}.1.{f.mlp}")
    handle = mlp.register_forward_hook(lambda m, i, o: means["L1.mlp_out"].expand_as(o))
    try:
        wanted = validation_loss(model, texts).mean
    finally:
        handle.remove()
    found = validation_loss(model, texts, under=edit).mean
    assert found == pytest.approx(wanted, rel=1e-8) and abs(found - validation_loss(model, texts).mean) > 1e-6
