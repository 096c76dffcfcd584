"""The toys of the tables: seeds, numbers of prompts, and the settings that identify a unit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from bkdinterp.metrics import Score, vocabulary_score
from bkdinterp.model import Model
from bkdinterp.organisms import toy
from bkdinterp.organisms.toy import ToyOrganism
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.results import versions
from bkdinterp.stats import Interval
from papers.paper import Job

SENTIMENTS = (2, 3)
# The paper's test sets by number of sentiments; t is the trigger.
KINDS = {2: ("pp", "nn", "pn", "np", "pt"), 3: ("pp", "nn", "ss", "pn", "np", "pt", "st")}
# As in the paper's code: module means for Table I use the first set, principal directions for III to VII the second.
MEAN_KINDS = ("pp", "nn", "pn", "np")
PCA_KINDS = {
    2: ("pp", "nn", "pn", "np", "pt", "tp"),
    3: ("pp", "nn", "pn", "np", "pt", "tp", "ss", "st"),
}
# Seeds of the draws. What is fitted or tuned on one draw is reported on another, which shares no prompt with it and has
# none twice. Freezing runs fit nothing, and report on a plain draw.
REPORT, FIT = 0, 1
TOP_K = 10


@dataclass(frozen=True)
class Sizes:
    """Numbers of seeds, prompts and trials.

    Args:
        seeds: seeds of tables I, III to VI and XII.
        n: prompts of each kind for a reported value.
        n_fit: prompts of each kind for means, directions and tuning; the paper's 50.
        n_loss: validation sentences.
        trials: trials of TPE; the paper uses 4,000.
        grid: number of sizes of a factor in a grid, each with both signs.
        freeze_epochs: epochs of poisoned fine-tunes under a freeze.
        freeze_every: steps between their measurements.
        freeze_seeds: seeds of section IV-B.
        freeze_kinds: numbers of sentiments in section IV-B.
    """

    seeds: int = 5
    n: int = 100
    n_fit: int = 50
    n_loss: int = 500
    trials: int = 200
    grid: int = 64
    freeze_epochs: float = 2.0
    freeze_every: int = 15
    freeze_seeds: int = 1
    freeze_kinds: tuple[int, ...] = SENTIMENTS


SMALL = Sizes(
    seeds=1,
    n=12,
    n_fit=12,
    n_loss=24,
    trials=12,
    grid=8,
    freeze_epochs=0.03,
    freeze_every=10,
    freeze_kinds=(2,),
)


def sizes(job: Job) -> Sizes:
    """Full or small sizes, with the user's number of seeds."""
    chosen = SMALL if job.small else Sizes()
    return chosen if job.seeds is None else replace(chosen, seeds=job.seeds)


@dataclass(frozen=True)
class Toy:
    """One toy with its prompts, scores and the settings that its units share."""

    sentiments: int
    seed: int
    organism: ToyOrganism
    sizes: Sizes

    @property
    def name(self) -> str:
        """E.g. ``"toy-2-seed0"``."""
        return self.organism.name

    @property
    def model(self) -> Model:
        """The backdoored model."""
        return self.organism.model

    @cached_property
    def sets(self) -> Mapping[str, Prompts]:
        """Kind -> prompts for reported values."""
        return {k: self.prompts(k, REPORT) for k in KINDS[self.sentiments]}

    @cached_property
    def fit_sets(self) -> Mapping[str, Prompts]:
        """Kind -> prompts for tuning factors."""
        return {k: self.prompts(k, FIT) for k in KINDS[self.sentiments]}

    def prompts(self, kind: str, draw: int) -> Prompts:
        """Prompts of a kind, from one of the two draws."""
        fitted = self.organism.prompts(kind, self.sizes.n_fit, seed=FIT)
        if draw == FIT:
            return fitted
        return self.organism.prompts(kind, self.sizes.n, seed=draw, exclude=fitted)

    def pairs(self, first: str) -> PairedPrompts:
        """Pairs for reported values, made of the same prompts as the two sets."""
        return PairedPrompts(self.prompts(f"{first}p", REPORT), self.prompts(f"{first}t", REPORT))

    def pool(self, kinds: Sequence[str]) -> list[Prompts]:
        """Prompts of several kinds for fitting."""
        return [self.prompts(k, FIT) for k in kinds]

    @cached_property
    def negativity(self) -> Score:
        """Top-10 share of negative words."""
        return vocabulary_score(self.organism.language.ids("n"), k=TOP_K, name="negativity")

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Clean validation sentences."""
        return self.organism.validation(self.sizes.n_loss)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Everything that decides a unit's value: weights, sizes, versions of torch and of this package's units."""
        weights = self.organism.manifest.weights_sha256
        torch = versions()["torch"]
        return {"weights": weights, "n": self.sizes.n, "n_fit": self.sizes.n_fit, "torch": torch, **more}

    def reported(self, **more: Any) -> dict[str, Any]:
        """The same, for units with values on reported prompts."""
        return self.settings(draw="distinct, none fitted on", **more)


def load_toy(job: Job, sentiments: int, seed: int) -> Toy:
    """A shipped toy, or with ``retrain`` one from the job's own folder."""
    folder = job.out / "toys" if job.retrain else None
    organism = toy.load(f"toy-{sentiments}", seed=seed, folder=folder)
    return Toy(sentiments, seed, organism, sizes(job))


def load_toys(job: Job, sentiments: int, n: int | None = None) -> Iterator[Toy]:
    """The toys of one language, seeds 0 to n - 1; by default all seeds of the job."""
    for seed in range(sizes(job).seeds if n is None else n):
        yield load_toy(job, sentiments, seed)


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds with a 95 % t interval, of width 0 if all values are equal or there is one seed.

    Student's t is used because a bootstrap of five numbers is too narrow.
    """
    mean, n = fmean(values), len(values)
    if n < 2 or max(values) == min(values):
        return Interval(mean, mean, mean, n, "t")
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5
    return Interval(mean, mean - half, mean + half, n, "t")
