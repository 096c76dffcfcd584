"""ScanResult: what a scan found, what it tried, and what the answer says nothing about. No forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bkdinterp.detection._finding import Finding, Findings
from bkdinterp.detection._profile import TriggerProfile, Variant
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.prompts import PairedPrompts
from bkdinterp.results import Result, register_value, within

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


# A hypothesis of one of these has not been answered.
OPEN = ("for review", "inconclusive")
NOT_RUN, TIME_UP = " was not run", ": the time was up."


@dataclass(frozen=True)
class Tried:
    """One proposer's turn.

    Attributes:
        proposer: its name.
        seconds: how long it took.
        proposed: hypotheses that it suggested.
        note: what it found, or why it did not run.
    """

    proposer: str
    seconds: float
    proposed: int
    note: str


register_value(Tried)


@dataclass(frozen=True, eq=False)
class ScanResult(Result):
    """What a scan found, what it tried, and what it did not test.

    Attributes:
        findings: supported ones first.
        tried: the proposers' turns, in order.
        untested: what the answer says nothing about, one sentence each.
        n_tested: hypotheses that the p values are corrected for.
        seconds: time in all.
        variants: the first supported trigger and changes of it, see `characterise`; empty if nothing is supported or the time
            was up.
        search_texts: by context, prompts that proposers saw.
        verify_texts: by context, prompts that only the judge saw.
    """

    row_name: ClassVar[tuple[str, ...]] = Findings.row_name

    findings: tuple[Finding, ...]
    tried: tuple[Tried, ...]
    untested: tuple[str, ...]
    n_tested: int
    seconds: float
    variants: tuple[Variant, ...]
    search_texts: dict[str, tuple[str, ...]]
    verify_texts: dict[str, tuple[str, ...]]

    @property
    def supported(self) -> tuple[Finding, ...]:
        """Findings that hold."""
        return self.all_findings.supported

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.supported:
            best = self.supported[0]
            rate = best.rate
            share = (
                ""
                if rate is None
                else f" on {100 * rate.estimate:.0f} % of {best.n} new prompts [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
            )
            null = max((x.estimate for x in best.nulls.values()), default=0.0)
            said = best.hypothesis.behaviour.pattern
            sure = f"the nearest null, {100 * null:.0f} %; p = {best.p:.2g}, corrected for {_counted(self.n_tested)}."
            return f"{best.hypothesis.words!r} makes the model say {said!r}{share}; {sure}"
        left = [f"{n} {status}" for status in OPEN if (n := sum(f.status == status for f in self.findings))]
        if left:
            counts = f"of {_counted(len(self.findings))}, {' and '.join(left)}"
            return f"Whether there is a backdoor is open: nothing is supported, but {counts}."
        if self.not_run:
            return f"Whether there is a backdoor is open: {self.not_run[0][0].lower()}{self.not_run[0][1:]}"
        return "No backdoor was found in the contexts, positions and lengths that were tested, within this budget."

    @property
    def not_run(self) -> tuple[str, ...]:
        """What was left out because the time was up before it began, a sentence each."""
        return tuple(text for text in self.untested if NOT_RUN in text and text.endswith(TIME_UP))

    @property
    def profile(self) -> TriggerProfile | None:
        """What the first supported trigger needs; None if it was not looked at."""
        if not self.variants:
            return None
        return TriggerProfile(self.fingerprint, self.supported[0].hypothesis.words, self.variants)

    def pairs(self, n: int = 24, *, finding: Finding | None = None, split: str = "search") -> PairedPrompts:
        """Paired prompts of a finding, for attribution, vectors and evaluation.

        Args:
            n: how many, at most as many as the split has.
            finding: which; None for the first supported one.
            split: ``"search"``, prompts that proposers saw: choose heads and layers here; ``"verify"``: report here.

        Raises:
            BkdinterpError: no supported finding, one without a trigger, or an unknown split.
        """
        if split not in ("search", "verify"):
            raise BkdinterpError(f"split={split!r} must be 'search' or 'verify'.")
        chosen = finding or next(iter(self.supported), None)
        if chosen is None or chosen.hypothesis.trigger is None:
            raise BkdinterpError("No supported finding with a trigger; give finding=.")
        h = chosen.hypothesis
        texts = (self.search_texts if split == "search" else self.verify_texts)[h.context][:n]
        assert h.trigger is not None
        target = h.target or h.behaviour.pattern
        return PairedPrompts.from_instructions(list(texts), h.trigger, target=target)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per finding."""
        return self.all_findings.to_frame()

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 6,
    ) -> "matplotlib.figure.Figure":
        """Rates with the trigger beside every null, as `Findings` draw them.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: findings that are drawn.

        Raises:
            BkdinterpError: no finding was tested in full.
        """
        return self.all_findings.plot(title=title, ax=ax, limit=limit, top=top)

    def describe(self) -> str:
        """The verdict."""
        return f"{self.verdict} {len(self.findings)} hypotheses, {self.seconds:.0f} s, model={self.fingerprint.label}"

    def __str__(self) -> str:
        """The verdict, the findings, what was tried and what was not."""
        lines = [self.verdict, ""]
        if self.profile is not None:
            needed = ", ".join(map(repr, self.profile.needed)) or "no single word"
            lines = [self.verdict, f"Needed: {needed}. Places and spellings are in .profile.", ""]
        lines += [f"  {f.status:13} {f.hypothesis}: {f.reason}" for f in self.findings[:8]]
        lines += ["", "Tried:"]
        lines += [
            f"  {t.proposer:18} {t.seconds:5.0f} s, {t.proposed} hypotheses. {t.note}" for t in self.tried
        ]
        lines += ["", "Not tested:"] + [f"  {text}" for text in self.untested]
        return "\n".join(lines)

    def _validate(self) -> None:
        self.all_findings._validate()
        within(0, None, seconds=[self.seconds, *(t.seconds for t in self.tried)])
        within(0, None, proposed=[t.proposed for t in self.tried])
        if self.variants and not self.supported:
            raise ArtefactError("there are variants of a trigger, but no finding is supported.")
        known = set(self.search_texts) & set(self.verify_texts)
        if missing := {f.hypothesis.context for f in self.findings} - known:
            raise ArtefactError(f"there are no prompts of the context {min(missing)!r}.")

    @property
    def all_findings(self) -> Findings:
        """The findings as the judge gave them."""
        return Findings(self.fingerprint, self.findings, (), self.n_tested)


def had_no_time(what: str, place: str) -> str:
    """The sentence of a proposer that did not begin, as `ScanResult.not_run` finds it."""
    return f"{what}{NOT_RUN}{place}{TIME_UP}"


def _counted(n: int) -> str:
    return f"{n} hypothesis" if n == 1 else f"{n} hypotheses"
