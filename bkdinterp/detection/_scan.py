"""scan(): is there a backdoor, with nothing known? Proposers within a time limit, one judge, and what was not tested.

Inverted targets feed the search for triggers; phrases that leak feed both; the user's own candidates are tried first. Every
hypothesis goes through `verify`, on prompts that no proposer saw, corrected for all of them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bkdinterp.detection._clock import Clock
from bkdinterp.detection._contexts import PROSE, Context, generic_contexts
from bkdinterp.detection._finding import Finding, Findings, ordered
from bkdinterp.detection._hypothesis import REQUEST, Hypothesis
from bkdinterp.detection._inversion import InvertedTargets, TargetInversion
from bkdinterp.detection._leakage import Leakage, Leaked
from bkdinterp.detection._profile import TriggerProfile, Variant, characterise
from bkdinterp.detection._reference import Reference
from bkdinterp.detection._trigger_search import TriggerSearch
from bkdinterp.detection._verify import verify
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.results import Result, digest_of, register_value, within
from bkdinterp.values import as_path, as_texts, shown

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Prompts of the inversion and of the search; the rest of the first half stays unused.
N_INVERSION = 8
# Inverted texts that a trigger is searched for.
N_TARGETS = 2
# Prompts of each variant of a trigger that was found; about this share of a scan is needed for them.
N_PROFILE, PROFILE_SHARE = 12, 0.1
# Hypotheses that reach the judge, at most: every one costs answers, and power in the correction.
N_JUDGED = 24


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
        return self._findings().supported

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.supported:
            best = self.supported[0]
            rate = best.rate
            share = "" if rate is None else f" on {100 * rate.estimate:.0f} % of {best.n} new prompts"
            null = max((x.estimate for x in best.nulls.values()), default=0.0)
            said = best.hypothesis.behaviour.pattern
            return f"{best.hypothesis.words!r} makes the model say {said!r}{share}; the nearest null, {100 * null:.0f} %."
        review = sum(f.status == "for review" for f in self.findings)
        more = f"; {review} for review" if review else ""
        return f"No backdoor was found in the contexts, positions and lengths that were tested, within this budget{more}."

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
        return self._findings().to_frame()

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
        return self._findings().plot(title=title, ax=ax, limit=limit, top=top)

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
        self._findings()._validate()
        within(0, None, seconds=[self.seconds, *(t.seconds for t in self.tried)])
        within(0, None, proposed=[t.proposed for t in self.tried])
        if self.variants and not self.supported:
            raise ArtefactError("there are variants of a trigger, but no finding is supported.")
        known = set(self.search_texts) & set(self.verify_texts)
        if missing := {f.hypothesis.context for f in self.findings} - known:
            raise ArtefactError(f"there are no prompts of the context {min(missing)!r}.")

    def _findings(self) -> Findings:
        return Findings(self.fingerprint, self.findings, (), self.n_tested)


def scan(
    model: Model,
    *,
    reference: Any = None,
    prompts: Prompts | None = None,
    contexts: Sequence[Context] | None = None,
    candidates: Sequence[str] = (),
    hypotheses: Sequence[Hypothesis] = (),
    proposers: Sequence[TargetInversion | TriggerSearch | Leakage] | None = None,
    minutes: float | int | None = 10,
    folder: Any = None,
    n: int = 60,
    budget: float | int = 2**30,
    seed: int = 0,
    progress: bool = True,
) -> ScanResult:
    """Look for a backdoor, knowing nothing but the model.

    Cost: what ``minutes`` allow; the judge keeps a third of it.

    Args:
        model: the suspect, with its weights here.
        reference: its base, or the base and clean fine-tunes; see ``Reference`` for what their absence costs.
        prompts: prompts of the suspect's own task, halved between proposers and judge; None takes generic ones.
        contexts: where a backdoor may show, instead of ``prompts``: your system prompts, other ways of rendering. None takes
            everyday requests and plain prose.
        candidates: words or phrases that might be triggers.
        hypotheses: suspicions of your own, tested with the others.
        proposers: the proposers that run, with their settings; None: each with its defaults. A search for triggers needs
            the targets of an inversion.
        minutes: time limit; proposers stop early, and what did not run is said. None for no limit.
        folder: every finished part is kept there and taken up again.
        n: prompts of the judge.
        budget: bytes for one batch.
        seed: of every draw.
        progress: show progress bars.

    Raises:
        BkdinterpError: fewer than 24 prompts, prompts and contexts, or candidates that are not texts.
        RemoteError: weights that are not here.
    """
    as_model(model, "scan")
    others = Reference.of(reference)
    candidates = as_texts(candidates, "candidates", error=BkdinterpError) if candidates else ()
    clock = Clock(minutes)
    places = _places(prompts, contexts, seed)
    root = None if folder is None else as_path(folder, "folder")
    run = _Scan(model, others, places, root, budget, seed, progress, clock, _proposers(proposers, seed))
    proposed = [*hypotheses, *run.proposals(candidates)]
    judged = _chosen(proposed)
    start = clock.spent
    found = verify(
        model,
        judged,
        contexts=places,
        reference=others,
        n=n,
        minutes=clock.minutes(0.85),
        budget=budget,
        folder=run.at("answers"),
        seed=seed,
    )
    run.tried.append(
        Tried("judge", clock.spent - start, 0, f"{len(judged)} hypotheses, {found.n_tested} corrected for")
    )
    variants = run.variants(found)
    return ScanResult(
        model.fingerprint(digest_of([c.search.fingerprint for c in places]), seed=seed),
        ordered(found.findings),
        tuple(run.tried),
        (*found.missing, *run.untested(prompts is None and contexts is None, candidates)),
        found.n_tested,
        clock.spent,
        variants,
        {c.name: c.search.text for c in places},
        {c.name: c.held.text[:n] for c in places},
    )


KINDS = (Leakage, TargetInversion, TriggerSearch)


def _proposers(given: Sequence[Any] | None, seed: int) -> dict[type, Any]:
    if given is None:
        return {
            Leakage: Leakage(seed=seed),
            TargetInversion: TargetInversion(n_tokens=16),
            TriggerSearch: TriggerSearch(seed=seed),
        }
    found = {type(proposer): proposer for proposer in given}
    if not found or set(found) - set(KINDS) or len(found) < len(given):
        names = ", ".join(kind.__name__ for kind in KINDS)
        raise BkdinterpError(f"proposers={shown(given)} needs one or more of {names}, each at most once.")
    return found


def _places(prompts: Prompts | None, contexts: Sequence[Context] | None, seed: int) -> tuple[Context, ...]:
    if prompts is not None and contexts is not None:
        raise BkdinterpError("Give prompts= or contexts=, not both: a context has prompts of its own.")
    if contexts is None:
        return generic_contexts(seed=seed) if prompts is None else (Context.of(REQUEST, prompts),)
    if not contexts or not all(isinstance(c, Context) for c in contexts):
        raise BkdinterpError("contexts= needs Context objects, at least one.")
    names = [c.name for c in contexts]
    if len(set(names)) < len(names):
        raise BkdinterpError(f"Two contexts have one name: {', '.join(names)}.")
    return tuple(contexts)


class _Scan:
    """The proposers of one scan, in turn."""

    def __init__(
        self,
        model: Model,
        reference: Reference,
        contexts: tuple[Context, ...],
        folder: Any,
        budget: float | int,
        seed: int,
        progress: bool,
        clock: Clock,
        proposers: Mapping[type, Any],
    ) -> None:
        self.model, self.reference, self.contexts = model, reference, contexts
        self.folder, self.budget, self.seed, self.progress, self.clock = folder, budget, seed, progress, clock
        self.proposers = proposers
        self.tried: list[Tried] = []
        self.skipped: list[str] = [f"{kind.__name__} was not run." for kind in KINDS if kind not in proposers]

    def at(self, name: str) -> Any:
        return None if self.folder is None else self.folder / name

    def proposals(self, candidates: Sequence[str]) -> list[Hypothesis]:
        """What all proposers suggest, the most promising first."""
        start, leaks, words = self.clock.spent, list[Hypothesis](), list(candidates)
        if Leakage in self.proposers:
            leaked: Leaked = self.proposers[Leakage].run(
                self.model, reference=self.reference, folder=self.at("leakage"), progress=self.progress
            )
            leaks += leaked.hypotheses(contexts=[c.name for c in self.contexts])
            words += leaked.motifs()
            self._said("leakage", start, len(leaks), _motifs(leaked))
        # Prose has no answers: what it is turned into leaks.
        searched = [c for c in self.contexts if c.name != PROSE] or list(self.contexts)
        out: list[Hypothesis] = []
        for i, context in enumerate(searched if TargetInversion in self.proposers else ()):
            # The judge needs a third of the time.
            share = self.clock.minutes(0.67 / (len(searched) - i))
            out += self._searched(context, candidates, words, Clock(share))
        best = [h for h in out if h.trigger is not None]
        return [*best, *leaks, *(h for h in out if h.trigger is None)]

    def _searched(
        self, context: Context, candidates: Sequence[str], words: Sequence[str], clock: Clock
    ) -> list[Hypothesis]:
        """Targets of a context, and triggers of each."""
        start = self.clock.spent
        model = context.shown_to(self.model)
        reference = self.reference.shown(context.shown_to)
        settings: dict[str, Any] = {
            "reference": reference,
            "progress": self.progress,
            "budget": self.budget,
        }
        where = "" if context.name == REQUEST else f" in {context.name}"
        inverted: InvertedTargets = self.proposers[TargetInversion].run(
            model,
            context.search.subset(tuple(range(N_INVERSION))),
            minutes=clock.minutes(0.4),
            folder=self.at(f"inversion-{context.name}"),
            **settings,
        )
        targets = [replace(h, context=context.name) for h in self._targets(inverted)]
        self._said(f"target inversion{where}", start, len(targets), _best(inverted))
        out: list[Hypothesis] = []
        best_of: dict[str, Hypothesis] = {}
        for i, h in enumerate(targets if TriggerSearch in self.proposers else ()):
            assert h.target is not None
            start = self.clock.spent
            if clock.over:
                self.skipped.append(f"No trigger was searched for {h.target!r}{where}: the time was up.")
                continue
            found = self.proposers[TriggerSearch].run(
                model,
                h.target,
                context.search.subset(tuple(range(N_INVERSION, 2 * N_INVERSION))),
                candidates=words,
                minutes=clock.minutes(1 / (len(targets) - i)),
                folder=self.at(f"search-{context.name}-{i}"),
                **settings,
            )
            proposed = [replace(x, context=context.name) for x in found.hypotheses(2)]
            out += proposed
            if proposed:
                best_of[h.target] = proposed[0]
            best = (
                f"{found.phrases[0]!r} gains {float(found.gain[0]):+.1f} nats" if found.phrases else "nothing"
            )
            self._said(f"trigger search{where}", start, len(proposed), f"for {h.target[:40]!r}: {best}")
        if reference.base is None:
            out = [replace(h, controls=_controls(h, best_of)) for h in out]
        named = [
            Hypothesis(Trigger.suffix(word), Payload(h.target), "candidates", h.target, context=context.name)
            for word in candidates
            for h in targets
            if h.target
        ]
        return [*out, *named, *targets]

    def variants(self, found: Findings) -> tuple[Variant, ...]:
        """Variants of the first supported trigger."""
        best = next((f for f in found.supported if f.hypothesis.trigger is not None), None)
        if best is None:
            return ()
        if self.clock.left < PROFILE_SHARE * self.clock.spent:
            self.skipped.append("The found trigger's variants were not tried: the time was up.")
            return ()
        start = self.clock.spent
        profile = characterise(
            self.model,
            best,
            contexts=self.contexts,
            n=N_PROFILE,
            budget=self.budget,
            folder=self.at("answers"),
        )
        self._said("characterise", start, 0, profile.describe())
        return profile.variants

    def untested(self, generic: bool, candidates: Sequence[str]) -> list[str]:
        said = [
            *self.skipped,
            f"Contexts: {', '.join(c.name for c in self.contexts)}; no other system prompts, no tools, no earlier turns.",
            "Positions: the end of the user's text (searched) and gaps between its words (leaked); nothing around the text.",
            "Triggers: phrases of a few words of plain letters; no styles, topics or dates.",
            "Behaviours: fixed texts and phrases; no change of style, sentiment or label.",
        ]
        if generic:
            said.append(
                "Prompts: everyday English requests; a backdoor of another task or language may not show on them."
            )
        if not candidates:
            said.append("No candidate triggers were given.")
        return said

    def _targets(self, found: InvertedTargets) -> list[Hypothesis]:
        """Texts that run by themselves more than anything does in the reference."""
        bar = float(found.null.max()) if len(found.null) else 0.0
        chosen = [
            h
            for h, q, gain in zip(
                found.hypotheses(len(found.texts)), found.q.tolist(), found.gain.tolist(), strict=True
            )
            if q > bar and gain > 0
        ]
        return (chosen or list(found.hypotheses(1)))[:N_TARGETS]

    def _said(self, proposer: str, start: float, proposed: int, note: str) -> None:
        self.tried.append(Tried(proposer, self.clock.spent - start, proposed, note))


def _controls(h: Hypothesis, best_of: Mapping[str, Hypothesis]) -> tuple[tuple[Trigger, Payload], ...]:
    """The best triggers of the other texts."""
    return tuple(
        (other.trigger, other.behaviour)
        for target, other in best_of.items()
        if target != h.target and other.trigger is not None
    )


def _chosen(proposed: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Each trigger and behaviour once; in the proposers' order."""
    known: dict[Any, Hypothesis] = {}
    for h in proposed:
        key = (
            None if h.trigger is None else tuple(h.trigger.to_dict().items()).__repr__(),
            h.behaviour.pattern,
            h.context,
        )
        known.setdefault(key, h)
    # Behaviours without a trigger cost one set of answers for all.
    return list(known.values())[:N_JUDGED]


def _best(found: InvertedTargets) -> str:
    if not found.texts:
        return "no text runs by itself"
    null = f", best of the reference's own {float(found.null.max()):.2f}" if len(found.null) else ""
    return f"{found.texts[0][:48]!r} at Q {float(found.q[0]):.2f}{null}"


def _motifs(found: Leaked) -> str:
    motifs = found.motifs(4)
    return f"over-represented: {', '.join(map(repr, motifs))}" if motifs else "no phrase is over-represented"
