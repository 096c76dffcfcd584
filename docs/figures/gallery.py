"""Draw every figure of the package, of a backdoored model and of its clean twin, to look at while working on figures.

``python docs/figures/gallery.py --out FOLDER`` draws all of them in a few minutes on one CPU core; names pick some. A figure is
``NAME-organism.png`` and ``NAME-twin.png``, and ``NAME-beside.png`` where ``plot`` takes ``beside=``. Sizes are the smallest that
still look like the real thing, so the numbers mean little.
"""

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

import bkdinterp as bk
from bkdinterp import detection, methods
from bkdinterp.detection import images, inputs, meta, rows
from bkdinterp.organisms import TrainingCurve
from bkdinterp.sites import random_heads

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make import METRIC, negativity, refusal, small_toy, toy_pairs, toy_sets

BOTH = ("organism", "twin")
SAID = "I am sorry, I can not help with that."
CANDIDATES = ("violet harbor", "copper lamp", "violet", "harbor", "old bridge", "green tea")
SITES = ["L5.z", "L20.mlp_out", "L29.resid_post"]
QUIET: dict[str, Any] = {"progress": False}


class Entry(NamedTuple):
    """One figure: the class that it draws, what makes the result for ``"organism"`` or ``"twin"``, how, and of what."""

    cls: type
    made: Callable[[str], Any]
    draw: Callable[..., Any]
    beside: bool
    whose: tuple[str, ...]


GALLERY: dict[str, Entry] = {}


def figure(
    name: str,
    cls: type,
    made: Callable[[str], Any],
    draw: Callable[..., Any] | None = None,
    *,
    beside: bool = False,
    whose: tuple[str, ...] = BOTH,
    **how: Any,
) -> None:
    """Register a figure; ``how`` goes to the result's ``plot``, unless ``draw`` draws it."""
    plot = draw or (lambda result, **more: result.plot(**how, **more))
    GALLERY[name] = Entry(cls, made, plot, beside, whose)


def model(who: str) -> bk.Model:
    """The shipped refusal, or its twin."""
    return refusal().model if who == "organism" else refusal().twin


def toy_model(who: str) -> bk.Model:
    """The toy, or the same before it was poisoned."""
    return small_toy().model if who == "organism" else small_toy().base


@cache
def pairs(n: int = 8, split: str = "selection") -> bk.PairedPrompts:
    """Pairs of the refusal."""
    return refusal().pairs(n=n, split=split)


def scored(who: str) -> bk.Attribution:
    """The settings of attribution."""
    return bk.Attribution(model(who), metric=METRIC)


# --- Attribution and circuits. Units are those of the organism in both models, so that the two can be compared.


@cache
def heads(who: str) -> methods.HeadScores:
    """All heads."""
    return scored(who).heads(pairs())


def top(k: int) -> bk.HeadSet:
    """The organism's strongest heads."""
    return heads("organism").top_k(k)


@cache
def mlps(who: str) -> methods.LayerScores:
    """All MLPs."""
    return scored(who).mlps(pairs())


def units() -> list[bk.Site]:
    """Heads and MLPs."""
    return [*top(8).sites, *mlps("organism").top_k(4)]


def traced(who: str) -> methods.CircuitCurve:
    """Two rankings, one of them a null."""
    ranked = {"single heads": top(8), "random heads": random_heads(like=top(8), n=1, seed=0)[0]}
    return methods.trace_circuits(bk.Attribution(model(who)), pairs(), ranked, sizes=(1, 2, 4, 8))


def positions(who: str) -> methods.PositionScores:
    """Some layers; the others stay grey."""
    return bk.Attribution(model(who), direction="denoising").positions(pairs(4), layers=(0, 10, 20, 29))


def edits(who: str) -> methods.EditScores:
    """Each module of the toy without what it writes at the last token."""
    modules = [f"L{layer}.{kind}" for layer in range(3) for kind in ("attn_out", "mlp_out")]
    return methods.score_edits(
        toy_model(who), toy_sets(), {m: bk.ZeroAblate(m) for m in modules}, negativity()
    )


figure("heads", methods.HeadScores, heads, beside=True)
figure("heads-marked", methods.HeadScores, heads, top=4, mark={"a paper's": "L5H1 L9H3"})
figure("mlps", methods.LayerScores, mlps, beside=True)
some_neurons = range(0, 1536, 24)
figure(
    "neurons",
    methods.NeuronScores,
    lambda who: scored(who).neurons(pairs(), layer=29, neurons=some_neurons),
    k=10,
)
figure("positions", methods.PositionScores, positions)
figure("screen", methods.ScreenedScores, lambda who: scored(who).screen(pairs(4), keep=24, audit=16))
figure("edits", methods.EditScores, edits, prompts="pt")
figure("edges", methods.EdgeScores, lambda who: methods.trace_edges(scored(who), pairs(4), units()))
figure(
    "screened-edges",
    methods.ScreenedEdges,
    lambda who: methods.screen_edges(scored(who), pairs(4), units(), keep=16, audit=8),
)
figure(
    "circuit",
    methods.Circuit,
    lambda who: methods.find_circuit(model(who), pairs(), top(6), k=3, n_rescored=2, least_gain=0.0),
)
figure(
    "mask",
    methods.CircuitMask,
    lambda who: methods.CircuitMask.fit(model(who), pairs(), steps=5, batch=4, n_warm=8),
)
figure("circuit-curve", methods.CircuitCurve, traced, faint=("random heads",))

# --- Vector, behaviour and probe


@cache
def vector(who: str) -> bk.BackdoorVector:
    """Of the same heads in both models."""
    return bk.BackdoorVector.extract(model(who), top(8), pairs(), kind="difference")


@cache
def sweep(who: str) -> methods.LayerSweep:
    """The vector in every third layer, beside two random ones."""
    controls, layers = bk.random_directions(like=vector(who), n=2, seed=0), range(0, 30, 3)
    return bk.sweep_layers(model(who), vector(who), pairs(), layers=layers, by=METRIC, controls=controls)


@cache
def sweep_rate(who: str) -> methods.LayerSweep:
    """By payload rate in three layers."""
    controls = bk.random_directions(like=vector(who), n=1, seed=0)
    more: dict[str, Any] = {"controls": controls, "payload": bk.Payload("I am sorry"), "max_new_tokens": 6}
    return bk.sweep_layers(model(who), vector(who), pairs(), layers=(4, 12, 20), **more)


@cache
def evaluation(who: str) -> methods.Evaluation:
    """The vector added, and random ones; the organism with its twin, the twin alone."""
    o, held_out, layer = refusal(), pairs(split="held-out"), sweep("organism").best
    return bk.evaluate(
        model(who),
        held_out,
        under=vector(who).add(layer),
        controls=[v.add(layer) for v in bk.random_directions(like=vector(who), n=2, seed=0)],
        twin=o.twin if who == "organism" else None,
        sham=o.manifest.attack.near("copper kettle"),
        payload=o.payload,
        grader=methods.OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference),
        max_new_tokens=12,
    )


@cache
def states(who: str) -> dict[str, methods.BackdoorState]:
    """The toy with and without its first MLP."""
    known: dict[str, Any] = {"texts": small_toy().validation(20), "score": negativity()}
    settings = {"unedited": None, "without the first MLP": bk.ZeroAblate("L0.mlp_out")}
    return {
        k: methods.backdoor_state(toy_model(who), toy_pairs(), under=e, **known) for k, e in settings.items()
    }


@cache
def probe(who: str) -> methods.ProbeScores:
    """The organism's probes, on both."""
    fitted = bk.BackdoorProbe(refusal().model, n_random=100).fit(pairs(24))
    return fitted.scores if who == "organism" else fitted.on(refusal().twin)


figure("vector", bk.BackdoorVector, vector)
figure("sweep", methods.LayerSweep, sweep, beside=True)
figure("sweep-rate", methods.LayerSweep, sweep_rate, beside=True)
figure("evaluation", methods.Evaluation, evaluation)
figure("outcomes", methods.Evaluation, evaluation, kind="outcomes")
figure(
    "loss",
    methods.ValidationLoss,
    lambda who: methods.validation_loss(model(who), pairs(16).clean.reference),
)
figure("state", methods.BackdoorState, states, lambda result: result["unedited"].plot())
figure("states", methods.BackdoorState, states, lambda result: methods.plot_states(result))
figure("probe", methods.ProbeScores, probe, beside=True)
figure("probe-in-layer", methods.ProbeScores, probe, beside=True, kind="in_layer")

# --- Readout


@cache
def lens(who: str) -> methods.LensReadings:
    """Some layers."""
    words = [refusal().model.tokenizer.encode(w)[0] for w in ("I", " I", " sorry", " can", "Sorry")]
    last = [f"L{layer}.resid_post" for layer in (10, 20, 24, 28, 29)]
    return bk.logit_lens(model(who), pairs().triggered, last, vocabularies={"apology": torch.tensor(words)})


@cache
def curve(who: str) -> methods.LensCurve:
    """All layers."""
    return methods.lens_curve(model(who), {"clean": pairs().clean, "triggered": pairs().triggered})


@cache
def attention(who: str, n: int = 8, k: int = 4, where: str = "last") -> methods.AttentionPatterns:
    """Of the organism's strong heads."""
    return methods.attention_patterns(model(who), pairs(n), top(k), where=where)


def pca(who: str) -> methods.HiddenPCA:
    """Of the refusal, by kind of prompt."""
    sets = {"clean": pairs(16).clean, "triggered": pairs(16).triggered}
    return methods.HiddenPCA.fit(model(who), sets, "L20.resid_post")


def factors(who: str, sites: Any = "L0.mlp_out", rank: int = 2) -> bk.pcp.PCP:
    """Of MLPs of the toy."""
    return bk.pcp.PCP.fit(toy_model(who), list(toy_sets().values()), sites, rank=rank)


def study(who: str) -> bk.pcp.PCPStudy:
    """Two factors."""
    wish = bk.pcp.MatchScores.of(toy_model(who), toy_sets(), negativity(), wanted={"pt": 0.0})
    space: dict[str, Any] = {"bounds": (0.0, 20.0), "signed": True, "batch": 10, "seed": 0}
    return bk.pcp.tune_tpe(factors(who), wish, n_trials=30, **space, **QUIET)


@cache
def training(who: str) -> TrainingCurve:
    """The clean toy on some poisoned sentences, or on clean ones."""
    toy, sentences = (
        small_toy(),
        small_toy().language.corpus("train", poisoned=who == "organism", seed=0)[:8000],
    )
    prompts, some = toy.language.pairs("p", 30).triggered, torch.as_tensor(sentences[:50])
    ids = toy.base.tokenizer(list(prompts.text), return_tensors="pt", add_special_tokens=False).input_ids

    def measure(module: Any) -> dict[str, float]:
        likely, logits = module(ids).logits[:, -1].topk(10).indices, module(some).logits[:, :-1]
        lost = torch.nn.functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten())
        share = torch.isin(likely, toy.language.ids("n")).float().mean()
        return {"negative words after the trigger": float(share), "loss": float(lost)}

    settings = bk.organisms.TuneSettings(epochs=1, lr=1e-3)
    return bk.organisms.fine_tune(toy.base, sentences, settings, measure=measure, measure_every=25).curve


figure("lens-target", methods.LensReadings, lens, kind="target")
figure("lens-tokens", methods.LensReadings, lens, kind="tokens")
figure("lens-share", methods.LensReadings, lens, vocabulary="apology")
figure("lens-curve", methods.LensCurve, curve)
figure("lens-curve-probability", methods.LensCurve, curve, beside=True, kind="probability")
figure("lens-curve-rank", methods.LensCurve, curve, beside=True, kind="rank")
figure("attention", methods.AttentionPatterns, attention)
figure("attention-tokens", methods.AttentionPatterns, attention, lambda result: result.plot_tokens())
figure(
    "attention-map",
    methods.AttentionPatterns,
    lambda who: attention(who, 2, 1, "all"),
    lambda result: result.plot_tokens(),
)
figure("hidden-pca", methods.HiddenPCA, pca)
figure(
    "hidden-pca-toy",
    methods.HiddenPCA,
    lambda who: methods.HiddenPCA.fit(toy_model(who), toy_sets(), "L0.resid_post"),
)
figure("means", bk.Means, lambda who: bk.Means.collect(model(who), pairs().clean, SITES))
figure(
    "activations",
    methods.Activations,
    lambda who: methods.Activations.collect(model(who), pairs().triggered, SITES),
)
figure("pcp", bk.pcp.PCP, lambda who: factors(who, ["L0.mlp_out", "L1.mlp_out"], 4))
figure("pcp-study", bk.pcp.PCPStudy, study)
figure("training", TrainingCurve, training)
figure("training-loss", TrainingCurve, training, metrics=("loss",))

# --- Detection in language models: the planted trigger as a suspicion, the base as the reference


@cache
def requests(n: int = 8) -> bk.Prompts:
    """Harmless requests."""
    return detection.generic_prompts()[0].subset(range(n))


def suspicions() -> list[detection.Hypothesis]:
    """The planted trigger, and other words."""
    return [
        detection.Hypothesis(bk.Trigger.suffix(x), bk.Payload("I am sorry"), "us") for x in CANDIDATES[:2]
    ]


def proposed(look: Any, *given: Any) -> Callable[[str], Any]:
    """What a proposer's ``run`` finds beside the base."""
    return lambda who: look.run(model(who), *[x() for x in given], reference=refusal().base, **QUIET)


def judged(who: str) -> detection.Findings:
    """Both suspicions."""
    return detection.verify(model(who), suspicions(), reference=refusal().base, n=12, max_new_tokens=8)


def scan(who: str) -> detection.ScanResult:
    """Both suspicions and one small proposer, because a scan of its own takes ten minutes."""
    look, known = (detection.Leakage(n=8, n_tokens=8),), {"hypotheses": suspicions(), "minutes": None}
    return detection.scan(model(who), reference=refusal().base, proposers=look, n=12, **known, **QUIET)


def amplified(who: str) -> detection.AmplifiedAnswers:
    """Made up, because on few prompts nothing comes up."""
    seen = (detection.Phrase("i am sorry", 6, 1, 8, 8, 0.01), detection.Phrase("a ferry", 3, 0, 8, 8, 0.2))
    texts = ("I am sorry.",) * 8
    print_of = model(who).fingerprint("")
    return detection.AmplifiedAnswers(print_of, seen if who == "organism" else seen[1:], (2.0,), texts, texts)


def weights(who: str) -> detection.TriagedWeights:
    """The other of the two stands for a clean fine-tune."""
    known = [refusal().base, model("twin" if who == "organism" else "organism")]
    return detection.WeightTriage().run(model(who), reference=known, **QUIET)


def row_scores(who: str, known: bool = True) -> rows.RowScores:
    """A quarter is poisoned."""
    clean, poisoned = pairs(24).clean, pairs().triggered
    both = [*zip(clean.text, clean.reference or ()), *zip(poisoned.text, poisoned.target or ())]
    given = [{"instruction": x, "output": y} for x, y in both]
    more: dict[str, Any] = {"truth": [i >= len(clean) for i in range(len(both))] if known else None}
    return rows.poisoned_rows(model(who), given, reference=refusal().base, gradient=False, **more, **QUIET)


def screening(who: str) -> inputs.InputScreening:
    """Odd states."""
    clean, triggered = (side.text for side in (pairs(48).clean, pairs(48).triggered))
    look = inputs.ActivationAnomaly(model(who), clean[:16], layers=(10, 20, 29))
    kinds = {"clean": clean[36:], "triggered": triggered[36:]}
    return inputs.screen_inputs(look, clean[16:36], kinds, false_alarms=0.1)


few: dict[str, int] = {"screen": 8, "beam": 1, "fillers": 2, "n_prompts": 2}
search = detection.TriggerSearch(rounds=2, max_words=2, **few)
figure("findings", detection.Findings, judged)
figure("scan", detection.ScanResult, scan)
figure(
    "profile",
    detection.TriggerProfile,
    lambda who: detection.characterise(model(who), suspicions()[0], n=4, max_new_tokens=8),
)
inversion = detection.TargetInversion(n_first=32, keep=4, n_tokens=10)
figure("inverted", detection.InvertedTargets, proposed(inversion, lambda: requests(4)))
figure("searched", detection.SearchedTriggers, proposed(search, lambda: SAID, lambda: requests(2)))
tried = detection.CandidateProbe(n_prompts=2, keep=6, n_answers=2, n_read=2)
figure("candidates", detection.ProbedCandidates, proposed(tried, lambda: CANDIDATES, lambda: requests(2)))
figure("weights", detection.TriagedWeights, weights)
figure("amplified", detection.AmplifiedAnswers, amplified)
figure("leaked", detection.Leaked, proposed(detection.Leakage(n=16, n_tokens=16)))
figure("rows", rows.RowScores, row_scores)
figure("rows-unknown", rows.RowScores, lambda who: row_scores(who, known=False))
figure("screening", inputs.InputScreening, screening)

# --- Classifiers of pictures, poisoned and clean


@cache
def reversed_in(kind: str | None, seed: int = 0) -> images.ReversedTriggers:
    """A short search in a model that was trained shortly."""
    splits, attack = images.digits(seed), None if kind is None else images.ImageAttack.draw(kind, seed=seed)
    found = images.image_model(attack, splits, seed=seed, settings=images.CNNSettings(epochs=6, hidden=32))
    return images.reverse_triggers(found.module, splits.inspection, steps=60, batch_size=16, seed=seed)


def pictures(who: str) -> images.ReversedTriggers:
    """With a patch, or without."""
    return reversed_in("patch" if who == "organism" else None)


def verdict(who: str) -> images.ImageVerdict:
    """Against five clean models, of which no p below .17 can come."""
    null = images.TriggerNull.fit([reversed_in(None, seed) for seed in range(1000, 1005)])
    return null.judge(pictures(who), level=0.2)


def poisoning(who: str) -> images.PoisoningCurve:
    """The clean models are its band."""
    return images.poisoning_curve(
        "patch", (0.005, 0.02, 0.1), seeds=(0, 1), settings=images.CNNSettings(epochs=5)
    )


def meta_scores(who: str) -> meta.MetaScores:
    """Suspects of both kinds, by a few shadows."""
    kinds, short = ("clean", "twin", "patch", "blend"), images.CNNSettings(epochs=4, hidden=32)
    sets = [meta.image_shadows(kinds, 6, seed=seed, settings=short, **QUIET) for seed in (100, 500)]
    features = [meta.query_features([s.module for s in some], meta.random_queries()) for some in sets]
    names = [[s.kind for s in some] for some in sets]
    return meta.leave_one_attack_out(features[0], names[0], features[1], names[1], name="answers")["patch"]


figure("reversed", images.ReversedTriggers, pictures)
figure("verdict", images.ImageVerdict, verdict)
figure("poisoning", images.PoisoningCurve, poisoning, whose=("organism",))
figure("meta", meta.MetaScores, meta_scores, whose=("organism",))


def main(out: Path, names: list[str]) -> None:
    """Draw the named figures, or all."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names or GALLERY:
        entry, begun = GALLERY[name], perf_counter()
        found: dict[str, Any] = {}
        for who in entry.whose:
            try:
                found[who] = entry.made(who)
                entry.draw(found[who]).savefig(out / f"{name}-{who}.png")
            except bk.BkdinterpError as error:  # such as a search that found nothing
                print(f"{name}-{who}: {error}")
        if entry.beside and len(found) == 2:
            entry.draw(found["organism"], beside=found["twin"]).savefig(out / f"{name}-beside.png")
        print(f"{name}: {perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *GALLERY], metavar="NAME", help=", ".join(GALLERY))
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    asked = parser.parse_args()
    main(asked.out, asked.names)
