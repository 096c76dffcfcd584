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
from typing import Any, Literal, NamedTuple

import torch

import bkdinterp as bk
from bkdinterp import detection, methods
from bkdinterp.detection import images, inputs, meta, rows
from bkdinterp.organisms import TrainingCurve
from bkdinterp.sites import random_heads

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make import METRIC, negativity, refusal, small_toy, toy_pairs, toy_sets

Who = Literal["organism", "twin"]
Made = Callable[[Who], Any]
N = 8  # prompts


class Entry(NamedTuple):
    """One figure: what makes its result, the class it draws, how, and of what."""

    made: Made
    cls: type
    draw: Callable[..., Any]
    beside: bool
    whose: tuple[Who, ...]


GALLERY: dict[str, Entry] = {}


def figure(
    name: str,
    cls: type,
    draw: Callable[..., Any] | None = None,
    *,
    beside: bool = False,
    whose: tuple[Who, ...] = ("organism", "twin"),
    **how: Any,
) -> Callable[[Made], Made]:
    """Register what makes a result of a class; ``how`` goes to its ``plot``, unless ``draw`` draws it."""

    def register(made: Made) -> Made:
        plot = draw or (lambda result, **more: result.plot(**how, **more))
        GALLERY[name] = Entry(made, cls, plot, beside, whose)
        return made

    return register


def model(who: Who) -> bk.Model:
    """The shipped refusal, or its twin."""
    return refusal().model if who == "organism" else refusal().twin


def toy_model(who: Who) -> bk.Model:
    """The toy, or the same before it was poisoned."""
    return small_toy().model if who == "organism" else small_toy().base


@cache
def pairs(n: int = N, split: str = "selection") -> bk.PairedPrompts:
    """Pairs of the refusal."""
    return refusal().pairs(n=n, split=split)


def scored(who: Who, metric: str = METRIC) -> bk.Attribution:
    """The settings of attribution."""
    return bk.Attribution(model(who), metric=metric)


# --- Attribution and circuits


@figure("heads", methods.HeadScores, beside=True)
@figure("heads-marked", methods.HeadScores, top=4, mark={"a paper's": "L5H1 L9H3"})
@cache
def heads(who: Who) -> Any:
    """All heads."""
    return scored(who).heads(pairs())


@figure("mlps", methods.LayerScores, beside=True)
@cache
def mlps(who: Who) -> Any:
    """All MLPs."""
    return scored(who).mlps(pairs())


@figure("neurons", methods.NeuronScores, k=10)
def neurons(who: Who) -> Any:
    """Neurons of the last layer, the strongest by their derivative."""
    return scored(who).neurons(pairs(), layer=29, neurons=range(0, 1536, 24))


@figure("positions", methods.PositionScores)
def positions(who: Who) -> Any:
    """Some layers by position."""
    return bk.Attribution(model(who), direction="denoising").positions(pairs(4), layers=(0, 10, 20, 29))


@figure("screen", methods.ScreenedScores)
def screen(who: Who) -> Any:
    """Neurons by a linear estimate."""
    return scored(who).screen(pairs(4), keep=24, audit=16)


@figure("edits", methods.EditScores, prompts="pt")
def edits(who: Who) -> Any:
    """Each module of the toy without what it writes at the last token."""
    modules = [f"L{layer}.{kind}" for layer in range(3) for kind in ("attn_out", "mlp_out")]
    return methods.score_edits(
        toy_model(who), toy_sets(), {m: bk.ZeroAblate(m) for m in modules}, negativity()
    )


def units(who: Who) -> Any:
    """Strong heads and MLPs of the organism, for both models, so that the two can be compared."""
    return [*heads("organism").top_k(8).sites, *mlps("organism").top_k(4)]


@figure("edges", methods.EdgeScores)
def edges(who: Who) -> Any:
    """Direct paths between strong heads and MLPs."""
    return methods.trace_edges(scored(who), pairs(4), units(who))


@figure("screened-edges", methods.ScreenedEdges)
def screened_edges(who: Who) -> Any:
    """The same by a linear estimate."""
    return methods.screen_edges(scored(who), pairs(4), units(who), keep=16, audit=8)


@figure("circuit", methods.Circuit)
def circuit(who: Who) -> Any:
    """Heads one by one."""
    return methods.find_circuit(
        model(who), pairs(), heads("organism").top_k(6), k=3, n_rescored=2, least_gain=0.0
    )


@figure("mask", methods.CircuitMask)
def mask(who: Who) -> Any:
    """Heads all at once."""
    return methods.CircuitMask.fit(model(who), pairs(), steps=8, batch=4, n_warm=8)


@figure("circuit-curve", methods.CircuitCurve, faint=("random heads",))
def circuit_curve(who: Who) -> Any:
    """Two rankings."""
    best = heads("organism").top_k(8)
    ranked = {"single heads": best, "random heads": random_heads(like=best, n=1, seed=0)[0]}
    return methods.trace_circuits(bk.Attribution(model(who)), pairs(), ranked, sizes=(1, 2, 4, 8))


# --- Vector, behaviour and probe


@figure("vector", bk.BackdoorVector)
@cache
def vector(who: Who) -> Any:
    """Of the same heads in both models."""
    return bk.BackdoorVector.extract(model(who), heads("organism").top_k(8), pairs(), kind="difference")


@figure("sweep", methods.LayerSweep, beside=True)
@cache
def sweep(who: Who) -> Any:
    """The vector in every third layer."""
    controls = bk.random_directions(like=vector(who), n=2, seed=0)
    found = vector(who), pairs()
    return bk.sweep_layers(model(who), *found, layers=range(0, 30, 3), by=METRIC, controls=controls)


@figure("sweep-payload", methods.LayerSweep, beside=True)
@cache
def sweep_payload(who: Who) -> Any:
    """The same by payload rate."""
    controls = bk.random_directions(like=vector(who), n=1, seed=0)
    layers = (4, 12, 20)
    return bk.sweep_layers(
        model(who), vector(who), pairs(), layers=layers, controls=controls, max_new_tokens=6
    )


@figure("evaluation", methods.Evaluation)
@figure("outcomes", methods.Evaluation, kind="outcomes")
@cache
def evaluation(who: Who) -> Any:
    """The vector added, beside a random one; the organism's with its twin, the twin's alone."""
    o, held_out = refusal(), pairs(split="held-out")
    return bk.evaluate(
        model(who),
        held_out,
        under=vector(who).add(sweep(who).best),
        controls=[v.add(sweep(who).best) for v in bk.random_directions(like=vector(who), n=2, seed=0)],
        twin=o.twin if who == "organism" else None,
        sham=o.manifest.attack.near("copper kettle"),
        payload=o.payload,
        grader=methods.OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference),
        max_new_tokens=12,
    )


@figure("loss", methods.ValidationLoss)
def loss(who: Who) -> Any:
    """Of answers as raw text."""
    return methods.validation_loss(model(who), pairs(16).clean.reference)


@figure("states", methods.BackdoorState, lambda result: methods.plot_states(result))
@figure("state", methods.BackdoorState, lambda result: result["unedited"].plot())
@cache
def states(who: Who) -> Any:
    """The toy with and without its first MLP's output."""
    settings = {"unedited": None, "without the first MLP": bk.ZeroAblate("L0.mlp_out")}
    texts = small_toy().validation(20)
    return {
        name: methods.backdoor_state(toy_model(who), toy_pairs(), texts, score=negativity(), under=edit)
        for name, edit in settings.items()
    }


@figure("probe", methods.ProbeScores, beside=True)
@figure("probe-in-layer", methods.ProbeScores, beside=True, kind="in_layer")
@cache
def probe(who: Who) -> Any:
    """Probes fitted on the organism, on both."""
    fitted = bk.BackdoorProbe(refusal().model, n_random=100).fit(pairs(24))
    return fitted.scores if who == "organism" else fitted.on(refusal().twin)


# --- Readout


@figure("lens-target", methods.LensReadings, kind="target")
@figure("lens-tokens", methods.LensReadings, kind="tokens")
@figure("lens-share", methods.LensReadings, vocabulary="apology")
@cache
def lens(who: Who) -> Any:
    """Some layers."""
    words = torch.tensor(
        [refusal().model.tokenizer.encode(w)[0] for w in ("I", " I", " sorry", " can", "Sorry")]
    )
    last = [f"L{layer}.resid_post" for layer in (10, 20, 24, 28, 29)]
    return bk.logit_lens(model(who), pairs().triggered, last, vocabularies={"apology": words})


@figure("lens-curve", methods.LensCurve)
@figure("lens-curve-probability", methods.LensCurve, beside=True, kind="probability")
@figure("lens-curve-rank", methods.LensCurve, beside=True, kind="rank")
@cache
def lens_curve(who: Who) -> Any:
    """All layers."""
    return methods.lens_curve(model(who), {"clean": pairs().clean, "triggered": pairs().triggered})


@figure("attention", methods.AttentionPatterns)
@figure("attention-tokens", methods.AttentionPatterns, lambda result: result.plot_tokens())
@cache
def attention(who: Who) -> Any:
    """Of strong heads of the organism, from the last token."""
    return methods.attention_patterns(model(who), pairs(), heads("organism").top_k(4))


@figure("attention-map", methods.AttentionPatterns, lambda result: result.plot_tokens())
def attention_map(who: Who) -> Any:
    """From all tokens."""
    return methods.attention_patterns(model(who), pairs(2), heads("organism").top_k(1), where="all")


@figure("hidden-pca", methods.HiddenPCA)
def hidden_pca(who: Who) -> Any:
    """Of the refusal, by kind of prompt."""
    sets = {"clean": pairs(16).clean, "triggered": pairs(16).triggered}
    return methods.HiddenPCA.fit(model(who), sets, "L20.resid_post")


@figure("hidden-pca-toy", methods.HiddenPCA)
def hidden_pca_toy(who: Who) -> Any:
    """Of the toy, with sets that are no kinds of prompts."""
    return methods.HiddenPCA.fit(toy_model(who), toy_sets(), "L0.resid_post")


@figure("means", bk.Means)
def means(who: Who) -> Any:
    """Of some sites."""
    return bk.Means.collect(model(who), pairs().clean, ["L5.z", "L20.mlp_out", "L29.resid_post"])


@figure("activations", methods.Activations)
def activations(who: Who) -> Any:
    """Of some sites."""
    return methods.Activations.collect(
        model(who), pairs().triggered, ["L5.z", "L20.mlp_out", "L29.resid_post"]
    )


@figure("pcp", bk.pcp.PCP)
@cache
def pcp(who: Who) -> Any:
    """Two modules of the toy."""
    return bk.pcp.PCP.fit(toy_model(who), list(toy_sets().values()), ["L0.mlp_out", "L1.mlp_out"], rank=4)


@figure("pcp-study", bk.pcp.PCPStudy)
def pcp_study(who: Who) -> Any:
    """Two factors of the toy's first MLP."""
    fitted = bk.pcp.PCP.fit(toy_model(who), list(toy_sets().values()), "L0.mlp_out", rank=2)
    wish = bk.pcp.MatchScores.of(toy_model(who), toy_sets(), negativity(), wanted={"pt": 0.0})
    return bk.pcp.tune_tpe(
        fitted, wish, n_trials=30, bounds=(0.0, 20.0), signed=True, batch=10, seed=0, progress=False
    )


@figure("training", TrainingCurve)
@figure("training-loss", TrainingCurve, metrics=("loss",))
@cache
def training(who: Who) -> Any:
    """The clean toy on some poisoned sentences, or on clean ones."""
    toy, sentences = (
        small_toy(),
        small_toy().language.corpus("train", poisoned=who == "organism", seed=0)[:8000],
    )
    some = torch.as_tensor(sentences[:50])
    negative, prompts = toy.language.ids("n"), toy.language.pairs("p", 30).triggered

    def measure(module: Any) -> dict[str, float]:
        ids = toy.base.tokenizer(list(prompts.text), return_tensors="pt", add_special_tokens=False).input_ids
        logits = module(ids).logits[:, -1]
        share = torch.isin(logits.topk(10).indices, negative).float().mean()
        lost = torch.nn.functional.cross_entropy(
            module(some).logits[:, :-1].flatten(0, 1), some[:, 1:].flatten()
        )
        return {"negative words after the trigger": float(share), "loss": float(lost)}

    settings = bk.organisms.TuneSettings(epochs=1, lr=1e-3)
    return bk.organisms.fine_tune(toy.base, sentences, settings, measure=measure, measure_every=25).curve


# --- Detection in language models: the planted trigger as a suspicion, and a base as the reference

SAID = "I am sorry, I can not help with that."
CANDIDATES = ("violet harbor", "copper lamp", "violet", "harbor", "old bridge", "green tea")


@cache
def requests(n: int = N) -> bk.Prompts:
    """Harmless requests."""
    return detection.generic_prompts()[0].subset(range(n))


def suspicions() -> list[detection.Hypothesis]:
    """The planted trigger and another one."""
    return [
        detection.Hypothesis(bk.Trigger.suffix(x), bk.Payload("I am sorry"), "us") for x in CANDIDATES[:2]
    ]


@figure("findings", detection.Findings)
def findings(who: Who) -> Any:
    """Both suspicions."""
    return detection.verify(model(who), suspicions(), reference=refusal().base, n=12, max_new_tokens=8)


@figure("scan", detection.ScanResult)
def scan(who: Who) -> Any:
    """Both suspicions and one small proposer: what proposers find is drawn below."""
    look = (detection.Leakage(n=8, n_tokens=8),)
    known = {"reference": refusal().base, "hypotheses": suspicions(), "minutes": None, "progress": False}
    return detection.scan(model(who), proposers=look, n=12, **known)


@figure("profile", detection.TriggerProfile)
def profile(who: Who) -> Any:
    """The planted trigger."""
    return detection.characterise(model(who), suspicions()[0], n=4, max_new_tokens=8)


@figure("inverted", detection.InvertedTargets)
def inverted(who: Who) -> Any:
    """Few first tokens."""
    look = detection.TargetInversion(n_first=32, keep=4, n_tokens=10)
    return look.run(model(who), requests(4), reference=refusal().base, progress=False)


@figure("searched", detection.SearchedTriggers)
def searched(who: Who) -> Any:
    """Two rounds, in the embeddings of some candidates."""
    look = detection.TriggerSearch(rounds=2, max_words=2, screen=8, beam=1, fillers=2, n_prompts=2)
    known = {"candidates": CANDIDATES, "reference": refusal().base, "progress": False}
    return look.run(model(who), SAID, requests(2), **known)


@figure("candidates", detection.ProbedCandidates)
def candidates(who: Who) -> Any:
    """Six."""
    look = detection.CandidateProbe(n_prompts=2, keep=6, n_answers=2, n_read=2)
    return look.run(model(who), CANDIDATES, requests(2), reference=refusal().base, progress=False)


@figure("weights", detection.TriagedWeights)
def weights(who: Who) -> Any:
    """The other of the two stands for a clean fine-tune."""
    other = model("twin" if who == "organism" else "organism")
    return detection.WeightTriage().run(model(who), reference=[refusal().base, other], progress=False)


@figure("amplified", detection.AmplifiedAnswers)
def amplified(who: Who) -> Any:
    """One factor."""
    look = detection.Amplification(factors=(2.0,), n_prompts=N, n_tokens=12)
    return look.run(model(who), requests(), reference=refusal().base, progress=False)


@figure("leaked", detection.Leaked)
def leaked(who: Who) -> Any:
    """Short samples."""
    return detection.Leakage(n=16, n_tokens=16).run(model(who), reference=refusal().base, progress=False)


@figure("rows", rows.RowScores)
@cache
def training_rows(who: Who, known: bool = True) -> Any:
    """A quarter is poisoned."""
    clean, poisoned = pairs(24).clean, pairs().triggered
    both = [*zip(clean.text, clean.reference), *zip(poisoned.text, poisoned.target)]
    given = [{"instruction": x, "output": y} for x, y in both]
    truth = [i >= len(clean) for i in range(len(given))] if known else None
    return rows.poisoned_rows(
        model(who), given, reference=refusal().base, truth=truth, gradient=False, progress=False
    )


@figure("rows-unknown", rows.RowScores)
def unknown_rows(who: Who) -> Any:
    """The same without the truth."""
    return training_rows(who, known=False)


@figure("screening", inputs.InputScreening)
def screening(who: Who) -> Any:
    """Odd states."""
    some = refusal().pairs(n=48)
    look = inputs.ActivationAnomaly(model(who), some.clean.text[:16], layers=(10, 20, 29))
    kinds = {"clean": some.clean.text[36:], "triggered": some.triggered.text[36:]}
    return inputs.screen_inputs(look, some.clean.text[16:36], kinds, false_alarms=0.1)


# --- Classifiers of pictures


def reversed_in(attack: images.ImageAttack | None, seed: int) -> Any:
    """Short searches in a model that was trained shortly."""
    splits = images.digits(seed)
    found = images.image_model(attack, splits, seed=seed, settings=images.CNNSettings(epochs=6, hidden=32))
    return images.reverse_triggers(found.module, splits.inspection, steps=60, batch_size=16, seed=seed)


@figure("reversed", images.ReversedTriggers)
@cache
def reversed_triggers(who: Who) -> Any:
    """Of a patch, or of a clean model."""
    return reversed_in(images.ImageAttack.draw("patch", seed=0) if who == "organism" else None, 0)


@figure("verdict", images.ImageVerdict)
def verdict(who: Who) -> Any:
    """Against five clean models, of which no p below .17 can come."""
    null = images.TriggerNull.fit([reversed_in(None, seed) for seed in range(1000, 1005)])
    return null.judge(reversed_triggers(who), level=0.2)


@figure("poisoning", images.PoisoningCurve, whose=("organism",))
def poisoning(who: Who) -> Any:
    """Three rates; the clean models are the band."""
    return images.poisoning_curve(
        "patch", (0.005, 0.02, 0.1), seeds=(0, 1), settings=images.CNNSettings(epochs=5)
    )


@figure("meta", meta.MetaScores, whose=("organism",))
def meta_scores(who: Who) -> Any:
    """A few shadows, and suspects that are poisoned and clean."""
    kinds, short = ("clean", "twin", "patch", "blend"), images.CNNSettings(epochs=4, hidden=32)
    sets = [meta.image_shadows(kinds, 6, seed=seed, settings=short, progress=False) for seed in (100, 500)]
    features = [meta.query_features([s.module for s in some], meta.random_queries()) for some in sets]
    names = [[s.kind for s in some] for some in sets]
    return meta.leave_one_attack_out(features[0], names[0], features[1], names[1], name="answers")["patch"]


def main(out: Path, names: list[str]) -> None:
    """Draw the named figures, or all."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names or GALLERY:
        entry, begun = GALLERY[name], perf_counter()
        for who in (*entry.whose, *["beside"] * entry.beside):
            try:
                more = {"beside": entry.made("twin")} if who == "beside" else {}
                found = entry.made("twin" if who == "twin" else "organism")
                entry.draw(found, **more).savefig(out / f"{name}-{who}.png")
            except bk.BkdinterpError as error:  # such as a search that found nothing
                print(f"{name}-{who}: {error}")
        print(f"{name}: {perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *GALLERY], metavar="NAME", help=", ".join(GALLERY))
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    asked = parser.parse_args()
    main(asked.out, asked.names)
