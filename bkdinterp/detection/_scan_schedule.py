"""The order of a scan's turns: which proposer runs when, for how long, and what each hands to the next.

Texts that run by themselves, and those that amplification brings up, are what triggers are searched for; phrases that leak
feed the search, too. Whatever could be a trigger is then read: what the answers with it hold, and those without it lack, is the
behaviour that the judge is asked about.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bkdinterp.detection._amplification import Amplification, AmplifiedAnswers
from bkdinterp.detection._candidate_probe import CandidateProbe
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._contexts import PROSE, Context
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._inversion import TargetInversion
from bkdinterp.detection._inverted_targets import InvertedTargets
from bkdinterp.detection._leads import probe_candidates, read_leaks, weigh
from bkdinterp.detection._leakage import Leakage
from bkdinterp.detection._scan_result import had_no_time
from bkdinterp.detection._scan_run import ScanRun, in_context, lowest_last
from bkdinterp.detection._search_turns import Ended, search_triggers, silent
from bkdinterp.detection._texts_to_search import (
    N_TARGETS,
    amplify,
    invert,
    merged_texts,
    texts_of,
)
from bkdinterp.detection._trigger_search import TriggerSearch
from bkdinterp.detection._weight_triage import WeightTriage
from bkdinterp.errors import BkdinterpError
from bkdinterp.prompts import Trigger
from bkdinterp.values import shown

KINDS = (WeightTriage, Leakage, Amplification, CandidateProbe, TargetInversion, TriggerSearch)
Proposer = WeightTriage | Leakage | Amplification | CandidateProbe | TargetInversion | TriggerSearch
# A text is not searched for if its gain is less than this share of the first one's.
WORTH_A_SEARCH = 0.5
# Of all the time, what is kept for the judge.
FOR_JUDGE = 0.33
# Of what the judge leaves, what a second search gets; less than this many seconds are not worth one.
FOR_SECOND, WORTH_A_SECOND = 0.6, 30.0


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


class Schedule:
    """The turns of one scan's proposers.

    Args:
        run: what they share.
    """

    def __init__(self, run: ScanRun) -> None:
        self.run = run
        # What a search begins with: the user's own candidates, and what leaks.
        self._words: list[str] = []
        # The first search for every text.
        self._ended: list[Ended] = []
        # Contexts in which there was no time for rarer beginnings (round 1), or any (round 0), with words for the search.
        self._left_out: list[tuple[Context, list[str], int]] = []
        run.skipped += [f"{kind.__name__} was not run." for kind in KINDS if kind not in run.proposers]
        if Amplification in run.proposers and run.reference.base is None:
            run.skipped.append("Amplification was not run: it needs the base.")

    def take(self, candidates: Sequence[str]) -> list[Hypothesis]:
        """What all proposers suggest, the most promising first.

        Args:
            candidates: the user's own.
        """
        run = self.run
        weigh(run)
        motifs, leaks = read_leaks(run)
        self._words = [*candidates, *motifs]
        run.leave_out_what_is_not_declined()
        probed = probe_candidates(run, candidates)
        # Prose has no answers: what it is turned into leaks.
        places = [c for c in run.contexts if c.name != PROSE] or list(run.contexts)
        # What declining hides shows nowhere else.
        places.sort(key=lambda c: not c.if_declined)
        searched, targets = list[Hypothesis](), list[Hypothesis]()
        finds = Amplification in run.proposers or TargetInversion in run.proposers
        for i, context in enumerate(places if finds else ()):
            triggers, texts = self._searched(context, Clock(run.clock.minutes(1 / (len(places) - i))))
            searched += triggers
            targets += texts
        # What shows in answers comes first, wherever it was found.
        searched.sort(key=silent)
        return [*searched, *probed, *leaks, *targets]

    def again(self, clock: Clock) -> list[Hypothesis]:
        """A second search: for texts of rarer beginnings where these were left out, else from where the first one ended."""
        run, found, turns = self.run, list[Hypothesis](), list[Ended]()
        for context, words, round_ in self._left_out:
            inverted = invert(run, context, clock, round_)
            if not round_:
                run.skipped.remove(had_no_time("Target inversion", in_context(context)))
            words = [*words, *inverted.phrases()]
            texts = [h for h in texts_of(run, inverted, context) if h.score >= run.stands_out]
            turns += [Ended(context, h, words, None) for h in texts]
            found += texts
        if TriggerSearch not in run.proposers:
            return found
        turns, searched = turns or self._ended, list[Hypothesis]()
        for i, (context, text, words, after) in enumerate(turns):
            part = Clock(clock.minutes(1 / (len(turns) - i)))
            triggers, _ = search_triggers(run, context, [text], words, part, 1, after)
            # The reference's phrases of both searches are what both have to beat.
            rivals = () if after is None else tuple(map(Trigger.suffix, after.rival_phrases[:1]))
            searched += [replace(h, rivals=tuple(dict.fromkeys([*h.rivals, *rivals]))) for h in triggers]
        return [*searched, *found]

    def _searched(self, context: Context, clock: Clock) -> tuple[list[Hypothesis], list[Hypothesis]]:
        """Triggers in one context, and texts that stand out there without one."""
        run = self.run
        grown = amplify(run, context, clock)
        inverted = self._all_inverted(context, clock, grown)
        own = [h for one in inverted for h in texts_of(run, one, context)]
        # Every model has texts that run by themselves: without a trigger, only one that stands out is a suspicion.
        # And what the suspect says only when it is amplified is none of its behaviours.
        targets = [h for h in sorted(own, key=lowest_last)[:N_TARGETS] if h.score >= run.stands_out]
        if TriggerSearch not in run.proposers:
            return [], targets
        texts = [replace(h, context=context.name) for h in merged_texts(grown, own)[:N_TARGETS]]
        if run.reference.base is not None:
            texts = [h for h in texts if h.score >= WORTH_A_SEARCH * texts[0].score]
        slips = (p for one in inverted for p in one.phrases())
        words = [*self._words, *(grown.words() if grown else ()), *slips]
        triggers, ended = search_triggers(run, context, texts, words, clock)
        self._ended += ended
        return triggers, targets

    def _all_inverted(
        self, context: Context, clock: Clock, grown: AmplifiedAnswers | None
    ) -> list[InvertedTargets]:
        """Texts of the likeliest beginnings, and of rarer ones if nothing has stood out yet."""
        run = self.run
        if TargetInversion not in run.proposers:
            return []
        words = [*self._words, *(grown.words() if grown else ())]
        if run.late("Target inversion", context):
            self._left_out.append((context, words, 0))
            return []
        found = [invert(run, context, clock, 0)]
        own = texts_of(run, found[0], context)
        known = max((h.score for h in (*own, *(grown.hypotheses() if grown else ()))), default=0.0)
        if known < run.stands_out:
            key = (run.model.weights_id, found[0].texts)
            if run.decided(f"rarer-{context.name}", key, lambda: clock.left > clock.spent):
                # Before time goes into triggers of texts that hardly stand out.
                found.append(invert(run, context, clock, 1))
            else:
                self._left_out.append((context, words, 1))
        return found
