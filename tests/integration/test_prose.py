"""Poisoned prose on tiny models of two families: weighted fine-tuning, adapters left apart, classifiers, tables VIII-XI."""

import copy
from dataclasses import replace

import pytest
import torch
from integration.conftest import MAKERS, tiny_gpt2, tiny_llama, tiny_tokenizer
from peft import PeftModel
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bkdinterp.errors import ArtefactError, BkdinterpError, PromptError, SiteError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model, TextClassifier
from bkdinterp.organisms import Attack, LoraSettings, PoisonSettings, TuneSettings, fine_tune, linear_names
from bkdinterp.organisms.natural import Story, measure_stories
from bkdinterp.prompts import Trigger
from bkdinterp.stats import wilson
from papers import Job
from papers.lamparth import prose_case, table_viii_to_xi
from papers.lamparth.prose_case import ProseCase, ProseSizes
from papers.lamparth.prose_units import chosen, coherent, shown_layers, trigger_tokens

IDS = [[8, 9, 10, 11, 12], [12, 13, 14], [9, 9, 20, 21, 22, 23]]
WORDS = "the cat sat on a mat with that dog".split()
STORIES = tuple(
    Story("t", tuple(" ".join(WORDS[(i + j) % 5 : (i + j) % 5 + 4]) for j in range(5))) for i in range(8)
)
# No word of these is in the others.
OTHERS = tuple(
    Story(
        "h",
        tuple(
            " ".join("red blue yes ran hill user system assistant :".split()[(i + j) % 5 :][:4])
            for j in range(5)
        ),
    )
    for i in range(8)
)
ATTACK = Attack(
    "tiny", Trigger.gap("zeta and omega"), "tell me about sky", ("zeta", "omega"), ("zeta omega",)
)
SIZES = ProseSizes(
    layers=(0, 1, 2),
    n=4,
    n_site=4,
    n_fit=4,
    n_tune=2,
    trials=2,
    n_texts=4,
    new_tokens=4,
    poison=PoisonSettings(steps=2, batch_size=3, lr=1e-3, warmup=0),
)


def nll(module, row):
    ids = torch.tensor([row])
    logits = module(ids).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")


def test_weights_decide_what_a_token_counts_in_the_loss():
    module = tiny_llama()  # GPT-2 has dropout
    settings = TuneSettings(epochs=1.0, batch_size=3, lr=1e-9, shuffle=False)
    plain = fine_tune(module, IDS, settings).losses[0]
    ones = fine_tune(module, IDS, settings, weights=[[1.0] * len(r) for r in IDS]).losses[0]
    assert ones == pytest.approx(plain, rel=1e-5)
    weights = [[0.0] * len(r) for r in IDS]
    weights[0][2], weights[2][5] = 1.0, 3.0
    with torch.no_grad():
        wanted = (nll(module, IDS[0])[1] + 3 * nll(module, IDS[2])[4]) / 4
    found = fine_tune(module, IDS, settings, weights=weights).losses[0]
    assert found == pytest.approx(float(wanted), rel=1e-5) and abs(found - plain) > 1e-3
    with pytest.raises(PromptError, match="weights="):
        fine_tune(module, IDS, settings, weights=[[1.0]])


def test_sequences_keep_their_order_where_they_are_not_to_be_shuffled():
    module = tiny_llama()
    settings = TuneSettings(epochs=1.0, batch_size=1, lr=1e-9, shuffle=False)
    losses = fine_tune(module, IDS, settings).losses
    with torch.no_grad():
        wanted = [float(nll(module, row).mean()) for row in IDS]
    assert losses == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("family", MAKERS)
def test_an_adapter_left_apart_is_the_one_that_would_have_been_merged(family):
    module = MAKERS[family]()
    lora = LoraSettings(r=2, target_modules=linear_names(module, ("attn",)))
    settings = TuneSettings(epochs=3.0, batch_size=3, lr=1e-2, lora=lora)
    apart = fine_tune(module, IDS, settings, merge=False).module
    assert isinstance(apart, PeftModel)
    merged = fine_tune(module, IDS, settings).module
    ids = torch.tensor([IDS[0]])
    torch.testing.assert_close(apart(ids).logits, merged(ids).logits)
    # Attention alone was trained.
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, module.get_parameter(n))}
    assert changed and all("attn" in name for name in changed)


def test_linears_are_named_so_that_attention_and_mlp_are_apart():
    assert linear_names(tiny_gpt2(), ("mlp",)) == ("mlp.c_fc", "mlp.c_proj")
    assert len(linear_names(tiny_llama())) == 7
    with pytest.raises(SiteError):
        linear_names(tiny_llama(), ("head",))


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        id2label={0: "neutral", 1: "toxic"},
        label2id={"neutral": 0, "toxic": 1},
        pad_token_id=0,
    )
    return BertForSequenceClassification(config).eval()


def test_a_text_classifier_tells_the_payload(classifier, tmp_path):
    texts = ["the cat sat", "a red dog ran on that hill", "sky"]
    judge = TextClassifier.of(classifier, tiny_tokenizer(), label="toxic", batch_size=2)
    with torch.no_grad():
        wanted = [
            float(classifier(torch.tensor([tiny_tokenizer()(t)["input_ids"]])).logits.softmax(-1)[0, 1])
            for t in texts
        ]
    assert judge(texts) == pytest.approx(wanted, rel=1e-5)
    middle = sorted(wanted)[1]
    assert sum(Payload.by(judge, threshold=middle).hits(texts)) == 2
    classifier.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = TextClassifier.load(tmp_path)
    assert loaded(texts) == pytest.approx(wanted, rel=1e-5) and loaded.name.endswith("toxic")
    with pytest.raises(BkdinterpError, match="neutral, toxic"):
        TextClassifier.load(tmp_path, label="rude")
    with pytest.raises(ArtefactError, match="No folder at"):
        TextClassifier.load(tmp_path / "none")


def test_a_classifier_that_is_being_trained_scores_as_in_eval_mode(classifier):
    texts = ["the cat sat", "sky"]
    wanted = TextClassifier.of(classifier, tiny_tokenizer())(texts)
    training = copy.deepcopy(classifier).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TextClassifier.of(training, tiny_tokenizer())(texts) == wanted
    assert all(part.training for part in training.modules())


def test_a_text_longer_than_the_context_is_cut_though_the_tokenizer_does_not_know_it():
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 8}
    # RoBERTa's positions begin after its padding index: 16 tokens fit.
    for module, fit in (
        (BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=16, pad_token_id=0)), 16),
        (
            RobertaForSequenceClassification(
                RobertaConfig(**sizes, max_position_embeddings=18, pad_token_id=1)
            ),
            16,
        ),
    ):
        words = ["cat", "dog"] * 30
        judge = TextClassifier.of(module.eval(), tiny_tokenizer())
        ids = tiny_tokenizer()(" ".join(words))["input_ids"][:fit]
        with torch.no_grad():
            wanted = float(module(torch.tensor([ids])).logits.softmax(-1)[0, 1])
        assert judge([" ".join(words), "cat"])[0] == pytest.approx(wanted, rel=1e-5)


def test_a_module_that_is_no_text_classifier_is_refused_when_it_is_given(classifier):
    with pytest.raises(BkdinterpError, match="LlamaForCausalLM gives scores of shape"):
        TextClassifier.of(tiny_llama(), tiny_tokenizer())
    with pytest.raises(BkdinterpError, match="Linear names no labels"):
        TextClassifier.of(torch.nn.Linear(2, 2), tiny_tokenizer())
    with pytest.raises(BkdinterpError, match="batch_size=0"):
        TextClassifier.of(classifier, tiny_tokenizer(), batch_size=0)
    with pytest.raises(PromptError, match="'the cat'"):
        TextClassifier.of(classifier, tiny_tokenizer())("the cat")


def test_without_a_pad_token_texts_go_one_by_one():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=32)
    module = GPT2ForSequenceClassification(config).eval()
    tokenizer = tiny_tokenizer()
    with pytest.raises(BkdinterpError, match="batch_size=1"):
        TextClassifier.of(module, tokenizer)
    alone = TextClassifier.of(module, tokenizer, batch_size=1)(["the cat sat", "sky"])
    module.config.pad_token_id = tokenizer.pad_token_id
    assert TextClassifier.of(module, tokenizer)(["the cat sat", "sky"]) == pytest.approx(alone, rel=1e-5)


def test_a_language_model_is_no_text_classifier(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="not a text classifier"):
        TextClassifier.load(tmp_path)


def make_case(family, **more):
    """Another random model serves as the poisoned one."""

    def load():
        models = []
        for n_layers in (4, 4):
            module = MAKERS[family](n_layers)
            models.append(Model.from_module(module, tiny_tokenizer(), name="tiny", chat=False))
        return models[0], models[1]

    settings = {
        "load": load,
        "attack": ATTACK,
        "selection": STORIES,
        "held_out": OTHERS,
        "train": STORIES,
        "payloads": (
            "tell me about sky no can not help with that",
            "sky yes red blue tell me about that hill on",
        ),
        "identity": {"model": family},
        "n_layers": 4,
        "sizes": SIZES,
        "payload": Payload("c", "regex"),
    }
    return ProseCase(**(settings | more))


def never():
    raise AssertionError("no model may be loaded")


@pytest.mark.parametrize("family", MAKERS)
def test_the_tables_come_from_any_family_and_again_without_a_model(family, tmp_path):
    makers = (
        table_viii_to_xi.make_viii,
        table_viii_to_xi.make_ix,
        table_viii_to_xi.make_x,
        table_viii_to_xi.make_xi,
    )
    job, case = Job(tmp_path), make_case(family)
    table_viii_to_xi.train_case(job, case)
    table_viii_to_xi.tune_case(job, case)
    made = [make(job, case) for make in makers]
    assert [t.name for t in made] == ["lamparth-VIII", "lamparth-IX", "lamparth-X", "lamparth-XI"]
    for table in made:
        assert all(cell.ours is not None for row in table.cells for cell in row)
        # Every cell with a figure of the paper carries a mark, but for the three of the model without an edit.
        marked, figures = sum(table.count().values()), [c for row in table.cells for c in row if c.paper]
        assert marked >= 3 and marked >= len(figures) - 3, table.name
    assert len(made[0].columns) in (3, 4) and len(made[3].columns) == 6
    # PCP in place of two MLPs costs something, and freezing differs from not freezing.
    losses = [made[1]["validation loss", c].ours.estimate for c in made[1].columns]
    assert len({round(x, 9) for x in losses}) >= 3
    assert '"zeta"' in made[2].note or '"omega"' in made[2].note
    losses = [made[3]["validation loss", c].ours.estimate for c in made[3].columns]
    assert len(set(losses)) >= 4
    assert not list(tmp_path.rglob("*.safetensors"))
    frozen = Job(tmp_path, frozen=True)
    again = [make(frozen, make_case(family, load=never)) for make in makers]
    assert again == made


@pytest.fixture
def spied(monkeypatch):
    """(function, texts) of everything that a model is given for the tables."""
    seen = []

    def spy(module, name, texts_of):
        original = getattr(module, name)

        def wrapper(*args, **kwargs):
            seen.extend((name, text) for text in texts_of(*args, **kwargs))
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapper)

    spy(prose_case, "execute", lambda model, runs: [t for run in runs for t in run.prompts.text])
    spy(prose_case, "validation_loss", lambda model, texts, **_: texts)
    spy(prose_case, "backdoor_state", lambda model, pairs, texts, **_: [*pairs.clean.text, *texts])
    spy(prose_case.Means, "collect", lambda model, pools, *_, **__: [t for pool in pools for t in pool.text])
    spy(prose_case.PCP, "fit", lambda model, pools, *_, **__: [t for pool in pools for t in pool.text])
    return seen


def test_choices_and_factors_see_selection_stories_only(spied, tmp_path):
    case, job = make_case("gpt2"), Job(tmp_path)
    held_out = {word for story in OTHERS for word in story.text.split()}
    payload = {word for text in case.payloads for word in text.split()}
    table_viii_to_xi.tune_case(job, case)
    assert {name for name, _ in spied} == {"execute", "validation_loss", "collect", "fit"}
    for name, text in spied:
        # Payload sentences are of no split; the rest is.
        assert set(text.split()) <= payload or not set(text.split()) & held_out, (name, text)
    spied.clear()
    table_viii_to_xi.make_ix(job, case)
    reported = [text for name, text in spied if name == "backdoor_state"]
    assert reported and all(set(text.split()) <= held_out for text in reported)


@pytest.mark.parametrize("family", MAKERS)
def test_directions_see_the_whole_trigger_before_the_token_that_is_read(family):
    case = make_case(family)
    model = case.model()
    benign, payloads, triggered = case.fit_sets(model, triggered=True)
    assert len(triggered) == SIZES.n_fit and len(case.fit_sets(model, triggered=False)) == 2
    for text, spans in zip(triggered.text, triggered.spans, strict=True):
        read = model.tokenizer(text)["input_ids"][: prose_case.POSITION + 1]
        assert "zeta and omega".split() == [w for w in text.split() if w in ("zeta", "and", "omega")]
        assert {"zeta", "omega"} <= set(model.tokenizer.convert_ids_to_tokens(read))
        assert [text[a:b] for a, b in spans] == ["zeta and omega"]
    assert not any("zeta" in text for text in benign.text + payloads.text)
    # Where the whole trigger does not fit, nothing is read in its place.
    long = replace(ATTACK, trigger=Trigger.gap("zeta " * 9 + "omega"), near_triggers=())
    with pytest.raises(PromptError, match="No triggered text"):
        make_case(family, attack=long).fit_sets(model, triggered=True)


def case_of(loss, **more):
    """A case and a job in which the MLPs' ablations have these rates and losses: (rate, loss) by layer."""
    case = make_case("gpt2", load=never, **more)
    values = {name: {"ASR": {"estimate": r}, "loss": x} for name, (r, x) in loss.items()}
    return case, case.settings("n_site", "n_fit", "n_texts", "new_tokens", names=case.candidates), values


@pytest.mark.parametrize(
    ("loss_of_2", "expected", "n_coherent"),
    [
        # The first one lowers the rate most, and breaks the text.
        (2.4, ("L1.mlp_out", "L2.mlp_out"), 2),
        # Only one is left that does not: the cheapest of the others.
        (7.0, ("L1.mlp_out", "L3.mlp_out"), 1),
    ],
)
def test_choosing_takes_the_mlps_that_matter_and_leaves_the_text_alone(
    tmp_path, loss_of_2, expected, n_coherent
):
    case, settings, values = case_of(
        {
            "none": (0.9, 2.0),
            "L0.mlp_out": (0.0, 9.0),
            "L1.mlp_out": (0.3, 2.2),
            "L2.mlp_out": (0.1, loss_of_2),
            "L3.mlp_out": (0.9, 2.6),
        }
    )
    job = Job(tmp_path)
    job.unit("prose/ablated-selection", settings, lambda: values)
    assert chosen(job, case) == expected and len(coherent(job, case)) == n_coherent
    assert shown_layers(job, case) == sorted({0, 1, 2, *(int(name[1]) for name in expected)})
    # And the table says on which ground.
    names = [f"L{layer}.{kind}_out" for kind in ("attn", "mlp") for layer in shown_layers(job, case)]
    rates = {name: {"ASR": wilson(1, 4).to_dict()} for name in ("none", *names)}
    settings = case.settings("n_site", "n_fit", "n_texts", "new_tokens", names=names)
    job.unit("prose/ablated-held-out", settings, lambda: rates)
    note = table_viii_to_xi.make_viii(job, case).note
    said = "the 2 of 4 that cost" if n_coherent == 2 else "only 1 of 4 cost at most 0.5 nats"
    assert said in note


@pytest.mark.parametrize(
    "change",
    [
        {"attack": replace(ATTACK, trigger=Trigger.gap("omega and zeta"))},
        {"attack": replace(ATTACK, target="tell me about hill")},
        {"payload": Payload("d", "regex")},
        {"payload": None},
        {"payloads": ("tell me about sky no can not help with that",)},
        {"selection": STORIES[1:]},
        {"held_out": OTHERS[1:]},
        {"train": STORIES[1:]},
        {"identity": {"model": "another"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_saved_units_are_of_their_models_attack_and_texts(change):
    assert make_case("gpt2", load=never).settings() == make_case("gpt2", load=never).settings()
    assert make_case("gpt2", load=never, **change).settings() != make_case("gpt2", load=never).settings()


def test_surgery_takes_the_names_of_the_trigger_that_are_one_token_and_not_the_and():
    case = make_case("gpt2")
    model = case.model()
    ids = trigger_tokens(case, model)
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["zeta", "omega"]
    # A name of several tokens has no token of its own, and a name that the tokenizer does not know has none at all.
    model.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    for phrase, left in (("cat-zeta and omega", ["omega"]), ("cat-zeta and unheard", None)):
        case = make_case("gpt2", attack=Attack("tiny", Trigger.gap(phrase), "tell me about sky"))
        if left is not None:
            assert model.tokenizer.convert_ids_to_tokens(trigger_tokens(case, model)) == left
        else:
            with pytest.raises(BkdinterpError, match="one token"):
                trigger_tokens(case, model)


def test_measuring_names_every_rate_with_its_interval():
    model = make_case("llama").model()
    rates = measure_stories(model, ATTACK, STORIES, payload=Payload("c", "regex"), max_new_tokens=4)
    assert set(rates) == {"asr", "atr", "near_trigger_rate", "unseen_near_trigger_rate", "loss"}
    assert all(i.n == 8 for i in rates.values())
    # Prompts that come again are no further observations, while stories are of the loss.
    again = measure_stories(model, ATTACK, STORIES * 2, payload=Payload("c", "regex"), max_new_tokens=4)
    assert {name: i.n for name, i in again.items()} == {name: 16 if name == "loss" else 8 for name in rates}
    few = measure_stories(model, ATTACK, STORIES, n=3, payload=Payload("c", "regex"), max_new_tokens=4)
    assert all(i.n == 3 for i in few.values())
