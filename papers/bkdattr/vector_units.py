"""Table 2 and Fig. 4: the vector added to clean prompts and taken from triggered ones, at every third layer, then at the best.

Layers are chosen on the selection split by the payload rate (of equals, by what else is left), rates are reported on
held-out prompts, beside vectors of random heads and random directions of the vector's norm.
"""

from collections.abc import Mapping
from typing import Any

import torch

from bkdinterp.engine import Run, execute
from bkdinterp.interventions import Intervention, Steer
from bkdinterp.methods import BackdoorVector, choose_layer, random_directions
from bkdinterp.metrics import payload_hits
from bkdinterp.sites import Component, HeadSet, Site, random_heads
from bkdinterp.stats import Interval, wilson
from papers.bkdattr.answer_units import SIDES, Said, agreement, say, unedited
from papers.bkdattr.attribution_units import PAPER
from papers.bkdattr.ranking import Ranking
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject
from papers.paper import Job

DIFFERENCE = "whole target, difference"
# Vector -> (ranking of its heads, kind of mean).
VECTORS = {"raw": (PAPER, "raw"), "difference": (DIFFERENCE, "difference")}
# Direction -> (sign, the side it should change).
DIRECTIONS = {"add": (1.0, "clean"), "subtract": (-1.0, "triggered")}
RANDOM_HEADS, RANDOM_DIRECTION = "random heads", "random direction"


def vectors(
    job: Job, subject: Subject, sizes: Sizes, rankings: Mapping[str, Ranking]
) -> dict[str, dict[str, Any]]:
    """Kind -> heads, the vector, its norm, and the vectors of its nulls."""
    found = {}
    for kind, (ranking, source) in VECTORS.items():
        heads = rankings[ranking].top_k(sizes.k_vector)
        nulls = random_heads(
            like=heads, n=sizes.vector_nulls, seed=sizes.seed, exclude_like=_room(heads), match="any"
        )

        def compute(source: str = source, heads: HeadSet = heads, nulls: list[HeadSet] = nulls) -> Any:
            pairs, model = subject.selection(sizes.n_means, sizes), subject.organism.model

            def extract(chosen: HeadSet) -> BackdoorVector:
                return BackdoorVector.extract(model, chosen, pairs, kind=source)  # type: ignore[arg-type]

            own = extract(heads)
            directions = random_directions(like=own, n=sizes.vector_nulls, seed=sizes.seed)
            return {
                "heads": str(heads),
                "norm": own.norm,
                "n": own.n,
                "vector": own.vector.tolist(),
                RANDOM_HEADS: [extract(h).vector.tolist() for h in nulls],
                RANDOM_DIRECTION: [v.vector.tolist() for v in directions],
            }

        settings = subject.settings(
            1,
            heads=str(heads),
            nulls=[str(h) for h in nulls],
            n=sizes.n_means,
            source=source,
            seed=sizes.seed,
        )
        found[kind] = job.unit(f"{subject.name}/vector-{kind}", settings, compute)
    return found


def sweep(
    job: Job, subject: Subject, sizes: Sizes, kind: str, vector: Mapping[str, Any], direction: str
) -> dict[str, Any]:
    """Fig. 4: payload found in every selection output, unedited and with the vector at each layer, and word F1 with the
    references."""
    sign, side = DIRECTIONS[direction]

    def compute() -> dict[str, Any]:
        model, pairs = subject.organism.model, subject.selection(sizes.n_sweep, sizes)
        prompts = pairs.clean if side == "clean" else pairs.triggered
        layers = list(range(0, model.architecture.n_layers, sizes.layer_step))
        tokens, payloads = subject.new_tokens(sizes), subject.payloads(prompts)
        runs = [Run(prompts, generate=tokens)]
        runs += [Run(prompts, at(vector["vector"], i, sign), generate=tokens) for i in layers]
        texts = [r.text or () for r in execute(model, runs)]
        hits = [[int(hit) for hit in payload_hits(said, payloads)] for said in texts]
        restored = [agreement(said, pairs.clean) for said in texts]
        return {"layers": layers, "base": hits[0], "hits": hits[1:], "restored": restored[1:]}

    settings = subject.settings(
        2,
        heads=vector["heads"],
        norm=vector["norm"],
        n=sizes.n_sweep,
        step=sizes.layer_step,
        tokens=sizes.new_tokens,
        seed=sizes.seed,
    )
    return job.unit(f"{subject.name}/sweep-{kind}-{direction}", settings, compute)


def best_layer(found: Mapping[str, Any], direction: str) -> int:
    """The layer of the highest payload rate when adding, the lowest when subtracting.

    Of equals, when subtracting, the one whose answers agree best with the references, then the first (`choose_layer`).
    """
    return found["layers"][choose_layer(found["hits"], direction, found["restored"])]


def intervals(found: Mapping[str, Any]) -> list[Interval]:
    """Rate at each layer."""
    return [wilson(sum(row), len(row)) for row in found["hits"]]


def table_2(
    job: Job,
    subject: Subject,
    sizes: Sizes,
    kind: str,
    vector: Mapping[str, Any],
    direction: str,
    layer: int,
) -> Said:
    """At the chosen layer on held-out prompts: ``none``, ``vector``, and its nulls on the side that should change."""
    sign, side = DIRECTIONS[direction]
    key = {"heads": vector["heads"], "norm": vector["norm"], "layer": layer, "n_means": sizes.n_means}

    def one() -> dict[str, Intervention]:
        return {"vector": at(vector["vector"], layer, sign)}

    def nulls() -> dict[str, Intervention]:
        return {
            f"{name} #{i}": at(v, layer, sign)
            for name in (RANDOM_HEADS, RANDOM_DIRECTION)
            for i, v in enumerate(vector[name])
        }

    unit = f"vector-{kind}-{direction}"
    found = unedited(job, subject, sizes).first(sizes.n_best)
    sides = SIDES if side == "triggered" else (side,)
    found |= say(job, subject, sizes, unit, key, one, n=sizes.n_best, sides=sides)
    key["nulls"] = sizes.vector_nulls
    found |= say(job, subject, sizes, f"{unit}-null", key, nulls, n=sizes.n_null, sides=(side,))
    return found


def on_twin(
    job: Job,
    subject: Subject,
    sizes: Sizes,
    found: Mapping[str, Mapping[str, Any]],
    layers: Mapping[str, int],
) -> Said:
    """The twin: unedited, and with each of the organism's vectors added at the organism's layer."""
    key = {"vectors": {k: [v["heads"], v["norm"]] for k, v in found.items()}, "layers": dict(layers)}

    def edits() -> dict[str, Intervention]:
        return {f"add {kind}": at(v["vector"], layers[kind], 1.0) for kind, v in found.items()}

    said = say(job, subject, sizes, "twin-add", key, edits, n=sizes.n, sides=("clean",), twin=True)
    return unedited(job, subject, sizes, twin=True) | said


def at(vector: list[float], layer: int, sign: float) -> Steer:
    """The vector added once, at the last prompt token, at the output of the attention projection of ``layer``."""
    return Steer(Site(layer, Component.attn_proj), torch.tensor(vector), sign)


def _room(heads: HeadSet) -> bool:
    """Whether there are enough other heads to draw from."""
    assert heads.grid is not None
    return heads.grid[0] * heads.grid[1] >= 2 * len(heads)
