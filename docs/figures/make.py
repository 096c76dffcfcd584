"""Draw the figures of the README, the tour and the page on plotting again.

``python docs/figures/make.py`` draws all of them in about 20 minutes on one CPU core; names pick some, e.g.
``python docs/figures/make.py heads probe``. Only public names, shipped models and fixed seeds are used, so the same versions
draw the same pictures. Each file is at most 120 KB. The figures called ``bkdattr-*`` come from ``python -m papers``.
"""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import bkdinterp as bk
from bkdinterp.metrics import vocabulary_score
from bkdinterp.organisms import toy

FOLDER = Path(__file__).resolve().parent
LARGEST = 120_000  # bytes
SMALL = 70  # dots per inch of the examples on the page on plotting; the others have the figure's own
METRIC = "first_token_logodds"
FIGURES: dict[str, Callable[[], Any]] = {}
EXAMPLES: set[str] = set()


def figure(name: str, *, example: bool = False) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that draws ``name``.png, as a small example if it is one."""

    def register(draw: Callable[[], Any]) -> Callable[[], Any]:
        FIGURES[name] = draw
        if example:
            EXAMPLES.add(name)
        return draw

    return register


# --- The shipped refusal, with the sizes and the seeds of the tour


@cache
def refusal() -> bk.organisms.Organism:
    """The organism of all examples."""
    return bk.organisms.load("smollm2-refusal")


@cache
def pairs(n: int = 24, split: str = "selection") -> bk.PairedPrompts:
    """Its pairs."""
    return refusal().pairs(n=n, split=split)


@cache
def heads_of(which: str) -> bk.methods.HeadScores:
    """The head scores of ``model`` or ``twin``."""
    return bk.Attribution(getattr(refusal(), which), metric=METRIC).heads(pairs())


@cache
def vector() -> bk.BackdoorVector:
    """The tour's vector."""
    return bk.BackdoorVector.extract(refusal().model, heads_of("model").top_k(16), pairs(), kind="difference")


@cache
def sweep() -> bk.methods.LayerSweep:
    """The vector at each layer, beside two random directions."""
    controls = bk.random_directions(like=vector(), n=2, seed=0)
    return bk.sweep_layers(refusal().model, vector(), pairs(), by=METRIC, controls=controls)


@cache
def evaluation() -> bk.methods.Evaluation:
    """Organism and twin by trigger, sham and neither, with and without the vector."""
    o, held_out = refusal(), pairs(split="held-out")
    return bk.evaluate(
        o.model,
        held_out,
        under=vector().add(sweep().best),
        controls=[v.add(sweep().best) for v in bk.random_directions(like=vector(), n=2, seed=0)],
        twin=o.twin,
        sham=o.manifest.attack.near("copper kettle"),
        payload=o.payload,
        grader=bk.methods.OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference),
    )


@cache
def probe() -> bk.methods.FittedProbe:
    """The tour's probe."""
    return bk.BackdoorProbe(refusal().model).fit(pairs(60))


@cache
def sides() -> dict[str, bk.Prompts]:
    """A few prompts of each kind."""
    return {"clean": pairs(12).clean, "triggered": pairs(12).triggered}


@figure("heads")
def heads() -> Any:
    """Head scores of the organism beside its twin's."""
    return heads_of("model").plot(beside=heads_of("twin"))


@figure("probe")
def in_layer() -> Any:
    """Accuracy by layer, and that of the same probes on the twin."""
    return probe().scores.plot("in_layer", beside=probe().on(refusal().twin))


@figure("evaluation")
def rates() -> Any:
    """Payload rates with their nulls."""
    return evaluation().plot()


@figure("sweep", example=True)
def layers_of_the_vector() -> Any:
    """Where the vector acts best."""
    return sweep().plot()


@figure("outcomes", example=True)
def outcomes() -> Any:
    """What the outputs are."""
    return evaluation().plot("outcomes")


@figure("icla", example=True)
def across_layers() -> Any:
    """The matrix of layers by layers."""
    return probe().scores.plot()


@figure("layers", example=True)
def layers() -> Any:
    """MLPs of the organism."""
    return bk.Attribution(refusal().model, metric=METRIC).mlps(pairs(12)).plot()


@figure("neurons", example=True)
def neurons() -> Any:
    """Neurons of the last MLP."""
    return bk.Attribution(refusal().model, metric=METRIC).neurons(pairs(12), layer=29).plot(k=10)


@figure("edges", example=True)
def edges() -> Any:
    """Direct paths between the strongest heads and MLPs."""
    settings, chosen_on = bk.Attribution(refusal().model, metric=METRIC), pairs(16)
    units = [*settings.heads(chosen_on).top_k(16).sites, *settings.mlps(chosen_on).top_k(6)]
    return bk.methods.trace_edges(settings, chosen_on, units).plot()


@figure("lens-curve", example=True)
def lens_curve() -> Any:
    """The target after each layer."""
    return bk.methods.lens_curve(refusal().model, sides()).plot()


@figure("lens-tokens", example=True)
def lens_tokens() -> Any:
    """The most likely tokens of one prompt after some layers."""
    last = [f"L{layer}.resid_post" for layer in (20, 22, 24, 26, 28, 29)]
    return bk.logit_lens(refusal().model, pairs(12).triggered, last).plot(kind="tokens")


# --- The toy, which costs nothing


@cache
def small_toy() -> Any:
    """Three sentiments, first seed."""
    return toy.load("toy-3", seed=0)


@cache
def toy_sets() -> dict[str, bk.Prompts]:
    """Prompts of four kinds."""
    return {kind: small_toy().language.prompts(kind, 50, seed=0) for kind in ("pp", "nn", "ss", "pt")}


@cache
def toy_pairs() -> bk.PairedPrompts:
    """The same first word with and without the trigger."""
    return small_toy().language.pairs("p", 30)


@cache
def negativity() -> bk.Score:
    """Share of negative words among the ten most likely."""
    return vocabulary_score(small_toy().language.ids("n"), name="negativity")


@cache
def weakened() -> tuple[bk.pcp.PCP, bk.pcp.PCPStudy]:
    """The first MLP as two factors, tuned so that the trigger does nothing and all else is as it was."""
    fitted = bk.pcp.PCP.fit(small_toy().model, list(toy_sets().values()), "L0.mlp_out", rank=2)
    wish = bk.pcp.MatchScores.of(small_toy().model, toy_sets(), negativity(), wanted={"pt": 0.0})
    return fitted, bk.pcp.tune_tpe(
        fitted, wish, n_trials=100, bounds=(0.0, 20.0), signed=True, batch=10, seed=0, progress=False
    )


@figure("edits", example=True)
def edits() -> Any:
    """Each module without what it writes at the last token."""
    modules = [f"L{layer}.{kind}" for layer in range(3) for kind in ("attn_out", "mlp_out")]
    ablations = {m: bk.ZeroAblate(m) for m in modules}
    return bk.methods.score_edits(small_toy().model, toy_sets(), ablations, negativity()).plot("pt")


@figure("hidden-pca", example=True)
def hidden_pca() -> Any:
    """Hidden states after the first layer."""
    return bk.methods.HiddenPCA.fit(small_toy().model, toy_sets(), "L0.resid_post").plot()


@figure("pcp-study", example=True)
def pcp_study() -> Any:
    """The search for two factors."""
    return weakened()[1].plot()


@figure("states", example=True)
def states() -> Any:
    """Whether the backdoor is there, before and after an edit."""
    fitted, study = weakened()
    found = {
        name: bk.methods.backdoor_state(small_toy().model, toy_pairs(), score=negativity(), under=edit)
        for name, edit in (("before", None), ("two factors tuned", fitted.replace(study.best)))
    }
    return bk.methods.plot_states(found)


def main(names: list[str]) -> int:
    """Draw the named figures, or all; 1 if a file is too large."""
    large = []
    for name in names or FIGURES:
        path = FOLDER / f"{name}.png"
        drawn = FIGURES[name]()
        # No version in the file: a picture changes only if what it shows does.
        drawn.savefig(
            path,
            dpi=SMALL if name in EXAMPLES else "figure",
            metadata={"Software": None},
            pil_kwargs={"optimize": True},
        )
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB", flush=True)
        large += [path.name] * (path.stat().st_size > LARGEST)
    if large:
        print(f"Larger than {LARGEST / 1000:.0f} KB: {', '.join(large)}")
    return 1 if large else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *FIGURES], metavar="NAME", help=", ".join(FIGURES))
    raise SystemExit(main(parser.parse_args().names))
