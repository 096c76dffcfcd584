"""find_circuit(): which units, ablated together, end the backdoor at the least cost to clean answers? Greedy, each re-scored.

A ranking of single units is no circuit: two heads that carry the same signal both rank high, and a unit that only matters once
another is gone ranks low. So units are added one at a time, and each candidate is scored in the presence of those already chosen:

    loss(set) = P(payload | triggered prompts, set ablated) + clean_weight x (P(clean answer) lost on clean prompts)

After the first step only the most promising candidates, by the gain that they had when they were last scored, are scored again;
all others only where none of these helps. So a unit whose gain grows once others are gone can be passed over for a while.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Intervention, MeanAblate, Sites, Stack, ZeroAblate, as_sites
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.circuits._circuit import Circuit
from bkdinterp.methods.readout import Means
from bkdinterp.metrics import Score
from bkdinterp.metrics.scores import geometric_mean_prob, sum_logprob
from bkdinterp.model import Model, as_model
from bkdinterp.progress import track
from bkdinterp.prompts import PairedPrompts, Prompts, as_pairs
from bkdinterp.sites import Site, Where
from bkdinterp.values import as_choice, as_integer, as_number

if TYPE_CHECKING:
    Ablation = Literal["mean", "zero"]
else:
    Ablation = Any  # checked in the body, with our own messages
ABLATIONS = ("mean", "zero")
EVERYWHERE = Where("all", generated=True)
# The later tokens of a fixed payload are certain once the first are given.
FIRST_TOKENS = 4


def _probability(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Probability of the first tokens of the target."""
    return sum_logprob(logits, targets, mask).exp()


PAYLOAD = Score(_probability, f"probability_of_{FIRST_TOKENS}_tokens", n_targets=FIRST_TOKENS)
CLEAN = Score(geometric_mean_prob, "geometric_mean")


def find_circuit(
    model: Model,
    pairs: PairedPrompts,
    shortlist: Sites,
    *,
    k: int = 16,
    ablate: Ablation = "mean",
    clean_weight: float = 1.0,
    n_rescored: int = 8,
    least_gain: float = 0.01,
    **options: Unpack[RunOptions],
) -> Circuit:
    """Choose up to ``k`` units of a shortlist that end the backdoor together.

    Costs ``1 + len(shortlist) + (k - 1) n_rescored`` scored rows per triggered and per clean prompt where in each step one of the
    promising candidates helps, up to ``len(shortlist)`` more in a step where none does, and one pass over the clean prompts for
    the means. It ends early when no candidate lowers the loss by ``least_gain``. The circuit is chosen on these prompts, so
    report it on others, with the same edit:
    ``evaluate(model, held_out, under=MeanAblate(circuit.sites, means, where=Where("all", generated=True)))``.

    Args:
        model: the suspect model.
        pairs: prompts with the payload as target and the clean answer as reference.
        shortlist: heads, MLPs or other sites, e.g. ``Attribution(model).heads(pairs).top_k(32)``.
        k: most units.
        ablate: at all tokens, generated ones included, a unit is replaced by its ``"mean"`` over the clean prompts' tokens, or
            by ``"zero"``.
        clean_weight: how much a lost probability of clean answers counts; 0 ignores them.
        n_rescored: candidates that are scored again in each step.
        least_gain: what a unit must lower the loss by, which is a probability. With 0 the search goes on to differences of noise.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: prompts without targets or references, an empty shortlist, or a number out of range.
        SiteError: a unit that the model does not have.
    """
    as_model(model, "find_circuit")
    options = as_options(options, "find_circuit")
    as_pairs(pairs, "find_circuit")
    as_choice(ablate, "ablate", ABLATIONS, error=PlanError)
    k = as_integer(k, "k", low=1, error=PlanError)
    n_rescored = as_integer(n_rescored, "n_rescored", low=1, error=PlanError)
    clean_weight = float(as_number(clean_weight, "clean_weight", low=0, error=PlanError))
    least_gain = float(as_number(least_gain, "least_gain", low=0, error=PlanError))
    sites = as_sites(shortlist)
    if not sites:
        raise PlanError("The shortlist is empty: there is no unit to choose.")
    for site in sites:
        model.architecture.check(site)
    if pairs.triggered.target is None:
        raise PlanError("find_circuit needs prompts with the payload as target; give target=.")
    if pairs.clean.reference is None:
        raise PlanError("find_circuit holds the backdoor against clean answers; give the pairs reference=.")
    clean = replace(pairs.clean, target=pairs.clean.reference, reference=None)
    means = Means.collect(model, pairs.clean, sites, where="all", **options) if ablate == "mean" else None
    scorer = _Scorer(model, pairs.triggered, clean, means, options)
    (base,) = scorer.of([()])
    show = options.get("progress", True)
    found = _greedy(scorer, sites, base, k, clean_weight, n_rescored, least_gain, show=show)
    n = len(pairs)
    rows = torch.stack([scores for _, scores in found]) if found else torch.empty(0, 2, n)
    return Circuit(
        fingerprint=model.fingerprint(pairs.fingerprint),
        units=tuple(str(site) for site, _ in found),
        payload=rows[:, 0],
        clean=rows[:, 1],
        base_payload=base[0],
        base_clean=base[1],
        ablate=ablate,
        clean_weight=clean_weight,
        n_shortlist=len(sites),
    )


class _Scorer:
    """Probabilities of payload and clean answer with sets of units ablated; each set is scored once."""

    def __init__(
        self, model: Model, triggered: Prompts, clean: Prompts, means: Means | None, options: RunOptions
    ) -> None:
        self.model, self.triggered, self.clean = model, triggered, clean
        self.means, self.options = means, options

    def of(self, sets: Sequence[tuple[Site, ...]]) -> list[Float[Tensor, "2 example"]]:
        """Payload and clean probability of every example, for each set."""
        edits = [self._edit(chosen) for chosen in sets]
        runs = [Run(self.triggered, edit, score=PAYLOAD) for edit in edits]
        runs += [Run(self.clean, edit, score=CLEAN) for edit in edits]
        scores = [
            r.scores.float().cpu().clamp(0, 1)
            for r in run(self.model, runs, self.options)
            if r.scores is not None
        ]
        return [torch.stack(both) for both in zip(scores[: len(sets)], scores[len(sets) :], strict=True)]

    def _edit(self, chosen: tuple[Site, ...]) -> Intervention:
        if not chosen:
            return Stack()
        if self.means is None:
            return ZeroAblate(chosen, where=EVERYWHERE)
        return MeanAblate(chosen, self.means, where=EVERYWHERE)


def _greedy(
    scorer: _Scorer,
    sites: Sequence[Site],
    base: Float[Tensor, "2 example"],
    k: int,
    clean_weight: float,
    n_rescored: int,
    least_gain: float,
    *,
    show: bool,
) -> list[tuple[Site, Float[Tensor, "2 example"]]]:
    """The chosen units with their scores, in order."""

    def loss(scores: Tensor) -> float:
        payload, clean = scores.mean(1).tolist()
        return payload + clean_weight * max(0.0, float(base[1].mean()) - clean)

    now, chosen = loss(base), list[tuple[Site, Tensor]]()
    promised = dict.fromkeys(sites, float("inf"))
    for step in track(range(min(k, len(sites))), "circuit", show=show):
        given = tuple(site for site, _ in chosen)
        order = sorted(promised, key=lambda s: -promised[s])
        at_once = len(order) if step == 0 else n_rescored
        scored = dict[Site, Tensor]()
        best = None
        # Where the promising ones are of no use any more, the others are scored, too, before the search ends.
        for start in range(0, len(order), at_once):
            tried = order[start : start + at_once]
            found = dict(zip(tried, scorer.of([(*given, site) for site in tried]), strict=True))
            scored |= found
            promised |= {site: now - loss(scores) for site, scores in found.items()}
            best = max(scored, key=lambda s: promised[s])
            if promised[best] > least_gain:
                break
        if best is None or promised[best] <= least_gain:
            break
        chosen.append((best, scored[best]))
        now = loss(scored[best])
        del promised[best]
    return chosen
