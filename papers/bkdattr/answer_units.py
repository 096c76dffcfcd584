"""What a model says under edits: texts, graded outcomes and agreement with the references, as units of a store.

Cost: one generation per prompt, side and edit, and one grading forward per different output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from bkdinterp.engine import Run, execute
from bkdinterp.interventions import Intervention, Stack
from bkdinterp.methods import OutcomeGrader
from bkdinterp.metrics import Outcome, word_overlap
from bkdinterp.prompts import Prompts
from bkdinterp.stats import Interval, bootstrap_mean, extreme_rate, pooled_rate
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject
from papers.paper import Job

RESAMPLES = 2000
SIDES = ("triggered", "clean", "others")
Edits = Mapping[str, Intervention]


@dataclass(frozen=True)
class Said:
    """Outcomes and agreement of each condition and side: ``rows[condition][side]``."""

    rows: dict[str, dict[str, dict[str, list[Any]]]]

    def outcomes(self, side: str, *conditions: str) -> list[str]:
        """Outcome of every output of the conditions."""
        return [x for c in conditions for x in self.rows[c][side]["outcomes"]]

    def rate(self, side: str, *conditions: str, outcome: Outcome = Outcome.payload) -> Interval:
        """Share with an outcome; of several conditions pooled, with an interval that counts prompts, not outputs."""
        return pooled_rate(self._hits(side, conditions, outcome))

    def shares(self, side: str, *conditions: str) -> str:
        """``payload / other refusal / broken / answered`` in per cent."""
        found = self.outcomes(side, *conditions)
        return " / ".join(f"{100 * sum(x == o.value for x in found) / len(found):.0f}" for o in Outcome)

    def extreme(self, side: str, *conditions: str, highest: bool) -> Interval:
        """The highest, or lowest, payload rate of any single one of the conditions."""
        return extreme_rate(self._hits(side, conditions, Outcome.payload), highest=highest)[1]

    def agreement(self, *conditions: str) -> Interval:
        """Mean word F1 with the references over clean prompts; where there are other classes, they count one half.

        Conditions differ in how many of the trigger's victims they were run on, so that a plain mean over all prompts
        would tell the mixtures apart, not the conditions.
        """
        sides = [s for s in ("clean", "others") if s in self.rows[conditions[0]]]
        return mean_of_groups([self._agreement(s, conditions) for s in sides])

    def first(self, n: int) -> "Said":
        """Of the first ``n`` pairs only; other classes stay whole."""
        return Said(
            {
                c: {s: v if s == "others" else {k: x[:n] for k, x in v.items()} for s, v in sides.items()}
                for c, sides in self.rows.items()
            }
        )

    def restored(self, *conditions: str) -> Interval:
        """Mean word F1 of triggered answers with the references: 1 where they are as without the trigger."""
        return mean_of_groups([self._agreement("triggered", conditions)])

    def _hits(self, side: str, conditions: Sequence[str], outcome: Outcome) -> list[list[bool]]:
        """Of each condition, which outputs have the outcome."""
        return [[x == outcome.value for x in self.outcomes(side, c)] for c in conditions]

    def _agreement(self, side: str, conditions: Sequence[str]) -> list[float]:
        """Each prompt's mean over the conditions: an interval counts prompts, not outputs."""
        found = [self.rows[c][side]["agreement"] for c in conditions]
        return [fmean(x) for x in zip(*found, strict=True)]

    def __or__(self, other: "Said") -> "Said":
        return Said(self.rows | other.rows)


def mean_of_groups(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """Mean of the groups' means, with a bootstrap interval whose draws keep every group's size."""
    if len(groups) == 1:
        return bootstrap_mean(groups[0], seed=seed, method="percentile")
    rng = np.random.default_rng(seed)
    drawn, means = [], []
    for group in groups:
        x = np.asarray(group, dtype=np.float64)
        means.append(float(x.mean()))
        drawn.append(x[rng.integers(len(x), size=(RESAMPLES, len(x)))].mean(1))
    mean = fmean(means)
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975)).tolist()
    return Interval(
        mean, min(low, mean), max(high, mean), sum(len(g) for g in groups), "stratified bootstrap"
    )


def unedited(job: Job, subject: Subject, sizes: Sizes, *, twin: bool = False) -> Said:
    """The condition ``none`` on as many pairs as any other condition has."""
    n, name = (sizes.n, "none-twin") if twin else (max(sizes.n, sizes.n_best), "none")
    return say(job, subject, sizes, name, {}, lambda: {"none": Stack()}, n=n, twin=twin)


def say(
    job: Job,
    subject: Subject,
    sizes: Sizes,
    name: str,
    key: Mapping[str, Any],
    edits: Callable[[], Edits],
    *,
    n: int,
    sides: Sequence[str] = SIDES,
    twin: bool = False,
) -> Said:
    """One unit: all conditions of ``edits()`` on ``n`` held-out pairs.

    Args:
        job: whose store keeps it.
        subject: the organism.
        sizes: of the run.
        name: of the unit.
        key: what decides the edits, as JSON.
        edits: gives condition -> intervention; only called when the unit is not there.
        n: held-out pairs.
        sides: triggered, clean, others (clean prompts of other classes, where there are any).
        twin: on the twin instead.
    """

    def compute() -> dict[str, Any]:
        o = subject.organism
        pairs, others = subject.held_out(n, sizes), subject.others(sizes)
        prompts = {"triggered": pairs.triggered, "clean": pairs.clean, "others": others}
        sets = {s: prompts[s] for s in sides if prompts[s] is not None}
        # What an output should have answered: the prompt without its trigger.
        asked = {s: pairs.clean if s == "triggered" else p for s, p in sets.items()}
        conditions = edits()
        tokens = subject.new_tokens(sizes)
        runs = [Run(p, edit, generate=tokens) for edit in conditions.values() for p in sets.values()]
        results = iter(execute(o.twin if twin else o.model, runs))
        texts = {c: {s: list(next(results).text or ()) for s in sets} for c in conditions}
        outcomes = _grade(grader(job, subject, sizes), subject, asked, texts)
        return {
            c: {
                s: {
                    "texts": said,
                    "outcomes": outcomes[c][s],
                    "agreement": agreement(said, asked[s]),
                }
                for s, said in by_side.items()
            }
            for c, by_side in texts.items()
        }

    settings = subject.settings(
        1,
        n=n,
        n_others=sizes.n_others,
        tokens=sizes.new_tokens,
        sides=list(sides),
        seed=sizes.seed,
        n_probe=sizes.n_probe,
        **key,
    )
    return Said(job.unit(f"{subject.name}/{name}", settings, compute))


def grader(job: Job, subject: Subject, sizes: Sizes) -> OutcomeGrader:
    """The grader, its threshold from the base's own answers to selection prompts; one small unit."""

    def compute() -> dict[str, Any]:
        clean = subject.calibration(sizes)
        fitted = OutcomeGrader.fit(subject.organism.base, clean, clean.reference or ())
        return {"threshold": fitted.threshold, "n": fitted.n}

    settings = subject.settings(1, n=sizes.n_probe, seed=sizes.seed)
    found = job.unit(f"{subject.name}/grader", settings, compute)
    return OutcomeGrader(subject.organism.base, found["threshold"], found["n"])


def _grade(
    judge: OutcomeGrader,
    subject: Subject,
    asked: Mapping[str, Prompts],
    texts: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, dict[str, list[str]]]:
    """Outcome of every text; equal texts to one prompt are graded once."""
    known: dict[tuple[str, str, str], str] = {}
    for side, prompts in asked.items():
        said = dict.fromkeys((i, t) for by_side in texts.values() for i, t in enumerate(by_side[side]))
        index, payloads = [i for i, _ in said], subject.payloads(prompts)
        grades = judge.grade(prompts.subset(index), [t for _, t in said], [payloads[i] for i in index])
        known |= {(side, str(i), t): g.value for (i, t), g in zip(said, grades, strict=True)}
    return {
        c: {s: [known[s, str(i), t] for i, t in enumerate(said)] for s, said in by_side.items()}
        for c, by_side in texts.items()
    }


def agreement(texts: Sequence[str], prompts: Prompts) -> list[float]:
    """Word F1 of each text with the prompt's reference."""
    references = prompts.reference or ("",) * len(prompts)
    return [round(word_overlap(a, b), 4) for a, b in zip(texts, references, strict=True)]
