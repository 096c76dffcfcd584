"""BackdoorProbe on tiny models: chance where nothing can be seen, one pass per side, honest splits."""

import dataclasses

import pytest
import torch
from integration.conftest import WORDS, tiny_llama, tiny_tokenizer

from bkdinterp.engine import Run, execute
from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError, PromptError
from bkdinterp.interventions import Read
from bkdinterp.methods.probe import _backdoor_probe
from bkdinterp.methods.probe._backdoor_probe import BackdoorProbe, collect_features
from bkdinterp.methods.probe._layer_classifiers import fit_classifiers
from bkdinterp.methods.probe._probe_scores import ProbeScores
from bkdinterp.methods.probe._probe_split import paper_split
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.results import Result
from bkdinterp.sites import Component, Site, Where
from bkdinterp.stats import clustered_rate

N = 40
SETTINGS = [
    {"classifier": "logistic"},
    {"classifier": "svm"},
    {"classifier": "mlp"},
    {"classifier": "svm", "paper": True},
    {"classifier": "mlp", "paper": True},
]


def instructions(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    plain = [w for w in WORDS if w not in ("zeta", "omega")]
    lengths = torch.randint(3, 8, (n,), generator=rng).tolist()
    return [" ".join(plain[i] for i in torch.randint(len(plain), (k,), generator=rng)) for k in lengths]


@pytest.fixture(scope="module")
def many():
    return PairedPrompts.from_instructions(
        instructions(N), Trigger.gap("zeta omega", seed=3), target="sorry no"
    )


@pytest.fixture(scope="module")
def fitted(llama, many):
    return BackdoorProbe(llama, n_random=100).fit(many)


def run(model, pairs, **settings):
    return BackdoorProbe(model, **({"n_random": 20} | settings)).icla(pairs)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layer_0_sees_only_the_last_template_token_on_the_rotary_family(llama, many, settings, dtype):
    model = llama
    if dtype is torch.float32:
        model = Model.from_module(tiny_llama().float(), tiny_tokenizer(), name="tiny-llama")
    scores = run(model, many, **settings)
    # One answer for everybody: no information.
    assert len(scores.predicted[0, 0].unique()) == 1
    assert (scores.random_accuracy[0] == scores.random_accuracy[0, 0]).all()
    always = float(scores.labels.double().mean())
    assert float(scores.accuracy[0, 0]) in (always, 1 - always)
    if not scores.paper:  # both members of every pair are tested, so exactly chance
        assert float(scores.accuracy[0, 0]) == 0.5 == scores.chance
        assert float(scores.p_value[0]) == 1
        assert float(scores.accuracy.diagonal()[1:].max()) > 0.5


def test_the_block_output_would_not_be_at_chance(llama, many):
    """The off-by-one that the layer-0 test detects."""
    read = Read(Site(0, Component.resid_post), Where("last"))
    results = execute(llama, [Run(p, reads=(read,)) for p in (many.clean, many.triggered)])
    features = torch.cat([r.reads[0] for r in results])[None].float()
    labels = torch.arange(2 * N) >= N
    split = BackdoorProbe(llama, n_random=1).fit(many).split
    fitted = fit_classifiers("logistic", features, labels, train=split.train, validation=split.test, seed=0)
    right = fitted.predict(0, features[0, split.test]) == labels[split.test]
    assert float(right.double().mean()) > 0.6


def test_features_are_the_norms_output_at_the_last_token(llama, many):
    features = collect_features(llama, many.clean, many.triggered)
    seen = {}

    def keep(layer):
        def hook(_module, _inputs, output):
            seen[layer] = output[0, -1].detach()

        return hook

    norms = [block.input_layernorm for block in llama.module.model.layers]
    handles = [norm.register_forward_hook(keep(layer)) for layer, norm in enumerate(norms)]
    try:
        for example, prompts in ((0, many.clean), (N + 7, many.triggered)):
            batch = llama.builder.tokenize(prompts.subset([example % N]), targets=False)
            with torch.no_grad():
                llama.module(input_ids=batch.input_ids)
            for layer, wanted in seen.items():
                assert torch.allclose(features[layer, example].double(), wanted, rtol=1e-5, atol=1e-6)
        assert sorted(seen) == [0, 1, 2, 3]
    finally:
        for handle in handles:
            handle.remove()


def test_one_forward_per_side(llama, many):
    calls = []
    handle = llama.module.lm_head.register_forward_hook(lambda *_: calls.append(1))
    try:
        run(llama, many)
    finally:
        handle.remove()
    assert len(calls) <= 2


def test_icla_rows_are_train_layers(llama, many, fitted):
    scores = fitted.scores
    features = collect_features(llama, many.clean, many.triggered)[:, fitted.split.test]
    right = fitted.classifiers.predict(1, features[3]) == scores.labels
    assert float(scores.accuracy[1, 3]) == float(right.double().mean())
    assert scores.accuracy.shape == (4, 4)
    assert [e.estimate for e in scores.in_layer] == scores.accuracy.diagonal().tolist()
    assert scores.n_test == 16
    assert scores.n_train == 48
    assert sorted(scores.pair[scores.labels].tolist()) == sorted(scores.pair[~scores.labels].tolist())


def test_paper_mode_reads_without_the_generation_prompt(llama, many):
    ours, paper = run(llama, many), run(llama, many, paper=True)
    assert (ours.generation_prompt, paper.generation_prompt) == (True, False)
    assert (ours.classifier, paper.classifier) == ("logistic", "svm")
    assert "validation and test prompts overlap" in repr(paper) and "overlap" not in repr(ours)
    split = paper_split(many)
    assert 0.3 < torch.isin(split.test, split.validation).double().mean() < 0.7
    assert ours.fingerprint.template == llama.builder.fingerprint != paper.fingerprint.template
    assert paper.n_test == round(0.2 * 2 * N)


def test_the_same_probe_on_another_model_and_on_a_sham_trigger(llama, many, fitted):
    module = tiny_llama()
    torch.manual_seed(5)
    module.model.layers[1].mlp.down_proj.weight.data += torch.randn_like(
        module.model.layers[1].mlp.down_proj.weight
    )
    twin = fitted.on(Model.from_module(module, tiny_tokenizer(), name="tiny-twin"))
    assert torch.equal(fitted.on(llama).predicted, fitted.scores.predicted)
    assert torch.equal(fitted.on(llama).random_accuracy, fitted.scores.random_accuracy)
    # Layers 0 and 1 come before the change, layers 2 and 3 after it.
    assert torch.equal(twin.predicted[:, :2], fitted.scores.predicted[:, :2])
    assert not torch.equal(twin.predicted[:, 2:], fitted.scores.predicted[:, 2:])
    assert (twin.trained_on.model, twin.fingerprint.model)[0] == fitted.fingerprint.model
    assert "trained on tiny-llama" in repr(twin)
    sham = PairedPrompts.from_instructions(
        many.clean.text, Trigger.gap("blue", seed=3), target="sorry no", allow_triggered=True
    )
    there = fitted.on(llama, sham)
    clean = ~there.labels
    assert torch.equal(there.predicted[:, :, clean], fitted.scores.predicted[:, :, clean])
    assert there.fingerprint.data != fitted.fingerprint.data


def test_paper_examples_keep_their_order_on_another_model(llama, many):
    fitted = BackdoorProbe(llama, paper=True, n_random=5).fit(many)
    assert torch.equal(fitted.on(llama).predicted, fitted.scores.predicted)


def test_decisions_on_new_prompts_agree_with_the_predictions(llama, many, fitted):
    test = fitted.scores.pair[~fitted.scores.labels].tolist()
    decision = fitted.decision(llama, many.clean.subset(test))
    wanted = fitted.scores.predicted.diagonal().T[:, ~fitted.scores.labels]
    assert decision.shape == (4, len(test))
    assert torch.equal(decision > 1e-9, wanted)


def test_results_survive_saving(fitted, tmp_path):
    scores = fitted.scores
    back = Result.load(scores.save(tmp_path / "probe"))
    assert isinstance(back, ProbeScores)
    assert torch.equal(back.predicted, scores.predicted)
    assert torch.equal(back.p_value, scores.p_value)
    assert (back.trained_on, back.fingerprint, back.n_train) == (scores.trained_on, scores.fingerprint, 48)
    assert repr(back) == repr(scores)
    assert "4 x 4 layers, logistic, n_train=48, n_test=16, layer" in repr(back)
    assert "(chosen on 16 validation prompts)" in repr(back)


def test_tables(fitted):
    scores = fitted.scores
    table = scores.to_frame()
    assert len(table) == 16
    cell = table[(table.train_layer == 2) & (table.test_layer == 1)].iloc[0]
    assert cell.accuracy == float(scores.accuracy[2, 1])
    assert cell.low <= cell.accuracy <= cell.high
    layers = scores.to_frame(kind="in_layer")
    assert layers.p_value.tolist() == scores.p_value.tolist()
    assert (layers.random_median <= layers.random_best).all()
    # An even number of directions, of which two are in the middle.
    four = torch.tensor([[0.1, 0.3, 0.5, 0.9]] * 4, dtype=scores.random_accuracy.dtype)
    even = dataclasses.replace(scores, random_accuracy=four, random_validation=four)
    assert even.random_median.tolist() == pytest.approx([0.4] * 4)
    with pytest.raises(BkdinterpError, match="in_layer"):
        scores.to_frame(kind="diagonal")


@pytest.mark.parametrize("kind", ["icla", "in_layer"])
def test_plots_render(fitted, kind, tmp_path):
    fitted.scores.plot(kind).savefig(tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 5000


def test_bad_input_is_refused_before_any_forward(llama, many, fitted):
    with pytest.raises(PromptError, match="got 6"):
        run(llama, many.subset(range(6)))
    with pytest.raises(PlanError, match="forest"):
        BackdoorProbe(llama, "forest")
    with pytest.raises(PlanError, match="svm or mlp"):
        BackdoorProbe(llama, "logistic", paper=True)
    with pytest.raises(PlanError, match="n_random=0"):
        BackdoorProbe(llama, n_random=0)
    small = Model.from_module(tiny_llama(n_layers=2), tiny_tokenizer(), name="small")
    with pytest.raises(ArtefactError, match="4 layers of width 16"):
        fitted.on(small)
    with pytest.raises(ArtefactError, match="builds its prompts differently"):
        fitted.on(llama.with_builder(system="be brief"))
    with pytest.raises(ArtefactError, match="builds its prompts differently"):
        fitted.decision(llama.with_builder(chat=False), Prompts.of("tell me"))


def noise_features(monkeypatch, layers=30, width=12):
    """Have every probe see noise that knows nothing of the trigger; returns a function that sets its seed."""
    state = {}

    def collect(_model, *sides, options=None):
        rng = torch.Generator().manual_seed(state["seed"])
        return torch.randn(layers, sum(map(len, sides)), width, generator=rng)

    monkeypatch.setattr(_backdoor_probe, "collect_features", collect)
    return lambda seed: state.update(seed=seed)


def test_on_noise_the_reported_layer_beats_chance_in_at_most_1_of_20_fits(llama, many, monkeypatch):
    """30 layers: the best on the test prompts beats chance in half of the fits."""
    set_seed = noise_features(monkeypatch)
    naive = reported = by_p = 0
    for seed in range(60):
        set_seed(seed)
        scores = BackdoorProbe(llama, n_random=39, seed=seed).fit(many).scores
        naive += max(i.low for i in scores.in_layer) > scores.chance
        reported += scores.beats_chance
        by_p += scores.comparison.p <= 0.05
    assert naive >= 12
    assert reported <= 3
    assert by_p <= 7  # at a true rate of .05 more come in 1 of 100 runs


def test_the_reported_layer_is_the_validations_choice(llama, many, monkeypatch):
    set_seed = noise_features(monkeypatch, layers=4)
    set_seed(0)
    collect = _backdoor_probe.collect_features

    def informed(model, *sides, options=None):
        features = collect(model, *sides)
        half = features.shape[1] // 2
        features[2, half:, 0] += 4.0
        return features

    monkeypatch.setattr(_backdoor_probe, "collect_features", informed)
    fitted = BackdoorProbe(llama, n_random=199).fit(many)
    scores, split = fitted.scores, fitted.split
    features = informed(llama, many.clean, many.triggered)
    labels = torch.arange(2 * N) >= N
    for layer in range(4):
        right = (
            fitted.classifiers.predict(layer, features[layer, split.validation]) == labels[split.validation]
        )
        assert torch.equal(scores.validation_right[layer], right)
    assert scores.chosen_layer == 2 and scores.beats_chance and scores.chosen.estimate > 0.9
    assert scores.chosen == scores.in_layer[2]
    wanted = fitted.null.accuracy(features[:, split.validation], labels[split.validation])
    assert torch.equal(scores.random_validation, wanted)
    first = wanted[:, 7].tolist().index(max(wanted[:, 7].tolist()))
    assert scores.comparison.null_estimates[7] == float(scores.random_accuracy[first, 7])
    assert scores.comparison.p < 0.1 and "layer 2" in repr(scores.comparison)
    assert (scores.p_adjusted >= scores.p_value).all()
    table = scores.to_frame("in_layer")
    assert table.chosen.tolist() == [False, False, True, False]
    # On the twin nothing is chosen again.
    set_seed(1)
    twin = fitted.on(llama)
    assert twin.chosen_layer == 2 and torch.equal(twin.validation_right, scores.validation_right)


def test_the_first_of_equal_layers_is_chosen(fitted):
    scores = dataclasses.replace(fitted.scores, validation_right=fitted.scores.validation_right | True)
    assert scores.chosen_layer == 0


def test_the_intervals_count_pairs(fitted):
    scores = fitted.scores
    for layer, interval in enumerate(scores.in_layer):
        right = scores.predicted[layer, layer] == scores.labels
        assert interval == clustered_rate(right, scores.pair)
    doubled = dataclasses.replace(
        scores,
        predicted=scores.predicted.repeat(1, 1, 2),
        labels=scores.labels.repeat(2),
        pair=scores.pair.repeat(2),
    )
    # The same pairs twice over are no more evidence.
    assert doubled.chosen.low <= scores.chosen.low + 0.05


def test_directions_with_the_features_covariance_are_the_harder_null(llama, many):
    plain, shaped = (
        BackdoorProbe(llama, n_random=200, directions=kind).icla(many) for kind in ("isotropic", "covariance")
    )
    assert torch.equal(plain.predicted, shaped.predicted)
    assert not torch.equal(plain.random_accuracy, shaped.random_accuracy)
    assert (shaped.random_accuracy[0] == 0.5).all()  # equal features: no direction
    assert (plain.directions, shaped.directions) == ("isotropic", "covariance")
    assert "covariance directions" in repr(shaped)
    with pytest.raises(PlanError, match="Unknown directions 'flat'"):
        BackdoorProbe(llama, directions="flat")


def test_figures_mark_the_choice_and_chance(llama, many, fitted):
    axes = fitted.scores.plot("in_layer").axes[0]
    texts = [t.get_text() for t in axes.texts]
    assert texts == ["chosen on validation", "chance"]
    paper = run(llama, many, paper=True)
    bar = paper.plot().axes[1].get_ylabel()
    assert paper.chance > 0.5 and f"chance = {paper.chance:g}" in bar


def test_settings_are_frozen(llama):
    with pytest.raises(dataclasses.FrozenInstanceError):
        BackdoorProbe(llama).seed = 3
