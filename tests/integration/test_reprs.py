"""Every public object prints as one short line, whatever it holds; results show a small, harmless table in notebooks."""

import inspect
from dataclasses import dataclass, replace

import pandas
import pytest
import torch
from integration.conftest import tiny_llama, tiny_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

import bkdinterp as bk
from bkdinterp.methods import MatchScores
from bkdinterp.metrics import vocabulary_score
from bkdinterp.organisms import Manifest, OrganismModules, PoisonSettings, Reference, References, attack
from bkdinterp.reprs import cut, short
from bkdinterp.results import Fingerprint
from bkdinterp.stats import PCA, Mean, RunningMean

LONG = "a very\nlong \x1b[31mname " * 50
CHARACTERS = 400
# Roles and constants, of which there is no instance of its own.
ABSTRACT = {"Intervention", "Result", "BASE", "SweepInterrupted"}
# Their own tests: test_prompts_reprs.
ELSEWHERE = {"DoctorReport"}  # takes a minute to make; test_doctor


def public_classes():
    found = {name: getattr(bk, name) for name in bk.__all__}
    found |= {n: getattr(getattr(bk, home), n) for home, names in bk._MOVED.items() for n in names.split()}
    found = {name: c for name, c in found.items() if name not in ABSTRACT | ELSEWHERE}
    return {name: c for name, c in found.items() if inspect.isclass(c) and not issubclass(c, BaseException)}


def share(logits, targets, mask, base):
    return logits.mean(dim=(1, 2))


@pytest.fixture(scope="module")
def things(llama, pairs):
    """One of everything, by the name of its class."""
    model = llama
    many = bk.PairedPrompts.from_instructions(
        [
            f"tell me about the {a} {b}"
            for a in ("cat", "dog", "sky", "hill", "mat")
            for b in ("red", "blue", "yes")
        ],
        bk.Trigger.gap("zeta omega", seed=3),
        target="sorry no",
    )
    attribution = bk.Attribution(model)
    heads = attribution.heads(pairs)
    sites = "L0.mlp_out L1.mlp_out L2.mlp_out"
    means = bk.Means.collect(model, pairs.clean, sites)
    kept = bk.methods.Activations.collect(model, pairs.clean, sites)
    vector = bk.BackdoorVector.extract(model, heads.top_k(3), pairs)
    grader = bk.methods.OutcomeGrader.fit(model, pairs.clean, ["the cat sat"] * len(pairs))
    pcp = bk.pcp.PCP.fit(model, pairs.clean, sites, rank=2)
    goal = MatchScores.of(model, {"clean": pairs.clean, "triggered": pairs.triggered}, "logprob")
    fitted = bk.BackdoorProbe(model, n_random=20).fit(many)
    score = vocabulary_score(torch.arange(8, 20), k=5, name="share")
    run = bk.Run(pairs.clean, score="logprob", reads=(bk.Read("L1.mlp_out"),))
    edit = bk.MeanAblate(sites.split(), means)
    plan = bk.plan(model, [run])
    classifier = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
        )
    )
    manifest = Manifest(
        "smollm2-refusal",
        "twin",
        attack("smollm2-refusal"),
        "x",
        "0",
        None,
        "0",
        {},
        PoisonSettings(),
        "",
        {},
    )
    module = tiny_llama(n_layers=1)
    objects = [
        attribution, heads, heads.interval("L0H0"), means, kept, vector, grader, pcp, goal, fitted, fitted.probe,
        fitted.scores, fitted.split, fitted.null, fitted.classifiers, run, plan, edit, heads.top_k(10),
        model.architecture, model.fingerprint(), plan.cost,
        attribution.mlps(pairs), attribution.neurons(pairs, layer=1), attribution.mlps(pairs).top_k(3),
        bk.sweep_layers(model, vector, pairs, layers=[0, 1]),
        bk.evaluate(model, pairs, under=edit, payload=bk.Payload("sorry"), max_new_tokens=3),
        bk.methods.score_edits(model, {"clean": pairs.clean}, {"edit": edit}, "logprob"),
        bk.pcp.tune_grid(bk.pcp.PCP.fit(model, pairs.clean, "L1.mlp_out", rank=1), goal, [0.1, 1.0]),
        bk.logit_lens(model, pairs.clean, "L1.resid_post"),
        bk.methods.HiddenPCA.fit(model, {"clean": pairs.clean}, "L2.resid_post", rank=2),
        bk.methods.backdoor_state(model, pairs, score=score),
        bk.methods.validation_loss(model, ["the cat sat on the mat", "a dog ran"]),
        bk.execute(model, [run])[0],
        bk.Patch("L1.mlp_out", bk.Run(pairs.triggered)),
        bk.ZeroAblate("L1H2"), bk.ZeroAblate([f"L{i}H{j}" for i in range(4) for j in range(4)]),
        bk.ResampleAblate(sites.split(), kept), bk.Steer("L1.mlp_out", torch.zeros(16)),
        bk.interventions.CachedAblate(heads.top_k(2)), pcp.replace(1.0), pcp.replace(1.0).items[0], bk.Apply("L1.mlp_out", share),
        bk.Scale("L1.z", 0.5), bk.Score(share, "share of it"), many, many.clean,
        model, model.builder, model.builder.tokenize(pairs.clean), bk.Trigger((LONG, LONG)), edit + bk.ZeroAblate("L3.mlp_out"), *edit.lower()[:1], bk.Read("L1.z"), bk.From(bk.BASE, bk.Read("L1.z")),
        bk.Where("all"), bk.Site.parse("L1.z"), bk.HeadId(1, 2), bk.Component.z, bk.Outcome.payload,
        bk.Payload(LONG), bk.Local(), bk.Remote(host="https://x.example", api_key="k"),
        bk.model._families.family_of("llama"),
        bk.TextClassifier.of(classifier, tiny_tokenizer(), label=1, batch_size=1),
        Mean(torch.zeros(5000), 3), RunningMean(), PCA.fit(torch.randn(9, 50), 3),
        manifest, References(LONG, LONG, 3, {str(i): Reference(LONG, False) for i in range(1000)}),
        OrganismModules(module, module, module, tiny_tokenizer(), manifest, manifest),
        replace(model.fingerprint(), model=LONG, versions={str(i): LONG for i in range(50)}),
    ]  # fmt: skip
    return [(type(x).__name__, x) for x in objects]


def test_there_is_one_of_every_public_class(things):
    assert set(public_classes()) <= {name for name, _ in things}


def test_every_repr_is_one_short_line(things):
    for name, thing in things:
        text = repr(thing)
        assert len(text) <= CHARACTERS, (name, len(text), text[:200])
        assert "\n" not in text and "\x1b" not in text, (name, text[:200])


def test_reprs_say_what_it_is(things):
    said = {name: repr(thing) for name, thing in reversed(things)}
    assert said["Site"] == "Site('L1.z')" and said["HeadId"] == "HeadId('L1H2')"
    assert said["SiteSet"].startswith("SiteSet(L") and "HeadSet(L" in said["HeadSet"]
    assert "n_random=20" in said["BackdoorProbe"]
    assert said["Edit"] == "Edit(L0.mlp_out @ last, keep=0, value=[16])"
    assert said["Steer"] == "Steer(L1.mlp_out, coeff=1 @ last)"


def test_the_sites_of_the_strongest_layers_print_as_names(things):
    (sites,) = [x for name, x in things if name == "SiteSet"]
    assert str(sites) == ", ".join(map(str, sites)) and isinstance(sites, tuple) and len(sites) == 3
    assert bk.ZeroAblate(sites).lower()[0].site == sites[0]


@dataclass(frozen=True)
class Mine(bk.interventions.Intervention):
    """A user's own intervention, with nothing said about its repr."""

    values: torch.Tensor

    def lower(self):
        return ()


def test_a_users_own_intervention_is_short_too():
    assert repr(Mine(torch.zeros(1000))) == "Mine(values=[1000])"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 3), "[2 x 3]"),
        (torch.tensor(1.0), "[scalar]"),
        (list(range(10**6)), "<1000000 items>"),
        ([1, 2], "[1, 2]"),
        ({"a": torch.zeros(9999)}, "<1 item>"),
        (None, "None"),
        ("it's", '"it\'s"'),
        (tiny_tokenizer(), "<TokenizersBackend>"),
    ],
)
def test_values_are_shown_by_size(value, said):
    assert short(value) == said


def test_cut_makes_one_line():
    assert cut("a\nb\x1b\u202e", 100) == "a\\nb\\x1b\\u202e"
    assert cut("x" * 10, 5) == "xx..." and cut("x" * 5, 5) == "x" * 5
    assert len(cut("\n" * 1000, 50)) == 50


EVIL = "<script>alert('x')</script><img src=x onerror=y>\x1b[2J"


@dataclass(frozen=True, eq=False, repr=False)
class Said(bk.results.Result):
    """A result whose table holds what a suspect model wrote."""

    text: str
    n: int

    def to_frame(self):
        return pandas.DataFrame([{"text": self.text, EVIL: i / 3, "i": i} for i in range(self.n)])

    def plot(self):
        raise NotImplementedError


def test_a_notebook_shows_text_as_text():
    made_of = Fingerprint(EVIL, None, None, "float32", "t", "d", 0, {})
    html = Said(made_of, EVIL * 100, 1000)._repr_html_()
    assert "<script" not in html and "<img" not in html and "\x1b" not in html and "\n" not in html
    assert html.count("<tr>") == 9 and "1000 rows x 3 columns" in html and len(html) < 6000
    assert "0.3333" in html and "&lt;script&gt;" in html


def test_every_result_has_a_small_table(things):
    results = [x for _, x in things if isinstance(x, bk.results.Result)]
    assert len(results) >= 14
    for result in results:
        html = result._repr_html_()
        assert html.startswith("<div ") and len(html) < 20_000 and "<td>" in html
