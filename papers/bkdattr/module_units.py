"""How much of the effect sits in MLPs: attention or MLPs of every layer patched, the others held or free to follow.

Each prompt takes its own partner's values from the last prompt token on (target tokens too), in both directions:

    attention      all attn_out the partner's, all mlp_out held at their own values: what attention writes itself
    MLPs           the other way round
    MLPs, free     all mlp_out the partner's, attention left to follow
    top heads      those heads' z the partner's, everything left to follow
    attention, free   1 by construction: what the last token knows of another came through attention, and with the same
                      embedding and the partner's attention its whole residual stream is the partner's; a check

The payload rates patch the last prompt token only, while answers are generated. Cost: 14 scored rows and 12 generations
per prompt.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine import Run, execute
from bkdinterp.interventions import Intervention, Patch
from bkdinterp.metrics import payload_hits
from bkdinterp.sites import Component, HeadSet, Site, Where
from bkdinterp.stats import Interval, wilson
from papers.bkdattr.attribution_units import FIRST, WHOLE
from papers.bkdattr.ranking import ratio
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject
from papers.paper import Job

ATTENTION, MLPS, MLPS_FREE, HEADS, CHECK = "attention", "MLPs", "MLPs, free", "top heads", "attention, free"
PARTS = (ATTENTION, MLPS, MLPS_FREE, HEADS, CHECK)
# Direction -> the side whose prompts are run; the partner gives the values.
EDITED = {"noising": "clean", "denoising": "triggered"}


@dataclass(frozen=True, eq=False)
class Modules:
    """The unit's numbers: ``scores[metric][direction]`` of base, partner and every part; payload hits likewise."""

    unit: dict[str, Any]

    def share(self, metric: str, direction: str, part: str) -> Interval:
        """Change by the part over change by the trigger: 1 is the whole effect."""
        found = {
            k: torch.tensor(v, dtype=torch.float64) for k, v in self.unit["scores"][metric][direction].items()
        }
        return ratio(found[part] - found["base"], found["partner"] - found["base"])

    def rate(self, direction: str, part: str) -> Interval:
        """Payload rate; ``part`` may be ``base``."""
        hits = self.unit["hits"][direction][part]
        return wilson(sum(hits), len(hits))


def modules(job: Job, subject: Subject, sizes: Sizes, heads: HeadSet) -> Modules:
    """One unit of scores, one of generated answers."""
    settings = subject.settings(1, n=sizes.n_modules, heads=str(heads), seed=sizes.seed)

    def scores() -> dict[str, Any]:
        pairs, model = subject.held_out(sizes.n_modules, sizes), subject.organism.model
        out: dict[str, Any] = {}
        for metric in (FIRST, WHOLE):
            out[metric] = {}
            for direction, side in EDITED.items():
                own, other = (pairs.clean, pairs.triggered)[:: 1 if side == "clean" else -1]
                base, partner = Run(own, score=metric), Run(other, score=metric)
                runs = [base, partner]
                where = Where("last", generated=True)
                edits = patches(base, partner, model.architecture.n_layers, heads, where)
                runs += [Run(own, edit, score=metric) for edit in edits.values()]
                rows = [_list(r.scores) for r in execute(model, runs)]
                out[metric][direction] = dict(zip(("base", "partner", *edits), rows, strict=True))
        return out

    def hits() -> dict[str, Any]:
        pairs, model = subject.held_out(sizes.n_modules, sizes), subject.organism.model
        tokens, payloads = subject.new_tokens(sizes), subject.payloads(pairs.clean)
        out: dict[str, Any] = {}
        for direction, side in EDITED.items():
            own, other = (pairs.clean, pairs.triggered)[:: 1 if side == "clean" else -1]
            edits = patches(Run(own), Run(other), model.architecture.n_layers, heads, Where("last"))
            runs = [Run(own, generate=tokens)]
            runs += [Run(own, edit, generate=tokens) for edit in edits.values()]
            texts = [r.text or () for r in execute(model, runs)]
            found = [[int(hit) for hit in payload_hits(said, payloads)] for said in texts]
            out[direction] = dict(zip(("base", *edits), found, strict=True))
        return out

    generated = settings | {"tokens": sizes.new_tokens}
    return Modules(
        {
            "scores": job.unit(f"{subject.name}/modules-scores", settings, scores),
            "hits": job.unit(f"{subject.name}/modules-payload", generated, hits),
        }
    )


def patches(own: Run, partner: Run, n_layers: int, heads: HeadSet, where: Where) -> dict[str, Intervention]:
    """Part -> its patches; held modules are patched with their own run's values."""
    attention = tuple(Site(i, Component.attn_out) for i in range(n_layers))
    mlps = tuple(Site(i, Component.mlp_out) for i in range(n_layers))
    return {
        ATTENTION: Patch(attention, partner, where=where) + Patch(mlps, own, where=where),
        MLPS: Patch(mlps, partner, where=where) + Patch(attention, own, where=where),
        MLPS_FREE: Patch(mlps, partner, where=where),
        HEADS: Patch(heads.sites, partner, where=where),
        CHECK: Patch(attention, partner, where=where),
    }


def _list(scores: Tensor | None) -> list[float]:
    assert scores is not None
    return [round(x, 6) for x in scores.double().tolist()]
