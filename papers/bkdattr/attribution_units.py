"""Head attributions on the selection split, each a unit whose finished chunks outlive a kill.

Cost: one scored row per head and prompt. Definition: docs/papers.md, "Effect and ACIE".
"""

import shutil
from typing import Any

from bkdinterp.methods import Attribution
from papers.bkdattr.ranking import Ranking
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject
from papers.paper import Job

WHOLE, FIRST = "logprob", "first_token_logodds"
PAPER = "whole target, triggered mean"
FIRST_RAW = "first token, triggered mean"
# name -> (score, what is patched in)
RANKINGS = {
    PAPER: (WHOLE, "triggered"),
    "whole target, difference": (WHOLE, "difference"),
    FIRST_RAW: (FIRST, "triggered"),
    "first token, difference": (FIRST, "difference"),
}


def attribute(
    job: Job, subject: Subject, sizes: Sizes, metric: str, source: str, *, twin: bool = False
) -> Ranking:
    """Effects of all heads. Of the whole target they are those on the paper's geometric mean."""
    settings = subject.settings(
        1,
        n=sizes.n_heads,
        metric=metric,
        source=source,
        step=sizes.head_layer_step,
        seed=sizes.seed,
        twin=twin,
    )
    name = f"{subject.name}/heads-{metric}-{source}{'-twin' if twin else ''}"
    folder = job.out / "sweeps" / job.store.path(name, settings).stem

    def compute() -> dict[str, Any]:
        o = subject.organism
        model = o.twin if twin else o.model
        layers = range(0, model.architecture.n_layers, sizes.head_layer_step)
        pairs = subject.selection(sizes.n_heads, sizes)
        attribution = Attribution(model, metric=metric, source=source)  # type: ignore[arg-type]
        found = attribution.heads(pairs, layers=layers, folder=folder)
        heads = [(i, j) for i in layers for j in range(found.grid[1])]
        return {
            "heads": [f"L{i}H{j}" for i, j in heads],
            "effects": [[round(x, 6) for x in found.effects[i, j].tolist()] for i, j in heads],
            "base": [round(x, 6) for x in found.base.tolist()],
            "grid": list(found.grid),
        }

    unit = job.unit(name, settings, compute)
    # The unit holds it all now.
    if not job.frozen:
        shutil.rmtree(folder, ignore_errors=True)
    return Ranking.of(unit, geometric=metric == WHOLE)


def rankings(job: Job, subject: Subject, sizes: Sizes) -> dict[str, Ranking]:
    """All four of the organism."""
    return {
        name: attribute(job, subject, sizes, metric, source) for name, (metric, source) in RANKINGS.items()
    }
