"""Screening: estimates are slopes times changes, verified effects are the exact sweep's, and claims name only those."""

import dataclasses

import pytest
import torch
from integration.conftest import TEXTS, tiny_tokenizer
from integration.families import NEW

import bkdinterp as bk
from bkdinterp.engine import Run, execute, gradients
from bkdinterp.errors import BkdinterpError, PlanError, RemoteError, SiteError
from bkdinterp.interventions import From, Read, Steer
from bkdinterp.methods.attribution import _linear_effects
from bkdinterp.methods.attribution import _verified_screen as _screening
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Where

STEP = 1e-3  # the families keep their norms in float32, whatever the weights are
UNITS = ("heads", "attentions", "mlps", "neurons")
EXACT = {"heads": "heads", "attentions": "attentions", "mlps": "mlps"}


@pytest.fixture(scope="module", params=["llama", *NEW])
def each(request):
    from integration.conftest import tiny_llama

    made = tiny_llama() if request.param == "llama" else NEW[request.param]()
    return Model.from_module(made, tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="module")
def some():
    return PairedPrompts.from_instructions(
        TEXTS[:4], Trigger.gap("zeta omega", seed=3), target="sorry no can not"
    )


def estimates(model, pairs, kind, **settings):
    """Estimates of all units, [unit]; one unit is verified."""
    return bk.Attribution(model, **settings).screen(pairs, kind, keep=1, audit=0).estimates[0]


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_an_estimate_is_the_slope_of_moving_the_unit_to_its_patched_value(each, some, kind, direction):
    """The derivative of the score along the way from the activation to the value, from runs that are steered by a bit of it."""
    found = bk.Attribution(each, direction=direction).screen(some, kind, keep=1, audit=0)
    edited, giving = (some.clean, some.triggered) if direction == "noising" else (some.triggered, some.clean)
    picked = [0, len(found.verified) // 2, len(found.verified) - 1]
    for index in picked:
        site = found._site(index)
        (source, own) = execute(
            each,
            [Run(giving, reads=(Read(site, "last", "mean"),)), Run(edited, reads=(Read(site, "last"),))],
        )
        changes = source.reads[0] - own.reads[0]
        slopes = []
        for i, change in enumerate(changes):
            one = edited.subset((i,))
            size = float(change.norm()) or 1.0
            way = [
                Run(one, Steer(site, s * STEP * change / size, where=Where("last")), score="logprob")
                for s in (1, -1, 2, -2)
            ]
            up, down, far_up, far_down = (r.scores for r in execute(each, way))
            # Without its second-order error.
            slopes.append(size * (8 * (up - down) - (far_up - far_down)) / (12 * STEP))
        expected = torch.cat(slopes).mean()
        torch.testing.assert_close(found.estimates[0, index], expected, rtol=5e-3, atol=2e-3)


def test_frozen_norms_equal_norms_with_recorded_scales(each, some):
    """The same derivatives as in a model whose norms divide by numbers that were recorded in a plain forward."""
    tokens = each.builder.tokenize(some.triggered)
    site = f"L{each.architecture.n_layers - 2}.mlp_out"
    plain = gradients(each, tokens, sites=[site])
    found = gradients(each, tokens, sites=[site], frozen_norms=True)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-9, atol=1e-9)
    handles = []
    for path in each.architecture.norms:
        norm = each.module.get_submodule(path)
        flat = isinstance(norm, torch.nn.LayerNorm)

        def divide(_, args, out, flat=flat, norm=norm):
            (x,) = args
            centred = x - x.mean(-1, keepdim=True) if flat else x
            power = centred.detach().square().mean(-1, keepdim=True)
            eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
            unit = centred * torch.rsqrt(power + eps)
            weight = norm.weight + (1 if "Gemma" in type(norm).__name__ else 0)
            return (unit * weight + (norm.bias if flat else 0)).to(out)

        handles.append(norm.register_forward_hook(divide))
    try:
        expected = gradients(each, tokens, sites=[site])
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(
        found.sites[bk.Site.parse(site)], expected.sites[bk.Site.parse(site)], rtol=1e-4, atol=1e-6
    )
    assert not torch.allclose(found.embeddings, plain.embeddings, rtol=1e-3)


@pytest.mark.parametrize("settings", [
    {}, {"direction": "denoising"}, {"source": "difference"}, {"source": "pair"}, {"where": "all", "source": "triggered"},
    {"direction": "denoising", "where": "trigger"}, {"metric": "first_token_logodds"},
    {"where": Where("last", generated=True)},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["heads", "mlps"])
def test_all_verified_is_the_exact_sweep(llama, pairs, settings, kind):
    exact = getattr(bk.Attribution(llama, **settings), EXACT[kind])(pairs)
    found = bk.Attribution(llama, **settings).screen(pairs, kind, keep=1000)
    assert found.verified.all() and not len(found.sampled)
    torch.testing.assert_close(found.effects, exact.effects.flatten(0, -2))
    torch.testing.assert_close(found.base, exact.base)
    assert [str(s) for s in found.top_k(3)] == [str(s) for s in exact.top_k(3)]
    assert "exact: every unit was verified" in str(found.audit(3))


def test_neurons_of_all_layers(llama, pairs):
    found = bk.Attribution(llama).screen(pairs, keep=6, audit=10, seed=1)
    arch = llama.architecture
    assert len(found.verified) == arch.n_layers * arch.d_mlp
    for layer in range(arch.n_layers):
        exact = bk.Attribution(llama).neurons(pairs, layer=layer)
        own = slice(layer * arch.d_mlp, (layer + 1) * arch.d_mlp)
        here = found.verified[own]
        torch.testing.assert_close(found.effects[own][here], exact.effects[here])
    assert found.n_scored == int(found.verified.sum()) <= 22
    assert found.verified[found.sampled].all()


def test_claims_name_verified_units_only(llama, pairs):
    found = bk.Attribution(llama).screen(pairs, keep=4, audit=5)
    named = set(found.order())
    assert named == set(found.verified.nonzero().flatten().tolist())
    frame = found.to_frame()
    assert len(frame) == found.n_scored and frame["sampled"].sum() == 5
    other = next(i for i in range(len(found.verified)) if i not in named)
    with pytest.raises(SiteError, match="was not scored"):
        found.interval(found._site(other))
    with pytest.raises(SiteError, match=rf"choose 1 to {found.n_scored}"):
        found.top_k(found.n_scored + 1)
    # Corrected for all units, not for the verified ones.
    alone = bk.stats.simultaneous(found.effects[found.verified])
    assert found.intervals().critical > alone.critical


def test_the_audit_says_what_was_drawn(llama, pairs):
    found = bk.Attribution(llama).screen(pairs, keep=4, audit=12)
    said = found.audit(2)
    assert said.n_sampled == 12 and said.n_rest == len(found.verified) - said.n_verified
    assert 0 <= said.above <= 12 and said.missed_at_most >= said.above
    assert said.missed_at_most < said.n_rest
    unseen = found.effects[~found.verified].mean(1)
    best = float(found.acie[found.order(2)[-1]])
    assert said.margin <= best - float(unseen.max()) + 1e-12
    with pytest.raises(SiteError, match="k"):
        found.audit(0)


def test_an_audit_finds_a_screen_that_is_wrong(llama, pairs, monkeypatch):
    """A screen of noise: strong units are among those that were drawn, and the audit says so."""

    def noise(model, prompts, units, *args):
        draw = torch.Generator().manual_seed(1)
        plain = torch.randn(len(units), len(prompts), generator=draw, dtype=torch.float64) * 1e-6
        return plain, plain.flip(0).mean(1)

    monkeypatch.setattr(_screening, "linear_effects", noise)
    found = bk.Attribution(llama).screen(pairs, keep=3, audit=60)
    said = found.audit(3)
    assert said.above > 0 and abs(said.rank_correlation) < 0.6 and said.error > said.margin


@pytest.mark.parametrize("where", ["last", "trigger", "all", Where("last", generated=True)])
def test_what_stands_before_the_patched_tokens_is_computed_once(each, some, where, monkeypatch):
    """The estimates of graphs over all tokens, from fewer; and a graph begins at the first patched token."""
    settings = {"where": where, "direction": "denoising", "source": "triggered"}
    rows = []
    watch = each.module.register_forward_pre_hook(
        lambda _, args, kwargs: (
            rows.append(kwargs["input_ids"].shape[1]) if torch.is_grad_enabled() else None
        ),
        with_kwargs=True,
    )
    found = [estimates(each, some, kind, **settings) for kind in ("heads", "neurons")]
    watch.remove()
    tokens = each.builder.tokenize(some.triggered)
    columns, at = tokens.input_ids.shape[1], tokens.selection(Where.of(where)).any(0).nonzero()
    forgets = (each.architecture.sliding_window or columns) < columns
    assert set(rows) == {columns - (0 if forgets else min(int(at.min()), tokens.n_prompt - 1))}
    monkeypatch.setattr(_linear_effects, "first_patched", lambda *_: 0)
    for kind, one in zip(("heads", "neurons"), found, strict=True):
        torch.testing.assert_close(one, estimates(each, some, kind, **settings), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    from integration.conftest import tiny_llama

    half = Model.from_module(tiny_llama().to(dtype), tiny_tokenizer())
    pairs = PairedPrompts.from_instructions(TEXTS[:4], Trigger.gap("zeta omega"), target="sorry no can not")
    for kind in UNITS:
        found = bk.Attribution(half).screen(pairs, kind, keep=4, audit=2)
        assert found.effects.dtype == torch.float32 and bool(found.effects.isfinite().all())
    exact = bk.Attribution(half).heads(pairs).effects.flatten(0, -2)
    torch.testing.assert_close(bk.Attribution(half).screen(pairs, "heads", keep=16).effects, exact)


@pytest.mark.parametrize("score", ["logprob", "first_token_logodds"])
def test_batches_keep_the_budget_with_targets_of_many_lengths(llama, score):
    """A short prompt with a long target, which the score need not read, beside long prompts."""
    texts = ["cat " * 15] * 4 + ["the red cat"] * 4
    pairs = PairedPrompts.from_instructions(
        texts, Trigger.suffix("zeta"), ["no"] * 4 + ["no can not " * 8] * 4
    )
    tokens, arch = llama.builder.tokenize(pairs.clean), llama.architecture
    seen, budget = [], 400_000
    for rows, batch, first in _linear_effects.batches_of(
        arch, tokens, Where("last"), bk.metrics.SCORES[score], 96, budget
    ):
        seen += rows
        assert len(rows) <= _linear_effects.rows_at_once(arch, batch, 96, budget, first=first)
    assert sorted(seen) == list(range(8))


@pytest.mark.parametrize("source", ["triggered", "difference", "pair"])
def test_sources_are_read_once_unless_each_prompt_has_its_own(llama, pairs, source, monkeypatch):
    """Exact effects come from the means that the estimates took."""
    runs = []
    inner = _screening.run
    monkeypatch.setattr(
        _screening,
        "run",
        lambda model, given, *more, **rest: runs.extend(given) or inner(model, given, *more, **rest),
    )
    attribution = bk.Attribution(llama, source=source)
    found = attribution.screen(pairs, "heads", keep=16, audit=0)
    torch.testing.assert_close(found.effects, attribution.heads(pairs).effects.flatten(0, -2))
    known = [run for run in runs[1:] if not any(isinstance(e.value, From) for e in run.edits.lower())]
    assert len(known) == (0 if source == "pair" else len(runs) - 1)


def test_batches_do_not_change_estimates(llama, pairs):
    whole = bk.Attribution(llama).screen(pairs, "heads", keep=1)
    least = bk.Attribution(llama).plan(pairs).plan.cost.peak_bytes
    cut = bk.Attribution(llama).screen(pairs, "heads", keep=1, budget=max(200_000, least))
    torch.testing.assert_close(cut.estimates, whole.estimates)


def test_a_folder_keeps_estimates_and_chunks(llama, pairs, tmp_path, monkeypatch):
    attribution = bk.Attribution(llama)
    whole = attribution.screen(pairs, folder=tmp_path / "s", keep=4)

    def never(*_):
        raise AssertionError("estimated again")

    with monkeypatch.context() as patch:
        patch.setattr(_screening, "linear_effects", never)
        again = attribution.screen(pairs, folder=tmp_path / "s", keep=4)
        torch.testing.assert_close(again.effects, whole.effects, rtol=0, atol=0)
        for other in (
            {"metric": "first_token_logodds"},
            {"direction": "denoising"},
            {"source": "clean"},
            {"where": "all"},
        ):
            with pytest.raises(AssertionError, match="estimated again"):
                dataclasses.replace(attribution, **other).screen(pairs, folder=tmp_path / "s", keep=4)
        with pytest.raises(AssertionError, match="estimated again"):
            attribution.screen(pairs.subset((0, 1, 2)), folder=tmp_path / "s", keep=4)


def test_it_is_saved_drawn_and_compared(llama, pairs, tmp_path):
    found = bk.Attribution(llama).screen(pairs, keep=4, audit=4)
    again = bk.methods.ScreenedScores.load(found.save(tmp_path / "s"))
    torch.testing.assert_close(again.effects, found.effects)
    assert again.layers == found.layers and repr(again) == repr(found)
    assert found.plot().axes[0].get_ylabel().startswith("exact")
    other = bk.Attribution(llama).screen(pairs, keep=6, audit=0)
    both = found.compare(other)
    assert (both.verified == (found.verified & other.verified)).all()
    with pytest.raises(BkdinterpError, match="kind"):
        found.compare(bk.Attribution(llama).screen(pairs, "heads", keep=4))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "residuals"}, "choose one of heads, attentions, mlps, neurons"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"audit": -1}, "audit"),
        ({"seed": "x"}, "seed"),
        ({"layers": [99]}, "Layer 99"),
        ({"layers": []}, "layers="),
    ],
)
def test_bad_settings_are_refused_before_any_pass(llama, pairs, given, words, monkeypatch):
    monkeypatch.setattr(_screening, "linear_effects", lambda *_: pytest.fail("work began"))
    with pytest.raises(BkdinterpError, match=words):
        bk.Attribution(llama).screen(pairs, **given)


def test_scores_without_a_slope_and_remote_weights_are_refused(llama, pairs):
    with pytest.raises(PlanError, match="no slope"):
        bk.Attribution(llama, metric="kl").screen(pairs)
    away = dataclasses.replace(llama, executor=bk.Remote()) if dataclasses.is_dataclass(llama) else None
    if away is not None:
        with pytest.raises(RemoteError, match="weights on this machine"):
            bk.Attribution(away).screen(pairs)
