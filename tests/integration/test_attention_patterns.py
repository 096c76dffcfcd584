"""Attention weights equal softmax(q k) by hand and the library's own, for every family; parts cover every prompt; nothing stays."""

import math

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer
from integration.families import NEW, WINDOW, exact_attention, tiny_gemma3_vision
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import bkdinterp as bk
from bkdinterp.engine import attention_weights
from bkdinterp.errors import BkdinterpError, PlanError, PromptError, RemoteError, SiteError
from bkdinterp.errors import UnsupportedArchitectureError as Unsupported
from bkdinterp.methods import AttentionPatterns, attention_patterns
from bkdinterp.methods.readout import PARTS
from bkdinterp.model import Model
from bkdinterp.sites import HeadId, HeadSet

MAKERS = {"llama": tiny_llama, "gpt2": tiny_gpt2, **NEW, "gemma3 vision": tiny_gemma3_vision}
# The library takes most softmaxes in float32.
TIGHT = {"rtol": 1e-5, "atol": 2e-6}
HEADS = "L0H1 L3H0 L1H2 L1H3"


@pytest.fixture(scope="module", params=MAKERS)
def every(request):
    return Model.from_module(MAKERS[request.param](), tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="module")
def gapped():
    return bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta omega", seed=3), target="sorry no")


def implementation(model):
    return model.module.config.get_text_config()._attn_implementation


def librarys(model, ids):
    """Weights [layer head query key] of one unpadded prompt by the library's ``output_attentions``."""
    module, before = model.module, implementation(model)
    if before != "exact":
        module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = module(torch.tensor([ids]), output_attentions=before != "exact")
            if before != "exact":
                return torch.cat(list(out.attentions))
    finally:
        module.set_attn_implementation(before)
    seen = []
    handles = [
        part.register_forward_hook(lambda _, __, out: seen.append(out[1]))
        for name, part in module.named_modules()
        if name.endswith("self_attn")
    ]
    with torch.no_grad():
        module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.cat(seen)


def test_weights_are_the_librarys_of_each_prompt_alone(every, gapped):
    found = attention_patterns(every, gapped, HEADS, where="all")
    before = implementation(every)
    given = [*gapped.clean.text, *gapped.triggered.text]
    assert len({int((found.token_ids[i] >= 0).sum()) for i in range(len(given))}) > 2  # there was padding
    for i, text in enumerate(given):
        ids = oracle.Row(every.tokenizer, text).prompt
        assert found.token_ids[i][: len(ids)].tolist() == ids
        assert bool((found.token_ids[i][len(ids) :] == -1).all())
        whole = librarys(every, ids)
        for k, head in enumerate(found.heads):
            own = found.weights[i, k, : len(ids), : len(ids)]
            torch.testing.assert_close(own, whole[head.layer, head.head], check_dtype=False, **TIGHT)
        assert bool(found.weights[i, :, len(ids) :].isnan().all())
        assert bool(found.weights[i, :, :, len(ids) :].isnan().all())
    assert implementation(every) == before


def test_the_last_token_is_a_row_of_all(every, gapped):
    whole = attention_patterns(every, gapped.triggered, HEADS, where="all")
    last = attention_patterns(every, gapped.triggered, HEADS)
    for i in range(len(TEXTS)):
        n = int((whole.token_ids[i] >= 0).sum())
        assert last.queries[i].tolist() == [n - 1]
        assert torch.equal(last.weights[i, :, 0, :n], whole.weights[i, :, n - 1, :n])
    small = attention_patterns(every, gapped.triggered, HEADS, budget=1)  # one prompt a batch
    torch.testing.assert_close(small.weights, last.weights, equal_nan=True, **TIGHT)


def rotated(x, angles):
    """Rotary embedding of [pos d], as Llama pairs its channels."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[:, half:], x[:, :half]], -1)
    return x * angles.cos() + turned * angles.sin()


def test_llama_by_hand(gapped):
    """softmax(Q K^T / sqrt(d)) from the module's weights and its normed input alone."""
    model = Model.from_module(tiny_llama(), tiny_tokenizer())
    ids = oracle.Row(model.tokenizer, gapped.triggered.text[0]).prompt
    _, seen = oracle.logits(model.module, ids, "llama", reads=[(2, "attn_in")])
    attn, x = model.module.model.layers[2].self_attn, seen[2, "attn_in"]
    q = (x @ attn.q_proj.weight.T)[:, 3 * 6 : 4 * 6]
    k = (x @ attn.k_proj.weight.T)[:, 6:12]  # 4 heads share 2 keys
    frequency = 10_000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    angles = torch.arange(len(ids)).double()[:, None] * torch.cat([frequency, frequency])
    scores = rotated(q, angles) @ rotated(k, angles).T / math.sqrt(6)
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    wanted = scores.masked_fill(future, -torch.inf).softmax(-1)
    found = attention_patterns(model, gapped.triggered.subset([0]), "L2H3", where="all")
    torch.testing.assert_close(found.weights[0, 0], wanted.detach(), rtol=1e-4, atol=1e-6)


def test_gpt2_by_hand(gapped):
    model = Model.from_module(tiny_gpt2(), tiny_tokenizer())
    ids = oracle.Row(model.tokenizer, gapped.triggered.text[0]).prompt
    _, seen = oracle.logits(model.module, ids, "gpt2", reads=[(2, "attn_in")])
    q, k, _ = model.module.transformer.h[2].attn.c_attn(seen[2, "attn_in"]).split(16, -1)
    scores = q[:, 4:8] @ k[:, 4:8].T / 2
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    found = attention_patterns(model, gapped.triggered.subset([0]), "L2H1", where="all")
    wanted = scores.masked_fill(future, -torch.inf).softmax(-1)
    torch.testing.assert_close(found.weights[0, 0], wanted.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_a_window_hides_what_is_before_it(name, gapped):
    model = Model.from_module(NEW[name](), tiny_tokenizer())
    found = attention_patterns(model, gapped.clean, "L0H0 L1H0")
    narrow = [0, 1] if name == "mistral" else [0]
    assert bool((found.weights[:, narrow].nan_to_num() > 0).sum(-1).eq(WINDOW).all())
    if name != "mistral":
        assert bool((found.weights[:, 1].nan_to_num() > 0).sum(-1).gt(WINDOW).all())
    assert float(found.share("first token")[:, 0].max()) == 0


# --- parts -----------------------------------------------------------------------------------------------------


def test_parts_are_those_of_the_words(every, gapped):
    found = attention_patterns(every, gapped, HEADS)
    for i, text in enumerate([*gapped.clean.text, *gapped.triggered.text]):
        wanted = ["first token"] + ["template"] * 2
        wanted += ["trigger" if word in ("zeta", "omega") else "user text" for word in text.split()]
        wanted += ["template"] * 4
        names = [PARTS[k] for k in found.parts[i].tolist() if k >= 0]
        assert names == wanted
        assert found.words(i) == f"<s> user : {text} <e> <s> assistant :".split()
    assert found.names == ("clean", "triggered") and found.n == len(TEXTS)
    assert found.parts_of("clean") == ("first token", "template", "user text")
    assert "trigger" in found.parts_of("triggered")


@pytest.mark.parametrize("where", ["last", "all", (-2, 3)])
def test_shares_sum_to_1_and_are_sums_of_weights(every, gapped, where):
    found = attention_patterns(every, gapped, HEADS, where=where)
    sums = found.weights.nansum(-1)
    real = (found.queries >= 0)[:, None].expand_as(sums)
    torch.testing.assert_close(sums[real], torch.ones_like(sums[real]), **TIGHT)
    for side in found.names:
        total = sum(found.share(part, side) for part in PARTS)
        torch.testing.assert_close(total, torch.ones_like(total), **TIGHT)
    i = len(TEXTS)  # the first triggered prompt
    trigger = found.part_mask(i, "trigger")
    wanted = found.weights[i][:, found.queries[i] >= 0][..., trigger].sum(-1).mean(-1)
    torch.testing.assert_close(found.share("trigger")[0], wanted.double())
    frame = found.to_frame()
    assert len(frame) == 4 * (3 + 4) and set(frame["n"]) == {len(TEXTS)}
    each = frame.groupby(["side", "head"])[["share", "tokens"]].sum()
    assert each["share"].to_numpy() == pytest.approx(1, abs=1e-5)
    assert bool(((frame["low"] <= frame["share"]) & (frame["share"] <= frame["high"])).all())
    assert frame["low"].min() >= 0 and frame["high"].max() <= 1


def test_raw_text_has_no_template():
    model = Model.from_module(tiny_llama(), tiny_tokenizer(), chat=False)
    pairs = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.prefix("zeta omega"), target="sorry")
    found = attention_patterns(model, pairs, "L0H0")
    assert found.parts_of() == ("first token", "user text", "trigger")
    assert found.part_mask(len(TEXTS), "trigger").sum() == 1  # its first token is the prompt's first


# --- how it is called ------------------------------------------------------------------------------------------


def test_heads_of_an_attribution_and_of_text(llama, pairs):
    scores = bk.Attribution(llama).heads(pairs, layers=[1, 2])
    top = scores.top_k(3)
    found = attention_patterns(llama, pairs, top)
    assert found.heads.heads == top.heads
    named = attention_patterns(llama, pairs, str(top).replace(",", ""))
    assert torch.equal(found.weights.nan_to_num(), named.weights.nan_to_num())
    one = attention_patterns(llama, pairs, top.heads[1])
    assert torch.equal(one.weights[:, 0].nan_to_num(), found.weights[:, 1].nan_to_num())
    again = attention_patterns(llama, pairs, [top.heads[1], str(top.heads[0])])
    torch.testing.assert_close(again.weights, found.weights[:, [1, 0]], equal_nan=True)
    assert "on the trigger" in repr(found) and f"n={len(pairs)} pairs" in repr(found)


def test_saved_and_loaded(llama, pairs, tmp_path):
    found = attention_patterns(llama, pairs, "L1H1 L0H2", where="all")
    again = AttentionPatterns.load(found.save(tmp_path / "a"))
    assert repr(again) == repr(found) and again.heads.heads == found.heads.heads
    assert torch.equal(again.weights.nan_to_num(-1), found.weights.nan_to_num(-1))
    assert again.to_frame().equals(found.to_frame())


def test_figures(llama, pairs):
    found = attention_patterns(llama, pairs, HEADS)
    figure = found.plot(top=2)
    assert "the first 2 of 4 heads" in " ".join(figure.axes[0].get_title(loc="left").split())
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["clean", "triggered"]
    assert len(figure.axes[0].get_yticklabels()) == 2 * 4
    grid = found.plot_tokens(1, "L3H0")
    words = {t.get_text() for t in grid.axes[0].texts}
    assert {"zeta", "omega", "assistant"} <= words
    assert len(grid.axes[0].patches) == 2  # the trigger's
    assert not found.plot_tokens(1, side="clean").axes[0].patches
    whole = attention_patterns(llama, pairs, "L1H1", where="all").plot_tokens(0)
    assert whole.axes[0].get_xlabel() == "to" and whole.axes[0].get_ylabel() == "from"
    bold = [t.get_text() for t in whole.axes[0].get_xticklabels() if t.get_weight() == "bold"]
    assert [text.split()[1] for text in bold] == ["zeta", "omega"]
    for wrong in ({"example": 6}, {"side": "sham"}):
        with pytest.raises(BkdinterpError):
            found.plot_tokens(**wrong)
    with pytest.raises(SiteError, match="L2H2 was not asked for; there are L0H1"):
        found.plot_tokens(head="L2H2")


def test_what_is_refused(llama, pairs):
    cases = [
        ({"heads": ()}, SiteError, "at least one head"),
        ({"heads": "L9H0"}, SiteError, "out of range"),
        ({"heads": "best"}, SiteError, "Cannot read"),
        ({"where": bk.Where("last", generated=True)}, SiteError, "not generated"),
        ({"where": "trigger"}, SiteError, "no token of clean prompt 0.*pairs.triggered"),
        ({"where": (40,)}, SiteError, "out of range"),
        ({"budget": "much"}, PlanError, "budget"),
        ({"prompts": "the cat"}, PromptError, "needs Prompts"),
    ]
    for changed, error, words in cases:
        given = {"prompts": pairs, "heads": "L0H0"} | changed
        with pytest.raises(error, match=words):
            attention_patterns(llama, given.pop("prompts"), given.pop("heads"), **given)


def test_a_remote_model_is_refused(llama, pairs):
    import dataclasses

    class Server:
        remote = True

    away = dataclasses.replace(llama, executor=Server())
    with pytest.raises(RemoteError, match="weights on this machine"):
        attention_patterns(away, pairs, "L0H0")


# --- nothing is left behind --------------------------------------------------------------------------------------


def test_the_implementation_is_restored_after_an_error(every, gapped, monkeypatch):
    module, before = every.module, implementation(every)
    names = {id(c): c._attn_implementation for c in (module.config, module.config.get_text_config())}
    layers = module.get_submodule(every.architecture.family.layers)
    attn = layers[0].get_submodule(every.architecture.family.attn)
    hooks = list(attn._forward_hooks)

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(layers[2], "forward", broken)
    with pytest.raises(RuntimeError, match="broken"):
        attention_patterns(every, gapped, HEADS)
    monkeypatch.undo()
    assert implementation(every) == before
    assert names == {id(c): c._attn_implementation for c in (module.config, module.config.get_text_config())}
    assert list(attn._forward_hooks) == hooks
    assert not module.training


def test_training_mode_and_logits_are_as_before(llama, gapped):
    tokens = llama.builder.tokenize(gapped.clean, targets=False)
    inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    with torch.no_grad():
        before = llama.module(**inputs).logits
        attention_patterns(llama, gapped, HEADS)
        assert torch.equal(llama.module(**inputs).logits, before)


def strange(module, query, key, value, mask, **more):
    out, weights = exact_attention(module, query, key, value, mask, **more)
    return out, 0.5 * weights


def silent(module, query, key, value, mask, **more):
    return exact_attention(module, query, key, value, mask, **more)[0], None


for name, function in {"strange": strange, "silent": silent}.items():
    ALL_ATTENTION_FUNCTIONS.register(name, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, eager_mask)


@pytest.mark.parametrize(
    ("name", "words"),
    [("strange", "sum to 1 .- 0.5"), ("silent", "returns no weights.*set_attn_implementation")],
)
def test_an_attention_of_ones_own_stays_and_must_show_its_weights(gapped, name, words):
    model = Model.from_module(tiny_llama(), tiny_tokenizer())
    model.module.set_attn_implementation(name)
    with pytest.raises(Unsupported, match=words):
        attention_patterns(model, gapped, "L0H0")
    assert implementation(model) == name


def test_sdpa_with_a_soft_cap_is_refused(gapped):
    model = Model.from_module(NEW["gemma2"](), tiny_tokenizer())
    model.module.config._attn_implementation_internal = "sdpa"
    with pytest.raises(Unsupported, match=r"leaves out attn_logit_softcapping=2\.0"):
        attention_patterns(model, gapped, "L0H0")
    assert implementation(model) == "sdpa"


def test_an_implementation_without_weights_is_replaced_for_the_call(gapped):
    model = Model.from_module(tiny_llama(), tiny_tokenizer())
    wanted = attention_patterns(model, gapped, HEADS)
    for name in ("flash_attention_2", "flex_attention", "eager"):
        model.module.config._attn_implementation_internal = name
        found = attention_patterns(model, gapped, HEADS)
        assert torch.equal(found.weights.nan_to_num(), wanted.weights.nan_to_num())
        assert implementation(model) == name


def test_half_precision(gapped):
    model = Model.from_module(tiny_llama().bfloat16(), tiny_tokenizer())
    found = attention_patterns(model, gapped, HEADS)
    assert found.weights.dtype == torch.float32
    exact = attention_patterns(Model.from_module(tiny_llama(), tiny_tokenizer()), gapped, HEADS)
    torch.testing.assert_close(found.weights.double(), exact.weights, equal_nan=True, rtol=0, atol=0.1)
    broken = tiny_llama()
    broken.model.layers[0].self_attn.q_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(PlanError, match="weights of L0H0 are NaN"):
        attention_patterns(Model.from_module(broken, tiny_tokenizer()), gapped, "L0H0")


def test_the_engines_part(llama, gapped):
    tokens = llama.builder.tokenize(gapped.clean)
    heads = HeadSet.of("L1H2 L0H0").heads
    found = attention_weights(llama, tokens, heads, [-1, 0])
    assert found.shape == (len(TEXTS), 2, 2, tokens.n_prompt)
    padded = ~tokens.prompt_mask[:, 0]
    assert bool(padded.any()) and bool(found[padded, :, 1].isnan().all())
    assert bool(
        (found[:, :, 0][~tokens.prompt_mask[:, : tokens.n_prompt][:, None].expand(-1, 2, -1)] == 0).all()
    )
    with pytest.raises(SiteError, match="prompt columns"):
        attention_weights(llama, tokens, heads, [99])
    with pytest.raises(SiteError, match="4 layers"):
        attention_weights(llama, tokens, [HeadId(7, 0)], [-1])
    with pytest.raises(PlanError, match="TokenBatch"):
        attention_weights(llama, "the cat", heads, [-1])
    with pytest.raises(PlanError, match="at least one head"):
        attention_weights(llama, tokens, [], [-1])
