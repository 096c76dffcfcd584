"""The demo's experiment: probe, attribute, ablate and steer the shipped organism and its twin.

Choices (heads, layer, strength) are made on the selection split, and every reported rate is on held-out prompts. The twin
is the null: the same prompts and trigger text, but no backdoor.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from bkdinterp.errors import BkdinterpError
from bkdinterp.interventions import Intervention, MeanAblate, on_any_model
from bkdinterp.methods import (
    Attribution,
    BackdoorProbe,
    BackdoorVector,
    Evaluation,
    HeadScores,
    LayerSweep,
    Means,
    OutcomeGrader,
    ProbeScores,
    evaluate,
    random_directions,
    sweep_layers,
)
from bkdinterp.model import Model
from bkdinterp.organisms import Organism
from bkdinterp.places import writable_file, writable_folder
from bkdinterp.plotting._style import new_figure
from bkdinterp.prompts import PairedPrompts
from bkdinterp.results import Result
from bkdinterp.sites import HeadSet, Where, random_heads

Report = Callable[[str], None]
EVERYWHERE = Where("all", generated=True)
ABLATE, ADD, SUBTRACT = "ablate", "add", "subtract"


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo.

    Attributes:
        n: number of held-out prompts for each rate, and of selection prompts for each choice.
        n_probe: number of pairs for the probe.
        metric: score of attribution and layer sweep. The first token decides between payload and answer; once begun, a
            fixed target continues almost by itself, on clean prompts too.
        k_ablate: number of heads to ablate.
        k_vector: number of heads summed in the vector.
        n_controls: number of random head sets, and of random directions.
        layer_step: the vector is tried at every ``layer_step``-th layer.
        coeff: strength of the vector.
        seed: seed of the draws.
    """

    n: int = 24
    n_probe: int = 60
    metric: str = "first_token_logodds"
    k_ablate: int = 8
    k_vector: int = 16
    n_controls: int = 2
    layer_step: int = 2
    coeff: float = 1.0
    seed: int = 0


SIDES = ("organism", "twin")
FIGURES = ("probe.png", "heads.png", "sweep.png", "organism_edits.png", "twin_edits.png")
FULL = DemoSettings(n=184, n_probe=184, n_controls=5, layer_step=1)


@dataclass(frozen=True, eq=False)
class Side:
    """The results for one model, the organism or its twin."""

    probe: ProbeScores
    heads: HeadScores
    sweep: LayerSweep
    edits: Evaluation

    def results(self) -> dict[str, Result]:
        """Name -> result, in the order of the demo."""
        return {"probe": self.probe, "heads": self.heads, "sweep": self.sweep, "edits": self.edits}


@dataclass(frozen=True, eq=False)
class Findings:
    """All results of the demo; heads, vector and layer are the organism's."""

    settings: DemoSettings
    heads: HeadSet
    vector: BackdoorVector
    organism: Side
    twin: Side

    @property
    def sides(self) -> tuple[tuple[str, Side], tuple[str, Side]]:
        """(name, side) of both models."""
        return (SIDES[0], self.organism), (SIDES[1], self.twin)


def run_demo(o: Organism, settings: DemoSettings, report: Report) -> Findings:
    """Run all steps on the organism, then on the twin with the organism's heads, vector and layer."""
    selection = o.pairs(settings.n, split="selection", seed=settings.seed)
    held_out = o.pairs(settings.n, split="held-out", seed=settings.seed)
    probed = o.pairs(settings.n_probe, split="selection", seed=settings.seed)
    layers = list(range(0, o.model.architecture.n_layers, settings.layer_step))
    grader = OutcomeGrader.fit(o.base, probed.clean, probed.clean.reference or ())

    def study(model: Model, name: str) -> tuple[ProbeScores, HeadScores]:
        report(f"{name}: probe, {len(probed)} pairs, every layer on every layer")
        probe = BackdoorProbe(model, seed=settings.seed).icla(probed)
        report(f"{name}: attribution, one exact patch for each of the heads, n={len(selection)}")
        return probe, Attribution(model, metric=settings.metric).heads(selection)

    def sweep(model: Model) -> LayerSweep:
        # The twin gets the organism's vector on purpose.
        return sweep_layers(
            model,
            vector,
            selection,
            layers=layers,
            by=settings.metric,
            coeff=settings.coeff,
            strict=model is o.model,
        )

    def edit(
        model: Model, name: str, edits: dict[str, Intervention], nulls: dict[str, list[Intervention]]
    ) -> Evaluation:
        n_nulls = sum(map(len, nulls.values()))
        report(f"{name}: {', '.join(edits)} with {n_nulls} controls on {len(held_out)} held-out pairs")
        return evaluate(model, held_out, under=edits, controls=nulls, payload=o.payload, grader=grader)

    probe, scores = study(o.model, "organism")
    heads = scores.top_k(settings.k_ablate)
    vector = BackdoorVector.extract(o.model, scores.top_k(settings.k_vector), selection, kind="difference")
    report("organism: the vector at each layer, on the selection split")
    found = sweep(o.model)
    best, coeff = found.best, settings.coeff
    ablations = _ablations(o.model, heads, selection, settings)
    randoms = random_directions(like=vector, n=settings.n_controls, seed=settings.seed)
    edits = {
        ABLATE: ablations[0],
        ADD: vector.add(best, coeff=coeff),
        SUBTRACT: vector.subtract(best, coeff=coeff),
    }
    nulls: dict[str, list[Intervention]] = {
        ABLATE: ablations[1:],
        ADD: [r.add(best, coeff=coeff) for r in randoms],
        SUBTRACT: [r.subtract(best, coeff=coeff) for r in randoms],
    }
    organism = Side(probe, scores, found, edit(o.model, "organism", edits, nulls))

    probe, scores = study(o.twin, "twin")
    found = sweep(o.twin)
    means = _ablations(o.twin, heads, selection, settings)[:1]
    edits = {ABLATE: means[0], ADD: on_any_model(vector.add(best, coeff=coeff))}
    randoms_on_twin: dict[str, list[Intervention]] = {ADD: [on_any_model(e) for e in nulls[ADD][:1]]}
    twin = Side(probe, scores, found, edit(o.twin, "twin", edits, randoms_on_twin))
    return Findings(settings, heads, vector, organism, twin)


def _ablations(
    model: Model, heads: HeadSet, pairs: PairedPrompts, settings: DemoSettings
) -> list[Intervention]:
    """Ablations that replace the heads by their clean means at every token; then the same for random sets of heads."""
    sets = [heads, *random_heads(like=heads, n=settings.n_controls, seed=settings.seed)]
    union = HeadSet(tuple(h for s in sets for h in s), heads.grid)
    means = Means.collect(model, pairs.clean, union, where="all")
    return [MeanAblate(s, means, where=EVERYWHERE) for s in sets]


def check_places(folder: Path) -> None:
    """Check, before anything is computed, that `save_findings` will succeed.

    Raises:
        BkdinterpError: a folder is not writable or has other content, or matplotlib is missing.
    """
    writable_folder(folder, "out")
    new_figure(1.0, 1.0)
    names = [f.name for f in fields(Side)]
    figures = [folder / name for name in FIGURES]
    for place in (folder / "vector", *(folder / side / name for side in SIDES for name in names)):
        writable_folder(place, "out")
        if place.is_dir() and any(place.iterdir()) and not (place / "result.json").is_file():
            raise BkdinterpError(f"{place} is not empty and holds no result; give another folder.")
    for figure in figures:
        writable_file(figure, "out")


def save_findings(found: Findings, folder: Path) -> list[Path]:
    """Save results and PNG figures, organism beside twin on one scale; returns the paths of the figures."""
    found.vector.save(folder / "vector")
    for name, side in found.sides:
        for key, result in side.results().items():
            result.save(folder / name / key)
    organism, twin = found.organism, found.twin
    drawn = (
        organism.probe.plot(beside=twin.probe),
        organism.heads.plot(beside=twin.heads, top=len(found.heads)),
        organism.sweep.plot(beside=twin.sweep),
        # Their conditions differ: the twin has nothing to subtract.
        organism.edits.plot(),
        twin.edits.plot(),
    )
    paths = [folder / name for name in FIGURES]
    for path, figure in zip(paths, drawn, strict=True):
        figure.savefig(path, dpi=130)
    return paths
