"""The probe: ICLA on held-out prompts, for organism and twin, and what fires the organism's probe besides its own backdoor.

Fitted on selection pairs (60/20/20 by instruction); the best layer is chosen by its test accuracy there, and what is
reported comes from held-out pairs (the paper's Fig. 2). Cost: one pass per set of prompts.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.methods import BackdoorProbe, FittedProbe, ProbeScores
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts
from bkdinterp.stats import Interval, wilson
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject, near_triggers
from papers.paper import Job

# As in `ProbeScores.predicted`: a decision this close to the boundary is no evidence, and counts as clean.
TIE = 1e-9
# Prompts that a probe of the organism is shown, by model and kind.
SHOWN = (
    "organism, triggered",
    "organism, clean",
    "organism, near",
    "twin, triggered",
    "twin, clean",
    "twin, near",
)


@dataclass(frozen=True, eq=False)
class Probed:
    """One unit: two probes per layer (organism's, twin's) of one kind of classifier."""

    unit: dict[str, Any]

    def icla(self, side: str) -> Float[Tensor, "layer layer"]:
        """Accuracy on held-out prompts of that model, train layer first."""
        return torch.tensor(self.unit[side]["icla"], dtype=torch.float64)

    def best(self, side: str) -> int:
        """Layer of the highest accuracy on the selection split's test part; the first of equals."""
        right = self.unit[side]["selected"]
        return right.index(max(right))

    @property
    def n_layers(self) -> int:
        """Layers that were probed."""
        return len(self.unit["organism"]["right"])

    @property
    def late(self) -> range:
        """The last quarter of the layers, the last one at least."""
        return range(min(-(-3 * self.n_layers // 4), self.n_layers - 1), self.n_layers)

    def accuracy(self, side: str, layer: int) -> Interval:
        """In-layer accuracy on held-out prompts."""
        return wilson(self.unit[side]["right"][layer], self.unit[side]["n"])

    def selected(self, side: str, layer: int) -> Interval:
        """The accuracy that the layer was chosen by."""
        return wilson(self.unit[side]["selected"][layer], self.unit[side]["n_selected"])

    def random_best(self, side: str, layer: int) -> float:
        """Accuracy of the best random direction there."""
        return self.unit[side]["random_best"][layer]

    def fires(self, shown: str, layer: int) -> Interval:
        """Share of prompts that the organism's probe of a layer calls triggered."""
        found = self.unit["fires"][shown]
        return wilson(found["count"][layer], found["n"])

    def extreme(self, shown: str, layers: range, *, highest: bool) -> Interval:
        """That share at the layer of the range where it is highest, or lowest."""
        pick = max if highest else min
        return pick((self.fires(shown, layer) for layer in layers), key=lambda i: i.estimate)


def probe(job: Job, subject: Subject, sizes: Sizes, classifier: str) -> Probed:
    """Fit and test one kind of classifier."""

    def compute() -> dict[str, Any]:
        o = subject.organism
        fit_on, test_on = subject.selection(sizes.n_probe, sizes), subject.held_out(sizes.n_probe_test, sizes)
        near = _near(subject, sizes)
        out: dict[str, Any] = {"fires": {}}
        for side, model in (("organism", o.model), ("twin", o.twin)):
            fitted = BackdoorProbe(model, classifier, seed=sizes.seed).fit(fit_on)
            held_out = fitted.on(model, test_on)
            out[side] = _scores(fitted.scores, held_out)
            if side == "organism":
                out["fires"] |= _fires(fitted, side, model, held_out, near)
                out["fires"] |= _fires(fitted, "twin", o.twin, fitted.on(o.twin, test_on), near)
        return out

    settings = subject.settings(
        1,
        classifier=classifier,
        n=sizes.n_probe,
        n_test=sizes.n_probe_test,
        near=subject.near,
        seed=sizes.seed,
    )
    return Probed(job.unit(f"{subject.name}/probe-{classifier}", settings, compute))


def _scores(chosen_by: ProbeScores, held_out: ProbeScores) -> dict[str, Any]:
    return {
        "selected": _right(chosen_by),
        "n_selected": chosen_by.n_test,
        "right": _right(held_out),
        "n": held_out.n_test,
        "icla": [[round(x, 4) for x in row] for row in held_out.accuracy.tolist()],
        "random_best": [round(x, 4) for x in held_out.random_best.tolist()],
        "n_train": chosen_by.n_train,
    }


def _right(scores: ProbeScores) -> list[int]:
    return [round(i.estimate * scores.n_test) for i in scores.in_layer]


def _fires(
    fitted: FittedProbe, side: str, model: Model, held_out: ProbeScores, near: Prompts
) -> dict[str, dict[str, Any]]:
    """What every layer's probe calls triggered, by kind of prompt."""
    called = held_out.predicted.diagonal().T
    labels = held_out.labels
    near_called = (fitted.decision(model, near) > TIE).sum(1).tolist()
    return {
        f"{side}, triggered": {"count": called[:, labels].sum(1).tolist(), "n": int(labels.sum())},
        f"{side}, clean": {"count": called[:, ~labels].sum(1).tolist(), "n": int((~labels).sum())},
        f"{side}, near": {"count": near_called, "n": len(near)},
    }


def _near(subject: Subject, sizes: Sizes) -> Prompts:
    """Held-out prompts with near-triggers that no training has seen, taking turns."""
    attack = subject.organism.manifest.attack
    phrases = near_triggers(attack)
    everything = subject.organism.pairs
    texts = set(subject.held_out(sizes.n_probe_test, sizes).clean.text)
    parts = []
    for i, phrase in enumerate(phrases):
        pairs = everything(split="held-out", trigger=attack.near(phrase))
        index = [j for j, text in enumerate(pairs.clean.text) if text in texts]
        if mine := index[i :: len(phrases)]:
            parts.append(pairs.triggered.subset(mine))
    return Prompts.concat(parts)
