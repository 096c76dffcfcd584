"""Derivatives equal finite differences, for every family; scores equal the engine's; nothing of the call is left behind."""

import pytest
import torch
from integration import families
from integration.conftest import TEXTS, tiny_tokenizer
from integration.families import NEW

from bkdinterp.engine import Run, _shared_start, execute, gradients, known_start, token_embeddings
from bkdinterp.errors import PlanError, PromptError, SiteError
from bkdinterp.interventions import Patch, Read, Stack, Steer
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Site, Where

STEP = 1e-3  # the families keep their norms in float32, whatever the weights are


SIGNS = (1, -1, 2, -2)
EVERYWHERE = Where("all", generated=True)


def slope(scores):
    """The derivative from scores at these multiples of the step, without its second-order error."""
    near, far = (scores[0] - scores[1]) / (2 * STEP), (scores[2] - scores[3]) / (4 * STEP)
    return (4 * near - far) / 3


@pytest.fixture(scope="module", params=NEW)
def model(request):
    return Model.from_module(NEW[request.param](), tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="module")
def prompts():
    return PairedPrompts.from_instructions(
        TEXTS[2:4], Trigger.gap("zeta omega", seed=3), target=["sorry no can not", "yes red"]
    ).triggered


@pytest.fixture(scope="module")
def tokens(model, prompts):
    return model.builder.tokenize(prompts)


def test_scores_are_the_engines(model, prompts, tokens):
    for score in ("logprob", "first_token_logodds"):
        (run,) = execute(model, [Run(prompts, score=score)])
        torch.testing.assert_close(gradients(model, tokens, score).scores, run.scores, rtol=1e-8, atol=1e-10)


def test_sites_equal_finite_differences(model, prompts, tokens):
    """A steer by a small vector at one token moves the score by what the derivative says."""
    sites = [
        Site(layer, c)
        for c in model.architecture.components
        for layer in (1, model.architecture.n_layers - 1)
    ]
    found = gradients(model, tokens, sites=sites)
    draw = torch.Generator().manual_seed(0)
    runs, expected = [], []
    for site in sites:
        direction = torch.randn(found.values[site].shape[-1], generator=draw, dtype=torch.float64)
        runs += [
            Run(prompts, Steer(site, sign * STEP * direction, where=Where("last")), score="logprob")
            for sign in SIGNS
        ]
        expected.append(found.sites[site][:, tokens.n_prompt - 1] @ direction)
    results = execute(model, runs)
    moved = [slope([r.scores for r in results[i : i + 4]]) for i in range(0, len(results), 4)]
    for site, said, truth in zip(sites, expected, moved, strict=True):
        torch.testing.assert_close(said, truth, rtol=1e-2, atol=1e-3, msg=lambda m, s=site: f"{s}: {m}")
    assert max(float(m.abs().max()) for m in moved) > 0.05


def test_values_and_slices(model, prompts, tokens):
    whole, head, neuron = Site.parse("L1.z"), Site.parse("L1H2"), Site(1, "mlp_act", neuron=3)
    sites = [whole, head, neuron, "L1.mlp_act"] + ["L1.resid_mid"] * (not model.architecture.parallel)
    found = gradients(model, tokens, sites=sites)
    d = model.architecture.d_head
    torch.testing.assert_close(found.sites[head], found.sites[whole][..., 2 * d : 3 * d])
    torch.testing.assert_close(found.sites[neuron], found.sites[Site.parse("L1.mlp_act")][..., 3:4])
    reads = tuple(Read(site, "last") for site in found.values)
    (run,) = execute(model, [Run(prompts, reads=reads, score="logprob")])
    for site, value in zip(found.values, run.reads, strict=True):
        torch.testing.assert_close(found.values[site][:, tokens.n_prompt - 1], value)


def mixture(model, site, keep):
    width = model.architecture.width(site)
    return torch.full((width,), keep, dtype=torch.float64), torch.linspace(-1, 1, width, dtype=torch.float64)


@pytest.mark.parametrize("name", ["z", "mlp_out", "mlp_act", "attn_out", "resid_pre"])
def test_a_mixture_is_an_edit_and_its_slope_that_of_the_gate(model, prompts, tokens, name):
    site = Site(1, name)
    _, other = mixture(model, site, 0.0)
    runs = [
        Run(prompts, edit, score="logprob")
        for edit in (Patch(site, {str(site): other}, where=EVERYWHERE), Stack())
    ]
    for keep, run in zip((0.0, 1.0), execute(model, runs), strict=True):
        mixed = {site: mixture(model, site, keep)}
        found = gradients(model, tokens, sites=[site], mixed=mixed)
        torch.testing.assert_close(found.scores, run.scores, rtol=1e-8, atol=1e-10)
    scores = [
        gradients(model, tokens, sites=[site], mixed={site: mixture(model, site, 0.5 + sign * STEP)}).scores
        for sign in SIGNS
    ]
    found = gradients(model, tokens, sites=[site], mixed={site: mixture(model, site, 0.5)})
    said = (found.sites[site] * (found.values[site] - other)).sum((1, 2))
    torch.testing.assert_close(said, slope(scores), rtol=1e-2, atol=1e-3)
    assert float(said.abs().max()) > 0.01


def test_embeddings_in(model, tokens):
    own = token_embeddings(model, tokens.input_ids)
    found = gradients(model, tokens)
    torch.testing.assert_close(gradients(model, tokens, embeddings=own).scores, found.scores)
    column, direction = tokens.n_prompt - 2, torch.linspace(-1, 1, own.shape[-1], dtype=own.dtype)
    moved = []
    for sign in SIGNS:
        other = own.clone()
        other[:, column] += sign * STEP * direction
        moved.append(gradients(model, tokens, embeddings=other).scores)
    torch.testing.assert_close(slope(moved), found.embeddings[:, column] @ direction, rtol=1e-2, atol=1e-3)
    assert bool((found.embeddings[~tokens.attention_mask.bool()] == 0).all())


def test_what_stands_before_a_start_is_computed_once(model, tokens):
    """Rows that share their first tokens: the same scores and derivatives, from fewer tokens."""
    copies = tokens.rows([0, 1, 0, 1, 0])
    for start in (1, tokens.n_prompt // 2, tokens.n_prompt - 1):
        whole, rows = gradients(model, copies), []
        watch = model.module.register_forward_pre_hook(
            lambda _, args, kwargs, rows=rows: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        found = gradients(model, copies, start=start)
        watch.remove()
        torch.testing.assert_close(found.scores, whole.scores)
        torch.testing.assert_close(found.embeddings, whole.embeddings[:, start:])
        columns = copies.input_ids.shape[1]
        forgets = (model.architecture.sliding_window or columns) < columns
        assert rows == ([(5, columns)] if forgets else [(2, start), (5, columns - start)])
    own = token_embeddings(model, tokens.input_ids)
    mixed = {"sites": ["L0.z"], "mixed": {"L0.z": mixture(model, Site.parse("L0.z"), 0.5)}}
    for start, others in ((tokens.n_prompt, {}), (-1, {}), (2, {"embeddings": own}), (2, mixed)):
        with pytest.raises(PlanError, match="start"):
            gradients(model, tokens, start=start, **others)


@pytest.mark.parametrize("held", [False, True], ids=["plain norms", "frozen norms"])
@pytest.mark.parametrize("score", ["logprob", "first_token_logodds"])
def test_sites_behind_a_start_have_the_same_values_and_derivatives(model, tokens, score, held):
    """Every component of every layer; one start serves several calls."""
    arch = model.architecture
    sites = [Site(layer, c) for c in arch.components for layer in range(arch.n_layers)]
    whole = gradients(model, tokens, score, sites=sites, frozen_norms=held)
    for column in (1, tokens.n_prompt - 1):
        start = known_start(model, tokens, column, score)
        for _ in range(2):
            found = gradients(model, tokens, score, sites=sites, frozen_norms=held, start=start)
            torch.testing.assert_close(found.scores, whole.scores)
            for site in sites:
                torch.testing.assert_close(found.values[site], whole.values[site][:, column:])
                torch.testing.assert_close(found.sites[site], whole.sites[site][:, column:])
    other = "first_token_logodds" if score == "logprob" else "logprob"
    for batch, metric, words in (
        (tokens.rows([0]), score, "another batch"),
        (tokens.rows([1, 0]), score, "another batch"),
        (tokens, other, "columns"),
    ):
        with pytest.raises(PlanError, match=words):
            gradients(model, batch, metric, start=start)


@pytest.mark.parametrize("score", ["logprob", "first_token_logodds"])
def test_a_start_that_begins_alike(model, prompts, score, monkeypatch):
    """Prompts of several lengths share their first tokens, which are computed once: in front of the padding."""
    monkeypatch.setattr(_shared_start, "FIXED_TOKENS", 0)
    texts = [
        f"the cat on the hill can {rest}" for rest in ("see", "see the red sky", "not help the blue cat")
    ]
    pairs = PairedPrompts.from_instructions(texts, Trigger.suffix("zeta omega"), target="sorry no can not")
    tokens = model.builder.tokenize(pairs.clean).rows([0, 1, 2, 1])
    sites = [Site(1, "z"), Site(2, "mlp_out")]
    whole, rows = gradients(model, tokens, score, sites=sites), []
    watch = model.module.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = gradients(model, tokens, score, sites=sites, start=tokens.n_prompt - 2)
    watch.remove()
    torch.testing.assert_close(found.scores, whole.scores)
    for site in sites:
        real = tokens.attention_mask[:, tokens.n_prompt - 2 :].bool()
        torch.testing.assert_close(
            found.values[site][real], whole.values[site][:, tokens.n_prompt - 2 :][real]
        )
        torch.testing.assert_close(found.sites[site], whole.sites[site][:, tokens.n_prompt - 2 :])
    if (model.architecture.sliding_window or 99) >= tokens.input_ids.shape[1]:
        (one, common), (kinds, rest), _ = rows
        assert (one, kinds) == (1, 3) and common > 5 and common + rest == tokens.n_prompt - 2


@pytest.mark.parametrize("family", [families.tiny_mistral, families.tiny_gemma2])
@pytest.mark.parametrize("more", [0, 1])
def test_a_start_within_a_window_that_just_holds_the_rows(family, more, prompts):
    """Scaled embeddings, soft-caps, norms held fixed; rows that are padding up to the start."""
    columns = Model.from_module(family(), tiny_tokenizer()).builder.tokenize(prompts).input_ids.shape[1]
    model = Model.from_module(family(sliding_window=columns + more), tiny_tokenizer())
    tokens = model.builder.tokenize(prompts).rows([0, 1, 1])
    padded = tokens.attention_mask.bool()[:, 0].logical_not()
    assert padded.any() and not padded.all()
    for start in (1, tokens.n_prompt - 1):
        whole = gradients(model, tokens, frozen_norms=True)
        found = gradients(model, tokens, frozen_norms=True, start=start)
        torch.testing.assert_close(found.scores, whole.scores)
        torch.testing.assert_close(found.embeddings, whole.embeddings[:, start:])


def test_nothing_is_left_behind(model, tokens):
    module = model.module
    asking = {name: p.requires_grad for name, p in module.named_parameters()}
    with torch.no_grad():
        found = gradients(model, tokens, sites=["L0.resid_post"])
        assert not torch.is_grad_enabled()
    kept = [found.scores, found.embeddings, *found.values.values(), *found.sites.values()]
    assert not any(x.requires_grad for x in kept)
    assert {name: p.requires_grad for name, p in module.named_parameters()} == asking
    assert all(p.grad is None for p in module.parameters())
    assert not any(m._forward_pre_hooks for name, m in module.named_modules() if name.endswith("o_proj"))


def test_what_cannot_be_differentiated(model, prompts, tokens):
    with pytest.raises(PlanError, match="unedited run"):
        gradients(model, tokens, "kl")
    with pytest.raises(PlanError, match="targets"):
        gradients(model, model.builder.tokenize(prompts, targets=False))
    with pytest.raises(SiteError, match="layers"):
        gradients(model, tokens, sites=["L99.z"])
    with pytest.raises(PlanError, match="shape"):
        gradients(model, tokens, embeddings=torch.zeros(1, 2, 3))
    site = Site(1, "z")
    for sites, mixed in (
        ([], mixture(model, site, 1.0)),
        ([site], (torch.ones(1), torch.ones(1))),
        (["L1.mlp_out"], mixture(model, site, 1.0)),
    ):
        with pytest.raises(PlanError, match=r"mixed|mixture"):
            gradients(model, tokens, sites=sites, mixed={site: mixed})
    with pytest.raises(PlanError, match="two tensors"):
        gradients(model, tokens, sites=["L1.z"], mixed={"L1.z": torch.ones(3)})
    with pytest.raises(PlanError, match="whole activation"):
        gradients(model, tokens, sites=["L1H0"], mixed={Site.parse("L1H0"): mixture(model, site, 1.0)})
    with pytest.raises(PromptError, match="Token ids"):
        token_embeddings(model, torch.tensor([10**6]))
