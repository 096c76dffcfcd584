"""MatchScores: the objective of a tuning, the distance of scores from wanted ones. Costs one scored row per prompt and edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Intervention
from bkdinterp.methods._guards import check_origin, check_scores, check_sets
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.metrics import ScoreLike
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import Prompts
from bkdinterp.reprs import short_repr


@dataclass(frozen=True, eq=False)
class MatchScores:
    """Objective of a tuning: the distance of the edited model's mean scores from wanted ones.

        sum over the sets of weight * (mean score under the edit - wanted)^2

    Attributes:
        model: the suspect model.
        sets: name -> prompts with targets.
        score: as in ``score_edits``.
        wanted: set -> mean score to reach, in the unit of the score (a share is in 0..1, a log-probability below 0); ``of``
            measures it on the unedited model.
        weights: set -> weight; 1 if not given.
        measured: the sets whose wanted value was measured by ``of``.
        options: how it runs, in ``of`` and in every call; see `RunOptions`.
    """

    __repr__ = short_repr

    model: Model
    sets: Mapping[str, Prompts]
    score: ScoreLike
    wanted: Mapping[str, float]
    weights: Mapping[str, float]
    measured: tuple[str, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)

    def fingerprint(self) -> tuple[object, ...]:
        """Identifies a saved study; omits measured values, which follow from the rest but differ by rounding."""
        given = {name: value for name, value in self.wanted.items() if name not in self.measured}
        return self.model, self.sets, self.score, given, self.weights

    @classmethod
    def of(
        cls,
        model: Model,
        sets: Mapping[str, Prompts],
        score: ScoreLike,
        *,
        wanted: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
        **options: Unpack[RunOptions],
    ) -> "MatchScores":
        """An objective to match the unedited model, except for sets in ``wanted`` (e.g. ``{"pt": 0.0}`` to weaken).

        Wanted values are not checked for being possible: ``{"pt": 50}`` for a share in 0..1 is accepted, and its gap then
        outweighs all other sets. For how it runs see `RunOptions`.

        Raises:
            PlanError: a wanted or weighted set does not exist, the sets are not a mapping of prompts, or a score is NaN.
        """
        as_model(model, "MatchScores.of")
        options = as_options(options, "MatchScores.of")
        check_sets(sets, "MatchScores.of")
        given = dict(wanted or {})
        unknown = [name for name in (*given, *(weights or {})) if name not in sets]
        if not sets or unknown:
            raise PlanError(
                f"No set {', '.join(unknown) or 'of prompts'}; there are {', '.join(sets) or 'none'}."
            )
        open_sets = [name for name in sets if name not in given]
        runs = [Run(sets[name], score=score) for name in open_sets]
        results = run(model, runs, options, finite=False) if runs else ()
        unedited = {
            name: float(check_scores(r.scores.double(), f"Set {name!r}, unedited", asked.score_name).mean())
            for name, asked, r in zip(open_sets, runs, results, strict=True)
            if r.scores is not None
        }
        return cls(model, dict(sets), score, unedited | given, dict(weights or {}), tuple(open_sets), options)

    def __call__(self, edit: Intervention) -> float:
        """The objective for one edit; costs one scored row per prompt."""
        return self.many([edit])[0]

    def many(self, edits: Sequence[Intervention]) -> list[float]:
        """The objective for several edits, which share batches."""
        for edit in edits:
            check_origin(self.model, edit, "MatchScores")
        runs = [Run(prompts, edit, score=self.score) for prompts in self.sets.values() for edit in edits]
        results = iter(run(self.model, runs, self.options, finite=False))
        totals = [0.0] * len(edits)
        for name in self.sets:
            for i in range(len(edits)):
                scores = next(results).scores
                assert scores is not None
                gap = float(scores.double().mean()) - self.wanted[name]
                totals[i] += self.weights.get(name, 1.0) * gap**2
        return totals
