"""RowScores: what every method says of every row, which rows are flagged, and what their prompts have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.detection._phrases import Phrase
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.plotting import bar_intervals, curves, ends, mark_value
from bkdinterp.results import Fingerprint, Result, caption, same_length, within
from bkdinterp.stats import Interval, auroc, wilson

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


LOWER_HALF = "their lower half"


@dataclass(frozen=True, eq=False, repr=False)
class RowScores(Result):
    """Scores of training rows; higher is more suspicious.

    Attributes:
        scores: method -> one number per row, each in its own unit.
        combined: mean over methods of each row's rank, 0 to 1.
        p: how likely a clean row comes as high, see `null_p`.
        flagged: rows at the false discovery rate.
        phrases: what flagged prompts hold more often than the others: trigger candidates, not findings.
        texts, answers: the rows.
        level: the false discovery rate.
        null: what p compares with: ``"trusted rows"`` or ``"their lower half"``.
        trusted: rows that were given as clean.
        truth: which are poisoned, where that is known.
    """

    fingerprint: Fingerprint
    scores: dict[str, Float[Tensor, " row"]]
    combined: Float[Tensor, " row"]
    p: Float[Tensor, " row"]
    flagged: Bool[Tensor, " row"]
    phrases: tuple[Phrase, ...]
    texts: tuple[str, ...]
    answers: tuple[str, ...]
    level: float
    null: str
    trusted: Bool[Tensor, " row"]
    truth: Bool[Tensor, " row"] | None = None

    def _validate(self) -> None:
        same_length(texts=len(self.texts), answers=len(self.answers), combined=len(self.combined))
        if not self.scores:
            raise ArtefactError("no method scored the rows.")
        within(0, 1, combined=self.combined, p=self.p, level=self.level)
        within(None, None, **self.scores)
        if bool(self.trusted.all()):
            raise ArtefactError("there are no rows in it, or all are trusted.")

    @property
    def _known(self) -> bool:
        """Whether the truth is known, of both kinds of rows."""
        return self.truth is not None and len(set(self.truth[~self.trusted].tolist())) == 2

    @property
    def candidates(self) -> tuple[str, ...]:
        """Trigger candidates as plain texts, most certain first."""
        return tuple(phrase.text for phrase in self.phrases)

    @property
    def flagged_share(self) -> Interval:
        """Share of the rows, trusted ones left out, that is flagged."""
        looked_at = ~self.trusted
        return wilson(int((self.flagged & looked_at).sum()), int(looked_at.sum()))

    def auroc(self, method: str | None = None) -> Interval:
        """Of a method, default all combined, against the truth; trusted rows are left out.

        Raises:
            BkdinterpError: no truth, one kind of rows only, or an unknown method.
        """
        if self.truth is None:
            raise BkdinterpError("The truth about the rows is not known; give truth= to poisoned_rows.")
        if method is not None and method not in self.scores:
            raise BkdinterpError(f"Unknown method {method!r}; there are {', '.join(self.scores)}.")
        scores = self.combined if method is None else self.scores[method]
        return auroc(scores[~self.trusted], self.truth[~self.trusted])

    def rates(self) -> tuple[Interval, Interval]:
        """Share of poisoned rows that is flagged, and of clean ones.

        Raises:
            BkdinterpError: no truth.
        """
        if self.truth is None:
            raise BkdinterpError("The truth about the rows is not known; give truth= to poisoned_rows.")
        hit, false = self.truth & ~self.trusted, ~self.truth & ~self.trusted
        return (
            wilson(int((self.flagged & hit).sum()), int(hit.sum())),
            wilson(int((self.flagged & false).sum()), int(false.sum())),
        )

    def top(self, k: int) -> list[int]:
        """Indices of the ``k`` most suspicious rows."""
        return self.combined.argsort(descending=True).tolist()[:k]

    def to_frame(self) -> "pandas.DataFrame":
        """One row per row: text, answer, every method's score, the mean rank, p, flagged, and the truth where it is known."""
        import pandas as pd

        columns: dict[str, Sequence[object]] = {"text": self.texts, "answer": self.answers}
        columns |= {name: x.tolist() for name, x in self.scores.items()}
        columns |= {
            "combined": self.combined.tolist(),
            "p": self.p.tolist(),
            "flagged": self.flagged.tolist(),
        }
        if bool(self.trusted.any()):
            columns["trusted"] = self.trusted.tolist()
        if self.truth is not None:
            columns["poisoned"] = self.truth.tolist()
        return pd.DataFrame(columns)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """AUROC of every method where the truth is known; else the rows' mean ranks in order, with what is flagged.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        n = f"n={int((~self.trusted).sum())} rows"
        if self._known:
            name = title or caption("How well scores tell poisoned rows from clean ones", self.fingerprint, n)
            methods = [None, *self.scores]
            areas = [self.auroc(m) for m in methods]
            return bar_intervals(
                ["all, mean rank", *(m.replace("_", " ") for m in self.scores)],
                [a.estimate for a in areas],
                [a.low for a in areas],
                [a.high for a in areas],
                xlabel="AUROC (with 95 % intervals)",
                title=name,
                reference=0.5,
                reference_label="chance",
                xlim=ends(limit) or (0, 1),
                ax=ax,
            )
        ordered = self.combined[~self.trusted].sort(descending=True).values
        figure = curves(
            list(range(1, len(ordered) + 1)),
            {"mean rank": (ordered, None, None)},
            xlabel="rows, most suspicious first",
            ylabel="mean rank over methods",
            title=title or caption("Suspicion of each training row", self.fingerprint, n),
            ylim=ends(limit) or (0, 1),
            ax=ax,
        )
        return mark_value(
            figure, int(self.flagged.sum()) + 0.5, f"{int(self.flagged.sum())} rows flagged", axis="x"
        )

    def describe(self) -> str:
        """Rows, methods, what is flagged, and the first candidate."""
        first = f", first candidate {self.candidates[0]!r}" if self.phrases else ""
        area = ""
        if self._known:
            area = f", AUROC {self.auroc()}"
        return (
            f"{len(self.texts)} rows, {len(self.scores)} methods, {int(self.flagged.sum())} flagged at a false discovery "
            f"rate of {self.level:g} (null: {self.null}){area}{first}, model={self.fingerprint.label}"
        )
