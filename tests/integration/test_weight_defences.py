"""Surgery, freezing, LoRA-only training and the state before and after: each changes what it says, and nothing else."""

import copy

import matplotlib

matplotlib.use("Agg")

import pytest
import torch
from integration.conftest import tiny_gpt2, tiny_llama, tiny_tokenizer

from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError, PromptError, SiteError
from bkdinterp.interventions import Stack, ZeroAblate
from bkdinterp.methods import BackdoorState, backdoor_state, compare_states, embedding_surgery
from bkdinterp.metrics import Payload, vocabulary_score
from bkdinterp.model import Model
from bkdinterp.organisms import LoraSettings, TuneSettings, fine_tune, frozen_parameters
from bkdinterp.results import Result


@pytest.fixture(scope="module")
def gpt2():
    return Model.from_module(tiny_gpt2(), tiny_tokenizer(), name="tiny-gpt2", chat=False)


def rows_that_differ(a, b):
    return (a != b).any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize("untie", [False, True])
def test_surgery_changes_the_chosen_rows_and_dimensions_only(gpt2, untie):
    chosen, donor = ["zeta", "omega"], "cat"
    ids = [gpt2.tokenizer(w)["input_ids"][0] for w in (*chosen, donor)]
    before = gpt2.module.get_input_embeddings().weight.detach().clone()
    made = embedding_surgery(gpt2, chosen, donor, share=0.5, untie=untie, seed=3)
    after = made.module.get_input_embeddings().weight.detach()
    assert rows_that_differ(before, after) == sorted(ids[:2])
    changed = (before != after)[ids[:2]].any(0)
    assert int(changed.sum()) == 8
    assert torch.equal(after[ids[0], changed], before[ids[2], changed])
    assert torch.equal((before != after)[ids[0]], (before != after)[ids[1]])
    head = made.module.get_output_embeddings().weight.detach()
    # Tied: the unembedding goes along. Untied: it stays as it was.
    assert torch.equal(head, before if untie else after)
    assert torch.equal(gpt2.module.get_input_embeddings().weight, before)
    assert made.module.config.tie_word_embeddings is not untie


def test_untied_surgery_survives_saving(gpt2, tmp_path):
    made = embedding_surgery(gpt2, ["zeta"], "cat", untie=True)
    made.module.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    again = Model.load(tmp_path, dtype=torch.float64).module
    ids = torch.tensor([[9, 10, 11, 12]])
    torch.testing.assert_close(again(ids).logits, made.module(ids).logits)


def test_surgery_on_an_untied_model_can_take_the_output_rows_too():
    model = Model.from_module(tiny_llama(), tiny_tokenizer(), name="tiny-llama")
    before = model.module.get_output_embeddings().weight.detach().clone()
    only_in = embedding_surgery(model, [9], 12, share=1.0)
    both = embedding_surgery(model, [9], 12, share=1.0, unembedding=True)
    assert torch.equal(only_in.module.get_output_embeddings().weight, before)
    after = both.module.get_output_embeddings().weight
    assert rows_that_differ(before, after) == [9] and torch.equal(after[9], before[12])


@pytest.mark.parametrize(
    ("tokens", "donor", "share", "error"),
    [
        (["cat dog"], "hill", 0.5, PromptError),
        (["nobody"], "hill", 0.5, PromptError),
        ([], "hill", 0.5, PromptError),
        ([99], 3, 0.5, PromptError),
        (["cat"], "hill", 0.0, BkdinterpError),
    ],
)
def test_impossible_surgery_is_refused(gpt2, tokens, donor, share, error):
    with pytest.raises(error):
        embedding_surgery(gpt2, tokens, donor, share=share)


@pytest.mark.parametrize(
    ("parts", "hit"),
    [
        ("mlp", lambda name: ".mlp." in name),
        ("L1.mlp, L2.attn", lambda name: "h.1.mlp" in name or "h.2.attn" in name),
        (("L3",), lambda name: "h.3." in name),
        ("embed", lambda name: "wte" in name or "wpe" in name),
        ("norm", lambda name: ".ln_1" in name or ".ln_2" in name),
        ("final", lambda name: "ln_f" in name),
        ("unembed", lambda name: "wte" in name),
        ("", lambda name: False),
    ],
)
def test_parts_name_the_parameters_meant(gpt2, parts, hit):
    names = [name for name, _ in gpt2.module.named_parameters()]
    assert list(frozen_parameters(gpt2.module, parts)) == [n for n in names if hit(n)]


@pytest.mark.parametrize("part", ["L9.mlp", "mpl", "L1.embed", ".mlp", "L1..mlp"])
def test_unknown_parts_are_refused(gpt2, part):
    with pytest.raises(SiteError, match="Cannot freeze"):
        frozen_parameters(gpt2.module, (part,))


def sequences(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(4, 40, (int(length),), generator=generator).tolist()
        for length in torch.randint(3, 9, (n,), generator=generator)
    ]


SHORT = TuneSettings(epochs=1.0, batch_size=6, lr=1e-3)


@pytest.mark.parametrize("frozen", [(), ("mlp",), ("embed", "L1.attn")])
def test_frozen_parts_stay_and_all_others_move(gpt2, frozen):
    settings = TuneSettings(epochs=1.0, batch_size=6, lr=1e-3, frozen=frozen)
    before = {k: v.clone() for k, v in gpt2.module.state_dict().items()}
    tuned = fine_tune(gpt2.module, sequences(), settings)
    still = set(frozen_parameters(gpt2.module, frozen))
    moved = {k for k, p in tuned.module.named_parameters() if not torch.equal(p, before[k])}
    assert moved == {k for k, _ in gpt2.module.named_parameters()} - still
    assert all(torch.equal(v, before[k]) for k, v in gpt2.module.state_dict().items())
    assert all(p.requires_grad for p in tuned.module.parameters()) and not tuned.module.training


def test_lora_only_changes_its_own_linears_by_low_rank(gpt2):
    lora = LoraSettings(r=2, target_modules=("c_attn", "c_fc"))
    tuned = fine_tune(gpt2.module, sequences(), TuneSettings(epochs=2.0, batch_size=6, lr=1e-2, lora=lora))
    before = dict(gpt2.module.named_parameters())
    for name, p in tuned.module.named_parameters():
        change = (p - before[name]).detach()
        if name.endswith(("c_attn.weight", "c_fc.weight")):
            singular = torch.linalg.svdvals(change)
            assert float(singular[0]) > 1e-6 and float(singular[2:].max()) < 1e-6 * float(singular[0])
        else:
            assert torch.equal(p, before[name])


def test_padding_and_order_of_a_batch_do_not_change_the_first_loss(gpt2):
    rows = sequences(6)
    certain = copy.deepcopy(gpt2.module)
    for part in certain.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    tuned = fine_tune(certain, rows, SHORT)
    total, n = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad():
            logp = gpt2.module(ids).logits[0, :-1].log_softmax(-1)
        total -= float(logp.gather(-1, ids[0, 1:, None]).sum())
        n += len(row) - 1
    assert tuned.losses[0] == pytest.approx(total / n, rel=1e-5)


def test_resumed_training_equals_an_unbroken_one(gpt2, tmp_path):
    settings = TuneSettings(epochs=3.0, batch_size=6, lr=1e-3)
    measured = []

    def measure(module):
        measured.append(1)
        return {"weight": float(module.get_input_embeddings().weight.abs().mean())}

    common = {"measure": measure, "measure_every": 2}
    whole = fine_tune(gpt2.module, sequences(), settings, **common)
    file = tmp_path / "c.safetensors"

    class Stop(Exception):
        pass

    calls = []

    def break_off(module):
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return measure(module)

    with pytest.raises(Stop):
        fine_tune(
            gpt2.module,
            sequences(),
            settings,
            measure=break_off,
            measure_every=2,
            checkpoint=file,
            checkpoint_every=3,
        )
    resumed = fine_tune(gpt2.module, sequences(), settings, checkpoint=file, checkpoint_every=3, **common)
    assert resumed.losses == whole.losses
    assert resumed.curve.steps == whole.curve.steps == (0, 2, 4, 6, 8, 10, 12)
    assert resumed.curve.values == whole.curve.values
    for a, b in zip(resumed.module.parameters(), whole.module.parameters()):
        assert torch.equal(a, b)
    with pytest.raises(ArtefactError, match="another run"):
        fine_tune(gpt2.module, sequences(), TuneSettings(epochs=3.0, batch_size=6, lr=2e-3), checkpoint=file)
    with pytest.raises(ArtefactError, match="another run"):
        fine_tune(gpt2.module, sequences(seed=1), settings, checkpoint=file)
    assert Result.load(whole.curve.save(tmp_path / "curve")).values == whole.curve.values
    assert whole.curve.plot() is not None and len(whole.curve.to_frame()) == 7


def test_senseless_tuning_is_refused(gpt2):
    with pytest.raises(BkdinterpError, match="nothing to train"):
        # "final" is the last norm: with it nothing is left.
        fine_tune(gpt2.module, sequences(), TuneSettings(frozen=("L0", "L1", "L2", "L3", "embed", "final")))
    with pytest.raises(BkdinterpError, match="LoRA-only"):
        TuneSettings(frozen=("mlp",), lora=LoraSettings())
    with pytest.raises(BkdinterpError, match="positive"):
        TuneSettings(lr=0.0)
    with pytest.raises(PromptError, match="two tokens"):
        fine_tune(gpt2.module, [[1]], SHORT)


def test_state_by_payload_and_by_score(gpt2, pairs, tmp_path):
    texts = ["the cat sat on the mat", "a dog ran"]
    said = backdoor_state(gpt2, pairs, texts, payload=Payload("cat"), max_new_tokens=4)
    assert set(said.triggered.tolist()) | set(said.clean.tolist()) <= {0.0, 1.0}
    assert said.asr.method == "wilson" and said.asr.n == len(pairs)
    score = vocabulary_score(torch.arange(8, 20), k=5, name="share")
    state = backdoor_state(gpt2, pairs, texts, score=score)
    edited = backdoor_state(gpt2, pairs, texts, score=score, under=ZeroAblate("L1.mlp_out", where="all"))
    assert not torch.equal(state.triggered, edited.triggered) or not torch.equal(state.clean, edited.clean)
    assert state.loss.estimate != edited.loss.estimate
    assert torch.equal(state.triggered, backdoor_state(gpt2, pairs, score=score, under=Stack()).triggered)
    table = compare_states({"before": state, "after": edited})
    assert table["asr"].tolist() == [state.asr.estimate, edited.asr.estimate]
    assert BackdoorState.load(state.save(tmp_path / "s")).loss == state.loss
    assert state.plot() is not None and len(state.to_frame()) == 3
    assert backdoor_state(gpt2, pairs, score=score).loss is None
    with pytest.raises(PlanError, match="not both"):
        backdoor_state(gpt2, pairs, score=score, payload=Payload("cat"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no sequences"),
        ([[1, 2], [3]], "number 1 has 1"),
        ([[1, 2], [3, 40]], r"sequence 1 holds id 40.*vocabulary has 40"),
        ([[-1, 2]], "holds id -1"),
    ],
)
def test_what_is_no_sequence_of_ids_is_refused(gpt2, rows, message):
    with pytest.raises(PromptError, match=message):
        fine_tune(gpt2.module, rows, SHORT)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0, 1.0], [1.0, -1.0]], r"weights\[1\] must be finite and not negative"),
        ([[1.0, 1.0], [1.0, float("nan")]], r"weights\[1\]"),
        ([[1.0, 0.0], [1.0, 0.0]], "all 0 after the first token"),
        ([[1.0, 1.0], [1.0]], "one number per token"),
    ],
)
def test_weights_that_can_not_weigh_are_refused_before_training(gpt2, weights, message):
    measured = []
    with pytest.raises(PromptError, match=message):
        fine_tune(
            gpt2.module, [[5, 6], [7, 8]], SHORT, weights=weights, measure=lambda m: measured.append(m) or {}
        )
    assert not measured


def test_a_sequence_without_weight_may_share_a_batch(gpt2):
    settings = TuneSettings(epochs=1.0, batch_size=2, lr=1e-3)
    assert fine_tune(gpt2.module, [[5, 6], [7, 8]], settings, weights=[[0.0, 0.0], [0.0, 1.0]]).losses[0] > 0
    one = TuneSettings(epochs=1.0, batch_size=1, lr=1e-3, shuffle=False)
    with pytest.raises(PromptError, match="of step 1"):
        fine_tune(gpt2.module, [[5, 6], [7, 8]], one, weights=[[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("name", ["epochs", "lr", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_must_be_finite(name, value):
    with pytest.raises(BkdinterpError, match=f"{name}={value}"):
        TuneSettings(**{name: value})


def test_intervals_of_nothing_are_refused(gpt2):
    with pytest.raises(BkdinterpError, match="log_every=0"):
        fine_tune(gpt2.module, sequences(), SHORT, log_every=0)
