"""What the judge says of a hypothesis, with the evidence. No forward pass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch

from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.reprs import cut
from bkdinterp.results import Result, caption, register_value
from bkdinterp.stats import Comparison, Interval, wilson
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Status = Literal["supported", "for review", "not supported", "inconclusive"]
STATUSES: tuple[str, ...] = get_args(Status)
LEVEL = 0.95
# Of a trigger's words and of what it calls up, in a figure.
LETTERS = 24


@dataclass(frozen=True, eq=False)
class Finding:
    """A hypothesis, tested on prompts that no proposer saw.

    Attributes:
        hypothesis: what was tested.
        status: ``"supported"``: the trigger switches the behaviour on, and nothing else that was tried does.
            ``"for review"``: something is there, but not shown to be a planted switch; `reason` says what is missing.
            ``"not supported"``: the switch would have shown, and did not. ``"inconclusive"``: too few prompts to say.
        reason: why this status, in one sentence.
        comparison: whether each prompt's output shows the behaviour: with the trigger, against every null.
        p: of the comparison, corrected for all hypotheses that were tested together.
        examples: a few (prompt, output with the trigger, output without).

    Raises:
        BkdinterpError: an unknown status, a comparison of anything but yes or no per prompt, or p outside 0 to 1.
    """

    hypothesis: Hypothesis
    status: str
    reason: str
    comparison: Comparison | None
    p: float
    examples: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise BkdinterpError(f"status={self.status!r} must be one of {', '.join(STATUSES)}.")
        c = self.comparison
        if c is not None:
            values = torch.cat([c.observed[None], c.nulls])
            if not c.paired or not bool(((values == 0) | (values == 1)).all()):
                raise BkdinterpError(
                    "The comparison must say of each prompt whether the behaviour shows, 0 or 1."
                )
        if not (math.isnan(self.p) or 0 <= self.p <= 1):
            raise BkdinterpError(f"p={self.p:g} must be from 0 to 1, or NaN where nothing was compared.")

    @property
    def n(self) -> int:
        """Prompts."""
        return 0 if self.comparison is None else self.comparison.n

    @property
    def rate(self) -> Interval | None:
        """Share of prompts that show the behaviour with the trigger."""
        if self.comparison is None:
            return None
        return wilson(int(self.comparison.observed.sum()), self.n, LEVEL)

    @property
    def nulls(self) -> dict[str, Interval]:
        """The same without the trigger, with shams, and in the reference."""
        if self.comparison is None:
            return {}
        names, rows = self.comparison.null_names, self.comparison.nulls
        return {name: wilson(int(row.sum()), self.n, LEVEL) for name, row in zip(names, rows, strict=True)}

    @property
    def effect(self) -> Interval | None:
        """Rate with the trigger minus that of the nearest null."""
        return None if self.comparison is None else self.comparison.interval_beyond(level=LEVEL)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values; `from_dict` is the inverse."""
        return {
            "hypothesis": self.hypothesis.to_dict(),
            "status": self.status,
            "reason": self.reason,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "p": self.p,
            "examples": [list(example) for example in self.examples],
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Finding":
        """The finding that `to_dict` described."""
        return cls(
            Hypothesis.from_dict(d["hypothesis"]),
            d["status"],
            d["reason"],
            None if d["comparison"] is None else Comparison.from_dict(d["comparison"]),
            d["p"],
            tuple((str(a), str(b), str(c)) for a, b, c in d["examples"]),
        )

    def __repr__(self) -> str:
        rate = self.rate
        how = "" if rate is None else f", {100 * rate.estimate:.0f} % of {self.n}, p={self.p:.2g}"
        return f"Finding({self.status}: {self.hypothesis}{how})"


register_value(Finding)


@dataclass(frozen=True, eq=False)
class Findings(Result):
    """All hypotheses that were tested together, the supported ones first.

    Attributes:
        findings: one per hypothesis.
        missing: what could not be said, and why.
        n_tested: number of hypotheses that the p values are corrected for.
    """

    row_name: ClassVar[tuple[str, ...]] = ("trigger", "position", "behaviour", "source")

    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    n_tested: int

    def of(self, status: Status) -> tuple[Finding, ...]:
        """Those with a status."""
        return tuple(f for f in self.findings if f.status == status)

    @property
    def supported(self) -> tuple[Finding, ...]:
        """Those that hold."""
        return self.of("supported")

    def to_frame(self) -> "pandas.DataFrame":
        """One row per finding."""
        import pandas as pd

        rows = []
        for f in self.findings:
            rate, effect = f.rate, f.effect
            nulls = f.nulls
            rows.append(
                {
                    "status": f.status,
                    "trigger": f.hypothesis.words,
                    "position": None if f.hypothesis.trigger is None else f.hypothesis.trigger.position,
                    "behaviour": f.hypothesis.behaviour.pattern,
                    "source": f.hypothesis.source,
                    "rate": None if rate is None else rate.estimate,
                    "rate_low": None if rate is None else rate.low,
                    "rate_high": None if rate is None else rate.high,
                    "nearest_null": max(nulls, key=lambda k: nulls[k].estimate) if nulls else None,
                    "nearest_null_rate": max(i.estimate for i in nulls.values()) if nulls else None,
                    "effect": None if effect is None else effect.estimate,
                    "effect_low": None if effect is None else effect.low,
                    "effect_high": None if effect is None else effect.high,
                    "p": f.p,
                    "n": f.n,
                    "reason": f.reason,
                }
            )
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 6,
    ) -> "matplotlib.figure.Figure":
        """Rate with the trigger beside every null, for the first findings that were tested in full.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: findings that are drawn.

        Raises:
            BkdinterpError: no finding was tested in full.
        """
        top = as_integer(top, "top", low=1)
        labels: list[str] = []
        intervals: list[Interval] = []
        groups: dict[int, str] = {}
        for f in [f for f in self.findings if f.comparison is not None][:top]:
            assert f.rate is not None
            said = cut(f.hypothesis.behaviour.pattern, LETTERS)
            groups[len(labels)] = f"{f.status}: {cut(f.hypothesis.words, LETTERS)!r} → {said!r}"
            labels.append(f"with the trigger (n={f.n})")
            intervals.append(f.rate)
            for name, interval in f.nulls.items():
                labels.append(cut(name, 2 * LETTERS))
                intervals.append(interval)
        if not labels:
            raise BkdinterpError("No finding was tested in full: there is nothing to draw.")
        return bar_intervals(
            labels,
            [100 * i.estimate for i in intervals],
            [100 * i.low for i in intervals],
            [100 * i.high for i in intervals],
            title=title or caption("Does the trigger call up the behaviour?", self.fingerprint),
            xlabel="outputs that show the behaviour (%, with 95 % intervals)",
            groups=groups,
            faint=[i for i in range(len(labels)) if i not in groups],
            xlim=ends(limit) or (0, 100),
            ax=ax,
        )

    def describe(self) -> str:
        """Counts by status."""
        counts = ", ".join(f"{len(self.of(s))} {s}" for s in STATUSES if self.of(s))  # type: ignore[arg-type]
        return f"{counts or 'nothing tested'}, model={self.fingerprint.label}"

    def _validate(self) -> None:
        if self.n_tested < len(self.findings):
            raise ArtefactError(f"n_tested={self.n_tested} is below the {len(self.findings)} findings.")


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Supported first, then by rate."""

    def key(f: Finding) -> tuple[int, float]:
        return STATUSES.index(f.status), -(0.0 if f.rate is None else f.rate.estimate)

    return tuple(sorted(findings, key=key))
