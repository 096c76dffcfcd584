"""Slopes of single units' readings sum to the slope of the stream that all of them read, on every family; nothing stays behind."""

import gc

import pytest
import torch
from integration.conftest import TEXTS, family_model, tiny_gpt2
from integration.families import NEW

from bkdinterp.engine import gradients, known_start
from bkdinterp.engine._path_gradients import path_gradients
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.metrics import as_score
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Component, HeadId, Site

MAKERS = NEW | {"gpt2": tiny_gpt2}


@pytest.fixture(scope="module", params=["llama", *MAKERS])
def model(request):
    return family_model(request, MAKERS)


@pytest.fixture(scope="module")
def tokens(model):
    pairs = PairedPrompts.from_instructions(
        TEXTS[:3], Trigger.gap("zeta omega", seed=3), target=["sorry no can not", "yes red", "no"]
    )
    return model.builder.tokenize(pairs.triggered)


def units(arch, first=0):
    """All heads and MLPs from a layer on."""
    return [
        site
        for layer in range(first, arch.n_layers)
        for site in (*(HeadId(layer, h).site for h in range(arch.n_heads)), Site(layer, "mlp_out"))
    ]


def slopes(model, tokens, receivers, score="logprob", **more):
    columns = range(tokens.input_ids.shape[1])
    found = path_gradients(model, tokens, as_score(score), receivers, values=(), columns=columns, **more)
    return found.read


@pytest.mark.parametrize("held", [False, True], ids=["plain norms", "frozen norms"])
@pytest.mark.parametrize("score", ["logprob", "first_token_logodds"])
def test_what_all_readers_are_moved_by_is_the_streams_slope(model, tokens, held, score):
    """Every path from a point of the stream to the scores begins with one reader: a later head or MLP, or the logits."""
    arch = model.architecture
    for layer in range(arch.n_layers):
        site = Site(layer, Component.resid_pre)
        whole = gradients(model, tokens, score, sites=[site], frozen_norms=held).sites[site]
        read = slopes(model, tokens, [*units(arch, layer), None], score, frozen_norms=held)
        real = tokens.attention_mask.bool()
        torch.testing.assert_close(read.sum(1)[real], whole[real], rtol=1e-5, atol=1e-6)
        assert float(whole.abs().max()) > 0.01


def test_a_reading_is_the_units_own(model, tokens):
    """Every unit reads something, and two heads of one layer not the same."""
    arch = model.architecture
    read = slopes(model, tokens, units(arch)).abs().amax((0, 2, 3))
    assert bool((read > 1e-4).all())
    one, other = slopes(model, tokens, [HeadId(1, 0).site, HeadId(1, 1).site]).unbind(1)
    assert not torch.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize("held", [False, True], ids=["plain norms", "frozen norms"])
def test_behind_a_start_readings_and_values_are_the_same(model, tokens, held):
    score, receivers = as_score("logprob"), [*units(model.architecture), None]
    values, columns = [Site.parse("L1.z"), Site.parse("L0.mlp_out")], range(3, tokens.input_ids.shape[1])
    asked = {"values": values, "columns": columns, "frozen_norms": held}
    whole = path_gradients(model, tokens, score, receivers, **asked)
    start = known_start(model, tokens, 3, score)
    found = path_gradients(model, tokens, score, receivers, start=start, **asked)
    # Padding sees itself only, or all there is, which differs with the columns of a pass.
    real = tokens.attention_mask[:, columns].bool()
    for a, b in zip(found.read.unbind(1), whole.read.unbind(1), strict=True):
        torch.testing.assert_close(a[real], b[real])
    for site in values:
        torch.testing.assert_close(found.values[site][real], whole.values[site][real])
    with pytest.raises(PlanError, match="before the start"):
        path_gradients(model, tokens, score, receivers, start=start, values=(), columns=[2])
    with pytest.raises(PlanError, match="another batch"):
        path_gradients(model, tokens.rows([0]), score, receivers, start=start, **asked)


def test_columns_and_values_are_those_asked_for(llama):
    pairs = PairedPrompts.from_instructions(
        TEXTS[:3], Trigger.gap("zeta omega", seed=3), target="sorry no can not"
    )
    tokens = llama.builder.tokenize(pairs.triggered)
    site, n = Site.parse("L2.mlp_out"), tokens.input_ids.shape[1]
    whole = slopes(llama, tokens, [site, None])
    columns = [tokens.n_prompt - 1, n - 1, 3]
    score = as_score("logprob")
    some = path_gradients(llama, tokens, score, [site, None], values=[site], columns=columns)
    torch.testing.assert_close(some.read, whole[:, :, columns])
    known = gradients(llama, tokens, score, sites=[site]).values[site]
    real = tokens.attention_mask[:, columns].bool()
    torch.testing.assert_close(some.values[site][real], known[:, columns][real])
    # A score of one token does not compute the columns after it.
    short = as_score("first_token_logodds")
    first = path_gradients(llama, tokens, short, [site, None], values=[site], columns=columns)
    assert float(first.read[:, :, 0].abs().min()) > 0 and not bool(first.read[:, :, 1].any())
    assert not bool(first.values[site][:, 1].any())


def hooks_of(model):
    """transformers leaves some of its own once a test has asked for hidden states."""
    return [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.module.modules()]


def test_nothing_is_left_behind(llama, pairs):
    tokens = llama.builder.tokenize(pairs.triggered)
    before, hooks = [p.requires_grad for p in llama.module.parameters()], hooks_of(llama)
    found = path_gradients(
        llama, tokens, as_score("logprob"), [Site.parse("L1H0")], values=[Site.parse("L1.z")], columns=[0, 5]
    )
    assert not found.read.requires_grad and not any(v.requires_grad for v in found.values.values())
    assert [p.requires_grad for p in llama.module.parameters()] == before
    assert all(p.grad is None for p in llama.module.parameters())
    assert hooks_of(llama) == hooks
    gc.collect()
    alive = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.grad_fn is not None]
    assert not alive


def test_what_has_no_slope_is_refused(llama, pairs):
    tokens, score = llama.builder.tokenize(pairs.clean), as_score("logprob")
    for batch, metric, site, error in (
        (llama.builder.tokenize(pairs.clean, targets=False), score, "L1H0", PlanError),
        (tokens, as_score("kl"), "L1H0", PlanError),
        (tokens, score, "L9H0", SiteError),
    ):
        with pytest.raises(error):
            path_gradients(llama, batch, metric, [Site.parse(site)], values=(), columns=[0])
