"""score_edits(): a score of several sets of prompts under several edits, as in tables of localisation and PCP.

Tables I and III-VII of Lamparth & Reuel (arXiv 2302.12461) have this form: rows are sets of prompts, columns are edits.
Costs one scored row per prompt and edit, and one unedited row per prompt; edits share the prefix of their prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.interventions import Intervention, Stack
from bkdinterp.methods._guards import check_origin, check_scores, check_sets
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.metrics import ScoreLike, with_unit
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.prompts import Prompts
from bkdinterp.results import Fingerprint, Result, caption
from bkdinterp.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

UNEDITED = "unedited"


@dataclass(frozen=True, eq=False, repr=False)
class EditScores(Result):
    """Scores of every prompt, unedited and under each edit.

    Attributes:
        base: set -> ``[example]``, unedited.
        scores: set -> ``[edit example]``.
        edits: names of the edits, in order.
        metric: name of the score.
    """

    fingerprint: Fingerprint
    base: dict[str, Float[Tensor, " _"]]
    scores: dict[str, Float[Tensor, "edit _"]]
    edits: tuple[str, ...]
    metric: str

    def _validate(self) -> None:
        if set(self.base) != set(self.scores) or not self.base:
            raise ArtefactError("base and scores must hold the same sets of prompts, and at least one.")
        for name, base in self.base.items():
            scores = self.scores[name]
            if scores.shape != (len(self.edits), len(base)) or not len(base):
                raise ArtefactError(f"the scores of {name!r} fit neither its prompts nor the edits.")
            if not bool(base.isfinite().all() and scores.isfinite().all()):
                raise ArtefactError(f"the scores of {name!r} are not all finite.")

    def of(self, prompts: str, edit: str | None = None) -> Float[Tensor, " example"]:
        """Every prompt's score; ``edit=None`` is the unedited model.

        Raises:
            PlanError: the set or edit does not exist.
        """
        if prompts not in self.base:
            raise PlanError(f"No set {prompts!r}; there are {', '.join(self.base)}.")
        if edit is None:
            return self.base[prompts]
        if edit not in self.edits:
            raise PlanError(f"No edit {edit!r}; there are {', '.join(self.edits)}.")
        return self.scores[prompts][self.edits.index(edit)]

    def mean(self, prompts: str, edit: str | None = None) -> float:
        """Mean score over the set."""
        return float(self.of(prompts, edit).mean())

    def interval(self, prompts: str, edit: str | None = None, *, seed: int = 0) -> Interval:
        """Mean score with its bootstrap interval over prompts."""
        return bootstrap_mean(self.of(prompts, edit), seed=seed)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per set and edit: mean, interval, change from the unedited model, n."""
        import pandas as pd

        rows = []
        for name in self.base:
            for edit in (None, *self.edits):
                i = self.interval(name, edit)
                change = i.estimate - self.mean(name)
                rows.append(
                    {"prompts": name, "edit": edit or UNEDITED, self.metric: i.estimate, "low": i.low}
                    | {"high": i.high, "change": change, "n": i.n}
                )
        return pd.DataFrame(rows)

    def table(self) -> "pandas.DataFrame":
        """The paper's form of table: means with a row per set and a column per edit.

        On a narrow terminal ``print(scores.table().to_string())`` shows every column.
        """
        frame = self.to_frame()
        wide = frame.pivot(index="prompts", columns="edit", values=self.metric)
        return wide.loc[list(self.base), [UNEDITED, *self.edits]]

    def plot(
        self,
        prompts: str | None = None,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Bars with intervals for the edits on one set, and a line for the unedited model.

        Args:
            prompts: name of the set; default: the last.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        name = list(self.base)[-1] if prompts is None else prompts
        found = [self.interval(name, edit) for edit in self.edits]
        return bar_intervals(
            self.edits,
            [i.estimate for i in found],
            [i.low for i in found],
            [i.high for i in found],
            xlabel=f"{with_unit(self.metric)}; on {name}, 95 % intervals",
            title=title or caption(f"Edits on {name}", self.fingerprint, f"n={len(self.base[name])}"),
            reference=self.mean(name),
            reference_label=UNEDITED,
            xlim=ends(limit),
            ax=ax,
        )

    def describe(self) -> str:
        """One line with sizes, score and model."""
        sizes = ", ".join(f"{name} n={len(x)}" for name, x in self.base.items())
        return f"{self.metric}, {len(self.edits)} edits, {sizes}, model={self.fingerprint.label}"


def score_edits(
    model: Model,
    sets: Mapping[str, Prompts],
    edits: Mapping[str, Intervention],
    score: ScoreLike,
    **options: Unpack[RunOptions],
) -> EditScores:
    """Score every set of prompts, unedited and under every edit.

    Args:
        model: the suspect model.
        sets: name -> prompts with targets.
        edits: name -> intervention, e.g. one ``MeanAblate`` per module.
        score: a name in ``metrics.SCORES``, a ``bk.Score`` such as ``metrics.vocabulary_score(...)``, or a function.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: no sets, prompts without targets, an edit called "unedited", or a score that is NaN.
        ArtefactError: the means or directions of an edit come from another model.
    """
    as_model(model, "score_edits")
    options = as_options(options, "score_edits")
    check_sets(sets, "score_edits")
    if not sets:
        raise PlanError("score_edits needs at least one set of prompts.")
    if not isinstance(edits, Mapping):
        raise PlanError(
            f'score_edits takes a mapping, name -> intervention, e.g. {{"heads": edit}}; got {type(edits).__name__}.'
        )
    if UNEDITED in edits:
        raise PlanError(f"No edit may be called {UNEDITED!r}, which is the name of the unedited model.")
    for name, edit in edits.items():
        check_origin(model, edit, f"Edit {name!r}")
    runs = [
        Run(prompts, edit, score=score) for prompts in sets.values() for edit in (Stack(), *edits.values())
    ]
    results = iter(run(model, runs, options, finite=False))
    base: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    metric = runs[0].score_name or ""
    for name, prompts in sets.items():
        rows = []
        for edit_name in (UNEDITED, *edits):
            row = next(results).scores
            assert row is not None
            rows.append(check_scores(row.double(), f"Set {name!r}, edit {edit_name!r}", metric))
        stacked = torch.stack(rows)
        base[name], scores[name] = stacked[0], stacked[1:].reshape(len(edits), len(prompts))
    return EditScores(
        fingerprint=model.fingerprint(Prompts.concat(sets.values()).fingerprint),
        base=base,
        scores=scores,
        edits=tuple(edits),
        metric=metric,
    )
