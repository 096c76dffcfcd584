"""Estimates of edges are derivatives of path patching and sum to attribution patching; verified edges are path patching itself."""

import dataclasses

import pytest
import torch
from integration.conftest import family_model, tiny_gpt2, tiny_llama, tiny_tokenizer
from integration.families import NEW
from integration.plain_paths import Plain

import bkdinterp as bk
from bkdinterp.errors import BkdinterpError, PlanError, PromptError, RemoteError, SiteError
from bkdinterp.methods import ScreenedEdges, screen_edges, trace_edges
from bkdinterp.methods.circuits import _screen_edges as screening
from bkdinterp.methods.circuits._direct_paths import all_units, checked_units, edges_between
from bkdinterp.methods.circuits._linear_edges import linear_edges
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Site, Where

MAKERS = NEW | {"gpt2": tiny_gpt2}
POST_NORM = ("gemma2", "gemma3")
TEXTS = ["tell me about the cat", "the dog ran on", "blue sky", "a hill"]
STEP = 2e-2  # the families keep their norms in float32, whatever the weights are
SETTINGS = {
    "noising": {},
    "denoising": {"direction": "denoising"},
    "pair": {"source": "pair"},
    "difference": {"source": "difference"},
    "own side": {"source": "clean"},
    "all tokens": {"where": "all"},
    "trigger": {"where": "trigger", "direction": "denoising"},
    "an index": {"where": (-2,)},
    "answers": {"where": Where("last", generated=True)},
}


@pytest.fixture(scope="module", params=["llama", *MAKERS])
def model(request):
    return family_model(request, MAKERS)


@pytest.fixture(scope="module")
def answered():
    return PairedPrompts.from_instructions(TEXTS, Trigger.gap("zeta omega", seed=3), target="sorry no")


def flat_estimates(settings, pairs, units):
    """Sites, edges and their estimates per example."""
    (unedited,), origin = settings._runs([], pairs, {})
    sites = checked_units(tuple(map(Site.parse, units)), settings.model.architecture)
    edges = edges_between(sites, parallel=settings.model.architecture.parallel)
    plain, frozen = linear_edges(
        settings.model, unedited.prompts, sites, origin, unedited.declared, {"progress": False}
    )
    assert plain.shape == (len(edges), len(pairs)) and frozen.shape == (len(edges),)
    return sites, edges, plain


def check(settings, pairs, units):
    """Every estimate is the derivative of the edge's exact effect along the change, by plain hooks."""
    sites, edges, estimates = flat_estimates(settings, pairs, units)
    plain = Plain(settings.model)
    edited = pairs.clean if settings.direction == "noising" else pairs.triggered
    prompts = [edited.subset([i]) for i in range(len(pairs))]
    changes = {site: plain.changes(settings, pairs, site) for site in sites}
    largest = 0.0
    for (i, j), estimate in zip(edges, estimates, strict=True):
        to = sites[j] if j < len(sites) else None
        slopes = []
        for prompt, change in zip(prompts, changes[sites[i]], strict=True):
            way = (plain.edge(prompt, settings.where, s * STEP * change, to) for s in (1, -1, 2, -2))
            up, down, far_up, far_down = way
            # Without its second-order error.
            slopes.append((8 * (up - down) - (far_up - far_down)) / (12 * STEP))
        truth = torch.stack(slopes)
        torch.testing.assert_close(
            estimate, truth, rtol=2e-3, atol=2e-5, msg=lambda m, e=(sites[i], to): f"{e}: {m}"
        )
        largest = max(largest, float(truth.abs().max()))
    assert largest > 1e-3


def test_an_estimate_is_the_slope_of_the_exact_effect(model, answered):
    heads = [] if any(name in model.name for name in POST_NORM) else ["L0H1", "L1H2", "L3H0"]
    check(bk.Attribution(model), answered.subset([0, 1]), [*heads, "L1.mlp_out", "L2.mlp_out", "L3.mlp_out"])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_and_so_it_is_for_every_source_and_position(request, answered, name, family):
    small = request.getfixturevalue("llama") if family == "llama" else None
    small = small or Model.from_module(NEW[family](), tiny_tokenizer(), name=f"tiny-{family}")
    check(bk.Attribution(small, **SETTINGS[name]), answered.subset([0, 2]), ["L0H1", "L1.mlp_out", "L2H1"])


def sums_and_units(settings, pairs):
    """Estimates of senders, summed over all receivers; and attribution patching's of the same units."""
    found = screen_edges(settings, pairs, keep=1, audit=0, progress=False)
    index = {str(name): i for i, name in enumerate(found.units)}
    sums, units = [], []
    for kind in ("heads", "mlps"):
        screened = settings.screen(pairs, kind, keep=1, audit=0, progress=False)
        places = [index[str(screened._site(i))] for i in range(len(screened.verified))]
        sums.append(found.estimates.nansum(-1)[:, places])
        units.append(screened.estimates)
    assert sum(part.shape[1] for part in sums) == len(found.units)
    return torch.cat(sums, 1), torch.cat(units, 1)


def test_over_all_receivers_estimates_sum_to_attribution_patching(model, answered):
    """Whatever a unit does, it does to what reads the stream after it; in both ways to estimate."""
    if any(name in model.name for name in POST_NORM):
        pytest.skip("Heads have no part of their own in the stream; test_path_gradients has the identity.")
    sums, units = sums_and_units(bk.Attribution(model), answered)
    torch.testing.assert_close(sums, units, rtol=1e-4, atol=1e-6)
    assert float(units[0].abs().max()) > 1e-3 and not torch.allclose(units[0], units[1], rtol=1e-2)


@pytest.mark.parametrize("name", SETTINGS)
def test_and_so_they_do_for_every_source_and_position(llama, answered, name):
    sums, units = sums_and_units(bk.Attribution(llama, **SETTINGS[name]), answered)
    torch.testing.assert_close(sums, units, rtol=1e-4, atol=1e-6)


def gap(logits, targets, mask):
    return logits[:, 0, 5] - logits[:, 0, 7]


def test_where_everything_is_linear_estimates_are_exact(answered):
    """To the logits, without a last norm and with a difference of two logits as the metric."""
    module = tiny_llama()
    module.model.norm = torch.nn.Identity()
    straight = Model.from_module(module, tiny_tokenizer(), name="tiny-straight")
    settings = bk.Attribution(straight, metric=bk.Score(gap, n_targets=1))
    found = screen_edges(settings, answered, keep=10_000, progress=False)
    assert found.verified[:, -1].all()
    for way in found.estimates[:, :, -1]:
        torch.testing.assert_close(way, found.acie[:, -1], rtol=1e-9, atol=1e-12)
    assert float(found.acie[:, -1].abs().max()) > 0.1
    among = found.verified[:, :-1]
    assert not torch.allclose(found.estimates[0, :, :-1][among], found.acie[:, :-1][among], rtol=0.1)


@pytest.mark.parametrize("name", SETTINGS)
def test_all_verified_is_trace_edges(llama, answered, name):
    settings, units = bk.Attribution(llama, **SETTINGS[name]), ["L0H1", "L1H2", "L1.mlp_out", "L2H1"]
    exact = trace_edges(settings, answered, units, progress=False)
    found = screen_edges(settings, answered, units, keep=1000, progress=False)
    assert isinstance(found, ScreenedEdges) and not len(found.sampled)
    assert (found.verified == exact.scored).all() and found.units == exact.units
    torch.testing.assert_close(found.effects, exact.effects, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found.base, exact.base, rtol=0, atol=0)
    assert found.top_k(3) == exact.top_k(3) and found.significant() == exact.significant()
    assert "exact: every edge was verified" in str(found.audit(3))


def test_all_units_are_heads_and_mlps_or_mlps_alone(model):
    arch = model.architecture
    units = all_units(arch)
    heads = 0 if any(name in model.name for name in POST_NORM) else arch.n_layers * arch.n_heads
    assert len(units) == heads + arch.n_layers == len(set(units))
    assert checked_units(units, arch) == units


def test_claims_name_verified_edges_only(llama, answered):
    found = screen_edges(bk.Attribution(llama), answered, keep=8, audit=12, seed=1, progress=False)
    n = len(found.units)
    assert n == 20 and found.effects.shape == (n, n + 1, len(TEXTS))
    sites = list(map(Site.parse, found.units))
    count = len(edges_between(sites, parallel=False))
    assert found.n_estimated == count and int((~found.estimates.isnan()).sum()) == 2 * count
    assert 8 + 12 <= found.n_scored <= 28 and len(found.sampled) == 12
    assert found.verified.flatten()[found.sampled].all()
    exact = trace_edges(bk.Attribution(llama), answered, found.units, progress=False)
    torch.testing.assert_close(found.effects[found.verified], exact.effects[found.verified])
    assert not found.effects[~exact.scored].isfinite().any() and not found.verified[~exact.scored].any()
    guesses = ~found.verified & exact.scored
    torch.testing.assert_close(found.effects[guesses].mean(1), found.estimates[0][guesses])
    # The best of each way to estimate are there, whatever was drawn.
    for way in found.estimates:
        best = way.flatten().nan_to_num(nan=-torch.inf).topk(8).indices
        assert found.verified.flatten()[best].all() and not torch.isin(best, found.sampled).any()
    frame = found.to_frame()
    assert len(frame) == found.n_scored and frame["sampled"].sum() == 12
    named = {(a, b) for a, b in zip(frame["sender"], frame["receiver"], strict=True)}
    assert set(found.top_k(found.n_scored)) == named
    assert set(found.significant(1.0)) == named
    i, j = guesses.nonzero()[0].tolist()
    with pytest.raises(SiteError, match="was not scored"):
        found.interval((found.units[i], found.receivers[j]))
    with pytest.raises(SiteError, match="no edge"):
        found.interval(("L2H0", "L1H0"))
    with pytest.raises(SiteError, match=rf"choose 1 to {found.n_scored}"):
        found.top_k(found.n_scored + 1)
    # Corrected for all edges, not for the verified ones.
    alone = bk.stats.simultaneous(found.effects[found.verified])
    assert found.intervals().critical > alone.critical
    assert f"{count:,} edges between 20 units and the logits, {found.n_scored} of them verified" in repr(
        found
    )
    graph = found.to_mib(llama.architecture, found.n_scored)
    assert any(edge["score"] for edge in graph["edges"].values())


def test_the_audit_counts_edges_only(llama, answered):
    found = screen_edges(bk.Attribution(llama), answered, keep=4, audit=12, progress=False)
    said = found.audit(2)
    assert said.n_sampled == 12 and said.n_verified + said.n_rest == found.n_estimated
    assert 0 <= said.above <= 12 and said.above <= said.missed_at_most < said.n_rest
    unseen = ~found.verified & ~found.acie.isnan()
    best = float(found.acie.flatten()[found.order(2)[-1]])
    assert said.margin == pytest.approx(best - float(found.estimates[:, unseen].max()))
    assert "A missed edge's estimate" in str(said) or "verify more" in str(said)
    with pytest.raises(SiteError, match="k"):
        found.audit(0)


def test_batches_do_not_change_estimates(llama, answered):
    settings = bk.Attribution(llama, where="all")
    whole = screen_edges(settings, answered, keep=1, audit=0, progress=False)
    cut = screen_edges(settings, answered, keep=1, audit=0, budget=1_000_000, progress=False)
    torch.testing.assert_close(cut.estimates, whole.estimates, equal_nan=True)


def test_the_budget_sets_the_rows_of_a_batch(llama, answered, monkeypatch):
    sizes = []
    from bkdinterp.methods.circuits import _linear_edges as module

    original = module.path_gradients
    monkeypatch.setattr(
        module, "path_gradients", lambda m, b, *a, **k: sizes.append(len(b)) or original(m, b, *a, **k)
    )
    screen_edges(
        bk.Attribution(llama, where="all"), answered, keep=1, audit=0, budget=1_000_000, progress=False
    )
    assert max(sizes) < len(answered) and sum(sizes) == 2 * len(answered)


def test_a_folder_keeps_estimates_and_chunks(llama, answered, tmp_path, monkeypatch):
    settings = bk.Attribution(llama)
    whole = screen_edges(settings, answered, folder=tmp_path / "s", keep=4, audit=3, progress=False)

    def never(*args, **kwargs):
        raise AssertionError("a forward pass")

    with monkeypatch.context() as patch:
        patch.setattr(llama.module, "forward", never)
        again = screen_edges(settings, answered, folder=tmp_path / "s", keep=4, audit=3, progress=False)
        torch.testing.assert_close(again.effects, whole.effects, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(again.estimates, whole.estimates, rtol=0, atol=0, equal_nan=True)
    monkeypatch.setattr(screening, "linear_edges", never)
    others = [
        {"metric": "first_token_logodds"},
        {"direction": "denoising"},
        {"source": "clean"},
        {"where": "all"},
    ]
    for other in others:
        with pytest.raises(AssertionError, match="a forward pass"):
            screen_edges(
                dataclasses.replace(settings, **other), answered, folder=tmp_path / "s", progress=False
            )
    for pairs, units in ((answered.subset((0, 1, 2)), None), (answered, "L0H1 L1H0")):
        with pytest.raises(AssertionError, match="a forward pass"):
            screen_edges(settings, pairs, units, folder=tmp_path / "s", progress=False)


def test_it_is_saved_drawn_and_compared(llama, answered, tmp_path):
    found = screen_edges(bk.Attribution(llama), answered, "L0H1 L1H0 L2.mlp_out", keep=2, audit=2)
    again = ScreenedEdges.load(found.save(tmp_path / "s"))
    torch.testing.assert_close(again.effects, found.effects, equal_nan=True)
    assert again.units == found.units and repr(again) == repr(found)
    axes = found.plot().axes[0]
    assert axes.get_ylabel().startswith("exact") and "6 verified" in axes.get_title(loc="left")
    other = screen_edges(bk.Attribution(llama), answered, "L0H1 L1H0 L2.mlp_out", keep=1, audit=0)
    both = found.compare(other)
    assert (both.verified == (found.verified & other.verified)).all() and not len(both.sampled)
    with pytest.raises(BkdinterpError, match="units"):
        found.compare(screen_edges(bk.Attribution(llama), answered, "L0H1 L1H0 L1.mlp_out", keep=2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"audit": -1}, "audit"),
        ({"seed": "x"}, "seed"),
        ({"units": "L99H0"}, "L99"),
        ({"units": "L1.resid_pre"}, "neither a head nor an MLP"),
        ({"units": "L1.z"}, "neither a head nor an MLP"),
        ({"units": []}, "no units"),
        ({"metric": "kl"}, "no slope"),
        ({"where": "trigger"}, "selects no token"),
    ],
)
def test_bad_input_is_refused_before_any_forward(llama, answered, given, words, monkeypatch):
    monkeypatch.setattr(llama.module, "forward", lambda *_, **__: pytest.fail("a forward pass"))
    ours = {name: given.pop(name) for name in ("metric", "where") if name in given}
    with pytest.raises(BkdinterpError, match=words):
        screen_edges(bk.Attribution(llama, **ours), answered, **given)


def test_other_kinds_of_input_are_refused(llama, answered):
    with pytest.raises(PlanError, match="needs an Attribution"):
        screen_edges(llama, answered)
    with pytest.raises(PromptError, match="screen_edges needs PairedPrompts"):
        screen_edges(bk.Attribution(llama), answered.clean)
    post = Model.from_module(NEW["gemma2"](), tiny_tokenizer(), name="tiny-gemma2")
    with pytest.raises(SiteError, match="give MLPs only"):
        screen_edges(bk.Attribution(post), answered, "L0H1")
    away = dataclasses.replace(llama, executor=bk.Remote())
    with pytest.raises(RemoteError, match=r"screen_edges\(\) needs the weights on this machine"):
        screen_edges(bk.Attribution(away), answered)
