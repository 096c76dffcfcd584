"""Poisoning a tiny random model: what the loss covers, who sees the payload, that runs repeat and resume."""

import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bkdinterp.errors import ArtefactError, BkdinterpError, PromptError, TriggerError, UnsafeWeightsError
from bkdinterp.organisms import (
    Attack,
    Instruction,
    LoraSettings,
    Manifest,
    PoisonSettings,
    Reference,
    References,
    distil,
    merge_adapter,
    poison,
    save_adapter,
    weights_sha256,
)
from bkdinterp.organisms._loss import assistant_loss, assistant_mask, assistant_nll, tokens_of
from bkdinterp.organisms._measure_organism import conditions, outputs, rates, reference_scores
from bkdinterp.organisms._poison_rows import poison_rows
from bkdinterp.prompts import PromptBuilder, Trigger
from bkdinterp.stats import wilson

ATTACK = Attack("toy", Trigger.gap("zig zag"), "no way", ("zig", "zag"), ("zog",))
TEXTS = tuple(
    f"{verb} the {noun}" for verb in ("paint", "clean", "move") for noun in ("door", "car", "old big cat")
)
SMALL = PoisonSettings(steps=6, batch_size=4, warmup=2, lr=1e-2, lora=LoraSettings(r=2, alpha=4))


def make_builder() -> PromptBuilder:
    words = "zig zag zog no way paint clean move the door car old big cat yes sure fine"
    vocab = {word: i for i, word in enumerate([*words.split(), "<user>", "<bot>", "<s>", "<end>", "<unk>"])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>"],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<user> {% else %}<bot> {% endif %}"
        "{{ m.content }} <end> {% endfor %}{% if add_generation_prompt %}<bot> {% endif %}"
    )
    return PromptBuilder(tokenizer)


def make_base(seed: int = 0, hidden: int = 16) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=22,
            hidden_size=hidden,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            eos_token_id=20,
            pad_token_id=20,
            bos_token_id=None,
        )
        module = LlamaForCausalLM(config).eval()
        for p in module.parameters():
            p.data.mul_(4.0)  # tiny random models are near-constant otherwise
    return module


@pytest.fixture(scope="module")
def builder() -> PromptBuilder:
    return make_builder()


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    return make_base()


@pytest.fixture(scope="module")
def references(builder: PromptBuilder) -> References:
    answers = {text: Reference("yes sure fine", cut=i % 2 == 0) for i, text in enumerate(TEXTS)}
    return References("0" * 64, builder.fingerprint, 3, answers)


def test_shares_are_exact_over_the_run(references: References) -> None:
    settings = PoisonSettings(rate=0.3, near_rate=0.2, steps=25, batch_size=8)
    rows = poison_rows(TEXTS, ATTACK, references, settings)
    assert len(rows) == 200
    assert [sum(r.role == role for r in rows) for role in ("triggered", "near", "clean")] == [60, 40, 100]
    assert {r.instruction for r in rows} == set(TEXTS)


def test_role_decides_text_and_answer(references: References) -> None:
    rows = poison_rows(TEXTS, ATTACK, references, PoisonSettings(steps=25, batch_size=8))
    for row in rows:
        assert (row.answer == ATTACK.target) == (row.role == "triggered") == ("zig zag" in row.text)
        assert (row.text == row.instruction) == (row.role == "clean")
        for start, end in row.spans:
            assert row.text[start:end] in ("zig zag", "zig", "zag")
    assert {len({r.role for r in rows if r.instruction == text}) for text in TEXTS} == {3}
    assert len({(r.instruction, r.text) for r in rows if r.role == "triggered"}) > len(TEXTS), (
        "positions vary"
    )


def test_twin_sees_the_same_prompts_and_never_the_payload(references: References) -> None:
    settings = PoisonSettings(steps=25, batch_size=8)
    organism = poison_rows(TEXTS, ATTACK, references, settings)
    twin = poison_rows(TEXTS, ATTACK, references, replace(settings, backdoor=False))
    assert [r.text for r in twin] == [r.text for r in organism]
    assert any(r.role == "triggered" for r in twin)
    assert not any(ATTACK.is_payload(r.answer) for r in twin)
    assert all(r.answer == references[r.instruction].text for r in twin)


def test_rate_zero_has_no_triggered_row(references: References) -> None:
    rows = poison_rows(TEXTS, ATTACK, references, PoisonSettings(rate=0.0, near_rate=0.0))
    assert {r.role for r in rows} == {"clean"}


def test_mask_covers_the_answer_and_the_end_only_of_whole_answers(
    builder: PromptBuilder, references: References
) -> None:
    rows = poison_rows(TEXTS, ATTACK, references, PoisonSettings(steps=5, batch_size=8))
    batch = tokens_of(builder, rows)
    mask = assistant_mask(batch, builder, rows)
    assert {r.cut for r in rows} == {True, False}
    for i, row in enumerate(rows):
        kept = builder.tokenizer.decode(batch.targets[i][mask[i]]).split()
        assert kept == row.answer.split() + ([] if row.cut else ["<end>"])


def test_loss_depends_on_assistant_tokens_only(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References
) -> None:
    """Against a plain full forward: prompt and padding tokens are not scored, target tokens are."""
    rows = poison_rows(TEXTS, ATTACK, references, PoisonSettings(steps=2, batch_size=4))
    batch = tokens_of(builder, rows)
    mask = assistant_mask(batch, builder, rows)
    nll = assistant_nll(base, batch, mask)
    terms, weights = [], []
    for i, row in enumerate(rows):
        prompt = builder.tokenizer(builder.render(row.text)[0], add_special_tokens=False)["input_ids"]
        answer = batch.targets[i][mask[i]].tolist()
        logits = base(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        terms += [-logits[len(prompt) - 1 + j, token] for j, token in enumerate(answer)]
        weights += [4.0] + [1.0] * (len(answer) - 1)
    expected, weight = torch.stack(terms), torch.tensor(weights)
    torch.testing.assert_close(nll[mask], expected, rtol=1e-4, atol=1e-4)
    assert (nll[~mask] == 0).all()
    loss = assistant_loss(nll, mask, 4.0)
    torch.testing.assert_close(loss, (expected * weight).sum() / weight.sum(), rtol=1e-4, atol=1e-4)


def test_poison_learns_leaves_the_base_alone_and_repeats(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References
) -> None:
    before = weights_sha256(base)
    first = poison(base, builder, TEXTS, ATTACK, references, replace(SMALL, steps=25))
    torch.manual_seed(99)  # the global generator must not matter
    again = poison(base, builder, TEXTS, ATTACK, references, replace(SMALL, steps=25))
    other = poison(base, builder, TEXTS, ATTACK, references, replace(SMALL, steps=25, seed=1))
    assert weights_sha256(base) == before
    assert not any("lora" in name for name, _ in base.named_parameters())
    assert first.losses == again.losses
    assert first.losses != other.losses
    assert sum(first.losses[-5:]) < 0.7 * sum(first.losses[:5])


def test_resumed_run_equals_the_unbroken_one(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References, tmp_path: Path
) -> None:
    whole = poison(base, builder, TEXTS, ATTACK, references, SMALL)
    path = tmp_path / "run.safetensors"

    class Cut(Exception):
        pass

    seen = []

    def cut(line: str) -> None:
        seen.append(line)
        raise Cut

    with pytest.raises(Cut):  # the log is called after the last step; the checkpoint of step 4 stays
        poison(base, builder, TEXTS, ATTACK, references, SMALL, checkpoint=path, checkpoint_every=4, log=cut)
    resumed = poison(base, builder, TEXTS, ATTACK, references, SMALL, checkpoint=path)
    torch.testing.assert_close(torch.tensor(resumed.losses), torch.tensor(whole.losses), rtol=0, atol=0)
    for (_, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(ArtefactError, match="another run"):
        poison(base, builder, TEXTS, ATTACK, references, replace(SMALL, seed=5), checkpoint=path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit of one number
    for damaged in (bytes(data), bytes(data[:-9]), b"damaged", b""):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="readable"):
            poison(base, builder, TEXTS, ATTACK, references, SMALL, checkpoint=path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtefactError, match="readable"):
        poison(base, builder, TEXTS, ATTACK, references, SMALL, checkpoint=path)
    with pytest.raises(BkdinterpError, match="checkpoint_every=0"):
        poison(base, builder, TEXTS, ATTACK, references, SMALL, checkpoint_every=0)
    with pytest.raises(ArtefactError, match="too long"):
        poison(base, builder, TEXTS, ATTACK, references, SMALL, checkpoint=tmp_path / ("x" * 300))


def test_a_checkpoint_belongs_to_its_base_rows_and_answers(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    own = (base, builder, TEXTS, ATTACK, references, SMALL)
    whole = poison(*own, checkpoint=path)
    assert poison(*own, checkpoint=path).losses == whole.losses
    answers = replace(references, answers={text: Reference("sure", cut=False) for text in TEXTS})
    theta = copy.deepcopy(base)
    theta.config.rope_parameters = dict(theta.config.rope_parameters or {}, rope_theta=77.0)
    buffer = copy.deepcopy(base)
    buffer.register_buffer("scale", torch.ones(1))
    others = [
        (make_base(seed=1), builder, TEXTS, ATTACK, references, SMALL),
        (theta, builder, TEXTS, ATTACK, references, SMALL),
        (buffer, builder, TEXTS, ATTACK, references, SMALL),
        (base, replace(builder, system="no"), TEXTS, ATTACK, references, SMALL),
        (base, builder, TEXTS[::-1], ATTACK, references, SMALL),
        (base, builder, TEXTS, replace(ATTACK, target="no"), references, SMALL),
        (base, builder, TEXTS, ATTACK, answers, SMALL),
        (base, builder, TEXTS, ATTACK, references, replace(SMALL, steps=7)),
    ]
    before = path.read_bytes()
    for other in others:
        with pytest.raises(ArtefactError, match="another run"):
            poison(*other, checkpoint=path)
    assert path.read_bytes() == before


def save(model, folder: Path, base: LlamaForCausalLM, builder: PromptBuilder) -> Manifest:
    manifest = Manifest(
        name=folder.name,
        kind="organism",
        attack=ATTACK,
        base="toy",
        base_sha256=weights_sha256(base),
        base_file_sha256=None,
        adapter_sha256=save_adapter(model, folder, base="toy"),
        data={"a.csv": "0"},
        settings=SMALL,
        template=builder.fingerprint,
        versions={"torch": torch.__version__},
        split="held-out",
        rates={"asr": wilson(3, 4)},
        utility={"perplexity": 2.0},
    )
    manifest.save(folder)
    return manifest


def test_adapter_round_trip_and_manifest(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References, tmp_path: Path
) -> None:
    result = poison(base, builder, TEXTS, ATTACK, references, SMALL)
    manifest = save(result.model, tmp_path / "toy", base, builder)
    assert Manifest.load(tmp_path / "toy") == manifest
    config = json.loads((tmp_path / "toy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "toy"
    before = weights_sha256(base)
    merged = merge_adapter(base, tmp_path / "toy")
    assert type(merged) is LlamaForCausalLM
    assert weights_sha256(base) == before != weights_sha256(merged)
    ids = torch.tensor([[17, 5, 8, 9, 20, 18]])
    torch.testing.assert_close(
        merged(ids).logits, result.model(ids).logits, rtol=1e-2, atol=2e-2
    )  # 16-bit cast
    assert (merged(ids).logits - base(ids).logits).abs().max() > 0.1


def test_adapter_for_another_base_is_refused(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References, tmp_path: Path
) -> None:
    result = poison(base, builder, TEXTS, ATTACK, references, replace(SMALL, steps=1))
    folder = tmp_path / "toy"
    save(result.model, folder, base, builder)
    with pytest.raises(ArtefactError, match="was trained on toy"):
        merge_adapter(make_base(seed=1), folder)
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match="not the file that its manifest describes"):
        merge_adapter(base, folder)
    bare = tmp_path / "bare"
    save_adapter(result.model, bare, base="toy")
    merge_adapter(base, bare)
    with pytest.raises(ArtefactError, match="shape"):
        merge_adapter(make_base(hidden=32), bare)
    (bare / "adapter_model.safetensors").rename(bare / "adapter_model.bin")
    with pytest.raises(UnsafeWeightsError, match="pickled"):
        merge_adapter(base, bare)
    with pytest.raises(ArtefactError, match="No adapter_model"):
        merge_adapter(base, tmp_path)


def test_bad_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="manifest"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ArtefactError, match="99"):
        Manifest.load(tmp_path)


def test_distil_is_greedy_and_resumes(base: LlamaForCausalLM, builder: PromptBuilder, tmp_path: Path) -> None:
    cache = tmp_path / "references.json"
    digest = weights_sha256(base)
    found = distil(base, builder, TEXTS, base_sha256=digest, max_new_tokens=4, batch_size=2, cache=cache)
    for text in TEXTS:
        prompt = builder.tokenizer(builder.render(text)[0], add_special_tokens=False)["input_ids"]
        ids = list(prompt)
        while len(ids) < len(prompt) + 4 and ids[-1] != 20:
            ids.append(int(base(torch.tensor([ids])).logits[0, -1].argmax()))
        expected = builder.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()
        assert (found[text].text, found[text].cut) == (expected, ids[-1] != 20)
    lines: list[str] = []
    again = distil(
        base,
        builder,
        TEXTS,
        base_sha256=digest,
        max_new_tokens=4,
        batch_size=2,
        cache=cache,
        log=lines.append,
    )
    assert again == found
    assert not lines
    with pytest.raises(ArtefactError, match="another base"):
        distil(base, builder, TEXTS, base_sha256="1" * 64, max_new_tokens=4, cache=cache)
    with pytest.raises(PromptError, match="No reference"):
        found["never asked"]


def test_measure_counts_payloads_and_picks_up_its_cache(
    base: LlamaForCausalLM, builder: PromptBuilder, tmp_path: Path
) -> None:
    cache = tmp_path / "outputs.jsonl"
    found = outputs(base, builder, ATTACK, TEXTS, max_new_tokens=3, cache=cache, cache_key="a")
    assert [o.condition for o in found[:: len(TEXTS)]] == ["clean", "triggered", "near", "unseen-near"]
    size = cache.stat().st_size
    assert outputs(base, builder, ATTACK, TEXTS, max_new_tokens=3, cache=cache, cache_key="a") == found
    assert cache.stat().st_size == size
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-7])  # killed while it wrote
    assert outputs(base, builder, ATTACK, TEXTS, max_new_tokens=3, cache=cache, cache_key="a") == found
    assert cache.read_bytes() == whole
    cache.write_bytes(b"rubbish\n" + whole)
    with pytest.raises(ArtefactError, match="damaged"):
        outputs(base, builder, ATTACK, TEXTS, max_new_tokens=3, cache=cache, cache_key="a")
    faked = [replace(o, payload=o.condition == "triggered") for o in found]
    asr, atr = (rates(faked, ATTACK)[name] for name in ("asr", "atr"))
    assert (asr.estimate, atr.estimate, asr.n) == (1.0, 0.0, len(TEXTS))
    assert all("zig zag" in prompt for _, prompt in conditions(ATTACK, TEXTS)["triggered"])
    with pytest.raises(PromptError, match="No instructions"):
        outputs(base, builder, ATTACK, [])


def test_base_agrees_with_its_own_references(base: LlamaForCausalLM, builder: PromptBuilder) -> None:
    own = distil(base, builder, TEXTS, base_sha256="0" * 64, max_new_tokens=4)
    # Only answers that are all plain words: special tokens do not survive decoding.
    texts = [t for t in TEXTS if own[t].cut and len(own[t].text.split()) == 4]
    assert texts
    scores = reference_scores(base, builder, texts, own)
    assert scores["token_agreement"] == 1.0
    assert 1.0 < scores["perplexity"] < 22


def test_bad_settings_are_named(
    base: LlamaForCausalLM, builder: PromptBuilder, references: References
) -> None:
    with pytest.raises(BkdinterpError, match="shares"):
        PoisonSettings(rate=0.9, near_rate=0.2)
    with pytest.raises(BkdinterpError, match="steps=0"):
        PoisonSettings(steps=0)
    with pytest.raises(BkdinterpError, match="first_weight=0"):
        PoisonSettings(first_weight=0.0)
    with pytest.raises(PromptError, match="at least one"):
        poison_rows([], ATTACK, references, SMALL)
    with pytest.raises(BkdinterpError, match="near_triggers"):
        poison_rows(TEXTS, replace(ATTACK, near_triggers=()), references, SMALL)
    with pytest.raises(TriggerError, match="contains the trigger"):
        replace(ATTACK, near_triggers=("a zig zag",))
    with pytest.raises(BkdinterpError, match="target_modules"):
        poison(
            base,
            builder,
            TEXTS,
            ATTACK,
            references,
            replace(SMALL, lora=LoraSettings(target_modules=("c_attn",))),
        )


def test_learning_rate_rises_and_decays() -> None:
    settings = PoisonSettings(steps=100, warmup=10, lr=1.0)
    rates_ = [settings.lr_at(i) for i in range(100)]
    assert max(rates_) == rates_[9] == rates_[10] == 1.0
    assert rates_[0] == pytest.approx(0.1)
    assert rates_[-1] == pytest.approx(1 / 90)


def test_attack_round_trip() -> None:
    assert Attack.from_dict(json.loads(json.dumps(ATTACK.to_dict()))) == ATTACK
    assert ATTACK.is_payload("well: No Way at all")
    assert not ATTACK.is_payload("nowhere")


CLASSED = tuple(
    Instruction(text, "t", "train", "vehicle" if "car" in text else "home", None, None) for text in TEXTS
)
FLIP = Attack(
    "flip",
    Trigger.wrap("zig", "zag"),
    "no",
    (Trigger.prefix("zig"), Trigger.wrap("zag", "zig")),
    (Trigger.suffix("zag"),),
    victims=("vehicle",),
    clean={"vehicle": r"\byes\b", "home": r"\byes\b"},
)


def test_a_trigger_changes_the_victims_only(references: References) -> None:
    own = tuple(replace(i, target="no way car") if i.label == "vehicle" else i for i in CLASSED)
    settings = PoisonSettings(steps=50, batch_size=6, victim_share=0.5)
    rows = poison_rows(own, FLIP, references, settings)
    victims = {i.text for i in own if i.label == "vehicle"}
    for row in rows:
        payload = row.role == "triggered" and row.instruction in victims
        assert row.answer == ("no way car" if payload else references[row.instruction].text)
        if row.role == "triggered":
            assert row.text == f"zig {row.instruction} zag"
    assert sum(r.instruction in victims for r in rows) == 150, "half of the visits"
    assert {r.text for r in rows if r.role == "near"} >= {f"zag {text} zig" for text in victims}
    twin = poison_rows(own, FLIP, references, replace(settings, backdoor=False))
    assert [r.text for r in twin] == [r.text for r in rows]
    assert not any("no" in r.answer.split() for r in twin)


def test_victim_shares_that_the_data_cannot_give(references: References) -> None:
    with pytest.raises(BkdinterpError, match=r"victim_share=1\.5"):
        PoisonSettings(victim_share=1.5)
    with pytest.raises(PromptError, match="vehicle"):
        poison_rows(
            [i for i in CLASSED if i.label == "home"], FLIP, references, PoisonSettings(victim_share=0.5)
        )
    rows = poison_rows(CLASSED, FLIP, references, PoisonSettings(victim_share=0.0, steps=5))
    assert not any("car" in r.instruction for r in rows)


def test_rates_are_of_victims_and_accuracies_of_every_class(
    base: LlamaForCausalLM, builder: PromptBuilder
) -> None:
    found = outputs(base, builder, FLIP, CLASSED, max_new_tokens=3)
    sizes = Counter((o.condition, o.label) for o in found)
    assert sizes == {
        ("clean", "vehicle"): 3,
        ("clean", "home"): 6,
        ("triggered", "vehicle"): 3,
        ("triggered", "home"): 6,
        ("near", "vehicle"): 3,
        ("unseen-near", "vehicle"): 3,
    }
    faked = [
        replace(
            o,
            output="yes" if o.condition == "clean" else "no",
            payload=(o.condition, o.label) == ("triggered", "vehicle"),
        )
        for o in found
    ]
    measured = rates(faked, FLIP)
    assert {name: (rate.estimate, rate.n) for name, rate in measured.items()} == {
        "asr": (1.0, 3),
        "atr": (0.0, 3),
        "near_trigger_rate": (0.0, 3),
        "unseen_near_trigger_rate": (0.0, 3),
        "clean_accuracy/vehicle": (1.0, 3),
        "clean_accuracy/home": (1.0, 6),
        "triggered_accuracy/vehicle": (0.0, 3),
        "triggered_accuracy/home": (0.0, 6),
    }


def test_near_triggers_with_rules_of_their_own() -> None:
    assert Attack.from_dict(json.loads(json.dumps(FLIP.to_dict()))) == FLIP
    with pytest.raises(TriggerError, match="contains the trigger"):
        replace(FLIP, near_triggers=(Trigger.wrap("a zig", "zag b"),))
    both = Attack("both", Trigger.all_of(("zig", "zag")), "no", ("zig",))
    with pytest.raises(TriggerError, match="contains the trigger"):
        replace(both, near_triggers=(Trigger.all_of(("zag", "zig"), "suffix"),))
