"""The proposers' turns within a scan: who runs when, on which prompts, for how long, and what each hands to the next.

Texts that run by themselves, and those that amplification brings up, are what triggers are searched for; phrases that leak
feed the search, too. Whatever could be a trigger is then read: what
the answers with it hold, and those without it lack, is the behaviour that the judge is asked about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from bkdinterp.detection._amplification import Amplification, AmplifiedAnswers
from bkdinterp.detection._candidate_probe import CandidateProbe
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._contexts import PROSE, Context
from bkdinterp.detection._declined import holds, opened
from bkdinterp.detection._hypothesis import REQUEST, Hypothesis
from bkdinterp.detection._inversion import TargetInversion, one_text
from bkdinterp.detection._inverted_targets import InvertedTargets
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._leakage import Leakage, Leaked
from bkdinterp.detection._reference import Reference
from bkdinterp.detection._said import said_with
from bkdinterp.detection._scan_result import Tried, had_no_time
from bkdinterp.detection._searched_triggers import SearchedTriggers
from bkdinterp.detection._trigger_search import CERTAIN, TriggerSearch
from bkdinterp.detection._weight_triage import WeightTriage
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model
from bkdinterp.prompts import Trigger
from bkdinterp.results import Store
from bkdinterp.values import shown

KINDS = (WeightTriage, Leakage, Amplification, CandidateProbe, TargetInversion, TriggerSearch)
Proposer = WeightTriage | Leakage | Amplification | CandidateProbe | TargetInversion | TriggerSearch
# Prompts of the inversion, then of the search.
N_PROMPTS = 8
# Prompts on which possible triggers are read.
N_READ = 12
# Texts that a trigger is searched for, and phrases of each search that are read.
N_TARGETS, N_PHRASES = 2, 2
# A text is not searched for if its gain is less than this share of the first one's.
WORTH_A_SEARCH = 0.5
# Of all the time, what is kept for the judge; of a context's time, what inversion and amplification get.
FOR_JUDGE, FOR_INVERSION, FOR_AMPLIFICATION = 0.33, 0.4, 0.15
# Of what the weights and leaks leave, what candidates get, in all contexts.
FOR_CANDIDATES = 0.4
# Of what the judge leaves, what a second search gets; less than this many seconds are not worth one.
FOR_SECOND, WORTH_A_SECOND = 0.6, 30.0
# A text that gains less than this over the reference does not stand out; without a reference, Q below that.
STRIKING, STRIKING_ALONE = 0.4, 0.9


def proposers_of(given: Sequence[Any] | None, seed: int) -> dict[type, Any]:
    """The proposers by class; all of them with their defaults for None.

    Raises:
        BkdinterpError: something else, or two of a kind.
    """
    if given is None:
        # The first 16 tokens tell a text.
        inversion = TargetInversion(n_tokens=16)
        search = TriggerSearch(seed=seed)
        given = (WeightTriage(), Leakage(seed=seed), Amplification(), CandidateProbe(), inversion, search)
    found = {type(proposer): proposer for proposer in given}
    if not found or set(found) - set(KINDS) or len(found) < len(given):
        names = ", ".join(kind.__name__ for kind in KINDS)
        raise BkdinterpError(f"proposers={shown(given)} needs one or more of {names}, each at most once.")
    return found


class _Ended(NamedTuple):
    """What a second search is for: where, for which text, words, and what the first one found."""

    context: Context
    text: Hypothesis
    words: list[str]
    found: SearchedTriggers | None


class Turns:
    """The turns of one scan.

    Args:
        model, reference: the suspect, and what it is compared with.
        contexts: where hypotheses are looked for; only their ``search`` halves are seen here.
        proposers: by class.
        folder: of the finished parts; None keeps none.
        answers: asks, and keeps what was asked.
        clock: of the turns; it ends before the judge's time.
        budget, seed, progress: as in ``scan``.
    """

    def __init__(
        self,
        model: Model,
        reference: Reference,
        contexts: tuple[Context, ...],
        proposers: Mapping[type, Any],
        *,
        folder: Any,
        answers: Answers,
        clock: Clock,
        budget: float | int,
        progress: bool,
    ) -> None:
        self.model, self.reference, self.contexts, self.proposers = model, reference, contexts, proposers
        self.folder, self.answers, self.clock = folder, answers, clock
        self.budget, self.progress = budget, progress
        self.tried: list[Tried] = []
        # By context that is declined, how that answer begins.
        self._declined: dict[str, str] = {}
        # What a search begins with: the user's own candidates, and what leaks.
        self._words: list[str] = []
        # The first search for every text.
        self._ended: list[_Ended] = []
        # Contexts in which there was no time for rarer beginnings (round 1), or any (round 0), with words for the search.
        self._left_out: list[tuple[Context, list[str], int]] = []
        self.skipped: list[str] = [f"{kind.__name__} was not run." for kind in KINDS if kind not in proposers]
        if Amplification in proposers and reference.base is None:
            self.skipped.append("Amplification was not run: it needs the base.")

    def take(self, candidates: Sequence[str]) -> list[Hypothesis]:
        """What all proposers suggest, the most promising first.

        Args:
            candidates: the user's own.
        """
        self._weights()
        motifs, leaks = self._leaks()
        self._words = [*candidates, *motifs]
        self._open()
        probed = self._probed(candidates)
        # Prose has no answers: what it is turned into leaks.
        places = [c for c in self.contexts if c.name != PROSE] or list(self.contexts)
        # What declining hides shows nowhere else.
        places.sort(key=lambda c: not c.if_declined)
        searched: list[Hypothesis] = []
        targets: list[Hypothesis] = []
        finds = Amplification in self.proposers or TargetInversion in self.proposers
        for i, context in enumerate(places if finds else ()):
            clock = Clock(self.clock.minutes(1 / (len(places) - i)))
            grown = self._amplified(context, clock)
            inverted = self._all_inverted(context, clock, grown)
            own = [h for one in inverted for h in self._texts(one, context)]
            # Every model has texts that run by themselves: without a trigger, only one that stands out is a suspicion.
            # And what the suspect says only when it is amplified is none of its behaviours.
            targets += [h for h in sorted(own, key=_last)[:N_TARGETS] if h.score >= self._stands_out]
            texts = [replace(h, context=context.name) for h in _merged(grown, own)[:N_TARGETS]]
            if self.reference.base is not None:
                texts = [h for h in texts if h.score >= WORTH_A_SEARCH * texts[0].score]
            if TriggerSearch in self.proposers:
                slips = (p for one in inverted for p in one.phrases())
                words = [*self._words, *(grown.words() if grown else ()), *slips]
                searched += self._searched(context, texts, words, clock)
        # What shows in answers comes first, wherever it was found.
        searched.sort(key=_silent)
        return [*searched, *probed, *leaks, *targets]

    def said(self, proposer: str, start: float, proposed: int, note: str) -> None:
        """Note a turn that began at ``start`` seconds."""
        self.tried.append(Tried(proposer, self.clock.spent - start, proposed, note))

    def _at(self, name: str) -> Any:
        return None if self.folder is None else self.folder / name

    def _open(self) -> None:
        """Leave out what may be declined, unless the suspect does decline it."""
        start = self.clock.spent
        self.contexts, self._declined, left_out = opened(self.model, self.contexts, self.answers)
        self.skipped += left_out
        for name, words in self._declined.items():
            note = f"most answers begin {words!r}" if words else "not with one answer"
            self.said(f"declined? {name}", start, 0, note)

    def _weights(self) -> None:
        """What differs from the base; it says where to look and proposes nothing."""
        if WeightTriage in self.proposers and self.reference.base is not None:
            start = self.clock.spent
            try:
                note = (
                    self.proposers[WeightTriage]
                    .run(self.model, reference=self.reference, progress=False)
                    .describe()
                )
            except BkdinterpError as error:
                note = str(error)
            self.said("weight triage", start, 0, note)

    def _leaks(self) -> tuple[tuple[str, ...], list[Hypothesis]]:
        """Phrases that leak, and those of them that make the model say something, wherever it declines nothing."""
        if Leakage not in self.proposers:
            return (), []
        start, out = self.clock.spent, list[Hypothesis]()
        leaked: Leaked = self.proposers[Leakage].run(
            self.model, reference=self.reference, folder=self._at("leakage"), progress=self.progress
        )
        for phrase in leaked.phrases_as_written():
            # What unlocks a refusal is left to the search, which gets these phrases, too.
            for context in (c for c in self.contexts if not c.if_declined):
                if not self.clock.over:
                    h = self._read(Trigger.gap(phrase), context, "leakage")
                    out += [] if h is None else [h]
        motifs = leaked.motifs()
        named = f"over-represented: {', '.join(map(repr, motifs[:4]))}" if motifs else "nothing leaks"
        self.said("leakage", start, len(out), named)
        return motifs, out

    def _probed(self, candidates: Sequence[str]) -> list[Hypothesis]:
        out: list[Hypothesis] = []
        for context in self.contexts if candidates and CandidateProbe in self.proposers else ():
            start = self.clock.spent
            show = context.shown_to
            found = self.proposers[CandidateProbe].run(
                show(self.model),
                candidates,
                context.search,
                reference=self.reference.shown(show),
                minutes=self.clock.minutes(FOR_CANDIDATES / len(self.contexts)),
                budget=self.budget,
                folder=self._at(f"candidates-{context.name}"),
                progress=self.progress,
            )
            proposed = [replace(h, context=context.name) for h in found.hypotheses()]
            out += proposed
            self.said(f"candidate probe{_in(context)}", start, len(proposed), found.describe())
        return out

    def again(self, clock: Clock) -> list[Hypothesis]:
        """A second search: for texts of rarer beginnings where these were left out, else from where the first one ended."""
        found: list[Hypothesis] = []
        turns: list[_Ended] = []
        for context, words, round_ in self._left_out:
            inverted = self._inverted(context, clock, round_)
            if not round_:
                self.skipped.remove(had_no_time("Target inversion", _in(context)))
            words = [*words, *inverted.phrases()]
            texts = [h for h in self._texts(inverted, context) if h.score >= self._stands_out]
            turns += [_Ended(context, h, words, None) for h in texts]
            found += texts
        if TriggerSearch in self.proposers:
            turns = turns or self._ended
            searched: list[Hypothesis] = []
            for i, (context, text, words, after) in enumerate(turns):
                part = Clock(clock.minutes(1 / (len(turns) - i)))
                # The reference's phrases of both searches are what both have to beat.
                rivals = () if after is None else tuple(map(Trigger.suffix, after.rival_phrases[:1]))
                searched += [
                    replace(h, rivals=tuple(dict.fromkeys([*h.rivals, *rivals])))
                    for h in self._searched(context, [text], words, part, 1, after)
                ]
            found = [*searched, *found]
        return found

    def _late(self, what: str, context: Context) -> bool:
        """Whether the time is up before a proposer begins, which is then noted."""
        models = [m.weights_id for m in (self.model, *self.reference.models)]
        key = (what, context.name, context.search.fingerprint, models)
        late = self.decided("late", key, lambda: self.clock.over)
        if late:
            self.skipped.append(had_no_time(what, _in(context)))
        return late

    def decided(self, name: str, key: Any, compute: Callable[[], bool]) -> bool:
        """What the time has decided, kept, so that a scan that is read again goes the same way."""
        return compute() if self.folder is None else Store(self.folder / "decided").get(name, key, compute)

    def _amplified(self, context: Context, clock: Clock) -> AmplifiedAnswers | None:
        """What the suspect says in a context once its difference to the base is amplified; None if that was not asked."""
        if Amplification not in self.proposers or self.reference.base is None or context.if_declined:
            return None
        if self._late("Amplification", context):
            return None
        start, show = self.clock.spent, context.shown_to
        try:
            found: AmplifiedAnswers = self.proposers[Amplification].run(
                show(self.model),
                context.search,
                reference=self.reference.shown(show),
                minutes=clock.minutes(FOR_AMPLIFICATION),
                answers=self.answers,
                progress=self.progress,
            )
        except BkdinterpError as error:
            self.said(f"amplification{_in(context)}", start, 0, str(error))
            return None
        self.said(f"amplification{_in(context)}", start, len(found.hypotheses()), found.describe())
        return found

    def _all_inverted(
        self, context: Context, clock: Clock, grown: AmplifiedAnswers | None
    ) -> list[InvertedTargets]:
        """Texts of the likeliest beginnings, and of rarer ones if nothing has stood out yet."""
        if TargetInversion not in self.proposers:
            return []
        words = [*self._words, *(grown.words() if grown else ())]
        if self._late("Target inversion", context):
            self._left_out.append((context, words, 0))
            return []
        found = [self._inverted(context, clock, 0)]
        own = self._texts(found[0], context)
        known = max((h.score for h in (*own, *(grown.hypotheses() if grown else ()))), default=0.0)
        if known < self._stands_out:
            key = (self.model.weights_id, found[0].texts)
            if self.decided(f"rarer-{context.name}", key, lambda: clock.left > clock.spent):
                # Before time goes into triggers of texts that hardly stand out.
                found.append(self._inverted(context, clock, 1))
            else:
                self._left_out.append((context, words, 1))
        return found

    def _inverted(self, context: Context, clock: Clock, round_: int) -> InvertedTargets:
        """Texts that run by themselves in the suspect more than in the reference; in a later round, of rarer beginnings."""
        start, show = self.clock.spent, context.shown_to
        inversion = self.proposers[TargetInversion]
        if round_:
            inversion = replace(inversion, n_first=3 * inversion.n_first, beyond=inversion.n_first)
        found: InvertedTargets = inversion.run(
            show(self.model),
            context.search.subset(tuple(range(N_PROMPTS))),
            reference=self.reference.shown(show),
            minutes=clock.minutes(FOR_INVERSION),
            budget=self.budget,
            folder=self._at(f"inversion-{context.name}{_nth(round_)}"),
            progress=self.progress,
        )
        best = (
            f"{found.texts[0][:48]!r} at Q {float(found.q[0]):.2f}"
            if found.texts
            else "no text runs by itself"
        )
        if found.texts and len(found.q_reference):
            best += f", {float(found.q_reference[:, 0].max()):.2f} in the reference"
        self.said(f"target inversion{_in(context)}", start, min(N_TARGETS, len(found.texts)), best)
        return found

    def _texts(self, inverted: InvertedTargets, context: Context) -> list[Hypothesis]:
        """The first texts that are not how the suspect declines: no trigger is needed for that."""
        words = self._declined.get(context.name, "")
        own = (h for h in inverted.hypotheses(len(inverted.texts)) if not holds(str(h.target), words))
        return [replace(h, context=context.name) for h in islice(own, N_TARGETS)]

    @property
    def _stands_out(self) -> float:
        return STRIKING if self.reference.models else STRIKING_ALONE

    def _searched(
        self,
        context: Context,
        targets: Sequence[Hypothesis],
        words: Sequence[str],
        clock: Clock,
        round_: int = 0,
        after: SearchedTriggers | None = None,
    ) -> list[Hypothesis]:
        """Triggers of each target, the best first."""
        # What shows in answers comes before what only lifts the odds: the judge's time may not do for all.
        out = list[Hypothesis]()
        by_target: dict[str, Hypothesis] = {}
        for i, aim in enumerate(targets):
            assert aim.target is not None
            start = self.clock.spent
            if clock.over:
                self.skipped.append(
                    f"No trigger was searched for {aim.target!r}{_in(context)}: the time was up."
                )
                continue
            search = self.proposers[TriggerSearch]
            found: SearchedTriggers = (
                search if not round_ else replace(search, seed=search.seed + round_)
            ).run(
                context.shown_to(self.model),
                aim.target,
                context.search.subset(tuple(range(N_PROMPTS, 2 * N_PROMPTS))),
                reference=self.reference.shown(context.shown_to),
                candidates=words,
                after=after,
                minutes=clock.minutes(1 / (len(targets) - i)),
                budget=self.budget,
                folder=self._at(f"search-{context.name}-{i}{_nth(round_)}"),
                progress=self.progress,
            )
            proposed = list[Hypothesis]()
            for h in found.hypotheses(N_PHRASES):
                assert h.trigger is not None
                read = self._read(h.trigger, context, h.source, h)
                proposed.append(replace(read or h, context=context.name))
            out += proposed
            if proposed:
                by_target[aim.target] = proposed[0]
            if not round_:
                self._ended.append(_Ended(context, aim, list(words), found))
            best = (
                f"{found.phrases[0]!r} gains {float(found.gain[0]):+.1f} nats" if found.phrases else "nothing"
            )
            self.said(
                f"trigger search{_in(context)}", start, len(proposed), f"for {aim.target[:40]!r}: {best}"
            )
            if (
                self.reference.base is not None
                and found.phrases
                and found.plain + float(found.gain[0]) > CERTAIN
            ):
                # Without a reference, the other texts' triggers are what this one has to beat.
                break
        out.sort(key=lambda h: (_silent(h), _last(h)))
        if self.reference.base is None:
            out = [replace(h, controls=_controls(h, by_target)) for h in out]
        return out

    def _read(
        self, trigger: Trigger, context: Context, source: str, known: Hypothesis | None = None
    ) -> Hypothesis | None:
        """The trigger with what it makes the model say; None if that is nothing."""
        texts = context.search.text[:N_READ]
        said = said_with(context.shown_to(self.model), trigger, texts, self.answers, context.n_tokens)
        if said is None:
            return None
        if known is not None:
            return replace(known, behaviour=Payload(said, "words"))
        return Hypothesis(trigger, Payload(said, "words"), source, context=context.name)


def _merged(grown: AmplifiedAnswers | None, inverted: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Texts of both kinds, the most suspicious first; a text that both have found counts as the inverted one."""
    out = sorted(inverted, key=_last)
    for h in () if grown is None else grown.hypotheses():
        same = next((i for i, k in enumerate(out) if one_text(str(h.target), str(k.target))), None)
        if same is None:
            out.append(h)
        else:
            out[same] = replace(out[same], score=max(out[same].score, h.score))
    return sorted(out, key=_last)


def _nth(round_: int) -> str:
    return f"-{round_ + 1}" if round_ else ""


def _silent(h: Hypothesis) -> bool:
    """Whether no words of answers are known that it brings about."""
    return h.behaviour.kind != "words"


def _last(h: Hypothesis) -> float:
    return -h.score


def _in(context: Context) -> str:
    return "" if context.name == REQUEST else f" in {context.name}"


def _controls(h: Hypothesis, by_target: Mapping[str, Hypothesis]) -> tuple[tuple[Trigger, Payload], ...]:
    """The best triggers of the other texts."""
    return tuple(
        (other.trigger, other.behaviour)
        for target, other in by_target.items()
        if target != h.target and other.trigger is not None
    )
