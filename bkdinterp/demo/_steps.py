"""The demo's experiment: probe, attribute, ablate and steer the shipped organism, and its twin beside it.

Choices (heads, layer) are made on the selection split; every reported rate is on held-out prompts. The twin gets
the same treatment as a null: the same prompts, the same trigger text, no backdoor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bkdinterp.interventions import Intervention, MeanAblate
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
from bkdinterp.prompts import PairedPrompts
from bkdinterp.sites import HeadSet, Where, random_heads

Report = Callable[[str], None]
EVERYWHERE = Where("all", generated=True)


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo.

    Attributes:
        n: held-out prompts behind each rate, and selection prompts behind each choice.
        n_probe: pairs for the probe.
        k_ablate: heads that are ablated.
        k_vector: heads that the vector sums.
        n_controls: random head sets, and random directions.
        layer_step: the vector is tried at every this-many-th layer.
        seed: of the draws.
    """

    n: int = 24
    n_probe: int = 60
    k_ablate: int = 32
    k_vector: int = 16
    n_controls: int = 2
    layer_step: int = 2
    seed: int = 0


FULL = DemoSettings(n=200, n_probe=184, n_controls=5, layer_step=1)


@dataclass(frozen=True, eq=False)
class Side:
    """What was found on one model (the organism or its twin)."""

    probe: ProbeScores
    heads: HeadScores
    ablated: Evaluation
    sweep: LayerSweep
    added: Evaluation
    subtracted: Evaluation

    def results(self) -> dict[str, ProbeScores | HeadScores | Evaluation | LayerSweep]:
        """Name -> result, in the order of the demo."""
        return {
            "probe": self.probe,
            "heads": self.heads,
            "ablation": self.ablated,
            "sweep": self.sweep,
            "vector_added": self.added,
            "vector_subtracted": self.subtracted,
        }


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything the demo found."""

    organism: Side
    twin: Side
    heads: HeadSet
    vector: BackdoorVector


def run_demo(o: Organism, settings: DemoSettings, report: Report) -> Findings:
    """Run all steps on the organism, then on the twin with the organism's heads and vector."""
    selection = o.pairs(settings.n, split="selection", seed=settings.seed)
    held_out = o.pairs(settings.n, split="held-out", seed=settings.seed)
    probed = o.pairs(min(settings.n_probe, 184), split="selection", seed=settings.seed)
    grader = OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference or ())

    report("attribution on the organism: one exact patch per head")
    scores = Attribution(o.model).heads(selection)
    heads = scores.top_k(settings.k_ablate)
    vector = BackdoorVector.extract(o.model, scores.top_k(settings.k_vector), selection, kind="difference")
    report("the vector at each layer, on the selection split")
    layers = list(range(0, o.model.architecture.n_layers, settings.layer_step))
    sweep = sweep_layers(o.model, vector, selection, layers=layers, by="logprob")

    def side(model: Model, name: str, scores: HeadScores, sweep: LayerSweep) -> Side:
        report(f"probe on the {name}: {len(probed)} pairs, all layers")
        probe = BackdoorProbe(model, seed=settings.seed).icla(probed)
        report(f"ablation on the {name}: {len(heads)} heads against {settings.n_controls} random sets")
        ablation, null = _ablations(model, heads, selection, settings)
        ablated = evaluate(model, held_out, under=ablation, controls=null, payload=o.payload, grader=grader)
        report(f"vector on the {name}: added and subtracted at layer {best}")
        nulls = random_directions(like=vector, n=settings.n_controls, seed=settings.seed)
        added = evaluate(
            model,
            held_out,
            under=vector.add(best),
            controls=[r.add(best) for r in nulls],
            payload=o.payload,
            grader=grader,
        )
        subtracted = evaluate(
            model,
            held_out,
            under=vector.subtract(best),
            controls=[r.subtract(best) for r in nulls],
            payload=o.payload,
            grader=grader,
        )
        return Side(probe, scores, ablated, sweep, added, subtracted)

    best = sweep.best
    organism = side(o.model, "organism", scores, sweep)
    report("attribution on the twin")
    twin_scores = Attribution(o.twin).heads(selection)
    twin_sweep = sweep_layers(o.twin, vector, selection, layers=layers, by="logprob")
    twin = side(o.twin, "twin", twin_scores, twin_sweep)
    return Findings(organism, twin, heads, vector)


def _ablations(
    model: Model, heads: HeadSet, pairs: PairedPrompts, settings: DemoSettings
) -> tuple[Intervention, list[Intervention]]:
    """The heads replaced by their clean means at every token, and random sets of as many heads likewise."""
    sets = [heads, *random_heads(like=heads, n=settings.n_controls, seed=settings.seed)]
    union = HeadSet(tuple(h for s in sets for h in s), heads.grid)
    means = Means.collect(model, pairs.clean, union, where="all")
    first, *rest = [MeanAblate(s, means, where=EVERYWHERE) for s in sets]
    return first, list(rest)


def save_findings(found: Findings, folder: Path) -> list[Path]:
    """Result folders and PNG figures; returns the figures' paths."""
    figures = []
    found.vector.save(folder / "vector")
    for name, side in (("organism", found.organism), ("twin", found.twin)):
        for key, result in side.results().items():
            result.save(folder / name / key)
            path = folder / f"{name}_{key}.png"
            result.plot().savefig(path, dpi=130)
            figures.append(path)
    return figures
