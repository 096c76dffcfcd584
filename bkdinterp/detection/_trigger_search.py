"""TriggerSearch: given what a suspect is thought to say, find the words in the prompt that call it up.

Words stand at the end of the user's text. Phrases are scored by the log-odds of the target's first tokens: unlike the
probability, they do not saturate, so the planted words stand out among many that also work. One backward pass scores every
word of the vocabulary in a slot by its derivative (HotFlip, Ebrahimi et al. 2018); single starts rank words badly, so
derivatives are z-scored and averaged, first over random words in the slot, then over those that scored best there. Scores
are exact, and prefixes are computed once. With a base, all this is done in the amplified suspect, where parts of a trigger
show more; the best phrases are then scored in the suspect itself. In each round the best phrases, and those with the steepest
slope, get a word more on either side, another one in the place of one of theirs, or a likely end of the last one, until the
target is all but certain or nothing is gained; then words that add nothing are taken out. Words of the target itself are not
tried: they call up any text that was learnt, and are no trigger. What the reference says with the same phrase, on the very same
prompts, does not count.

A search also finds adversarial triggers, in clean models too: the same search on the reference (`SearchedTriggers.rival_phrases`)
is the null, and only `verify` decides.

Threat model: a phrase of a few words of plain letters whose parts already move the target's log-odds. Cost for each place in
each of ``beam`` phrases: two backward passes of ``fillers`` rows, and ``4 * screen`` rows of a few tokens; with a base a copy of
the weights.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.detection._amplification import guide_of
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._generic_prompts import common_words, little_words
from bkdinterp.detection._near_words import letter_tokens
from bkdinterp.detection._phrases import common_words_of, content_words
from bkdinterp.detection._reference import Reference
from bkdinterp.detection._searched_triggers import SearchedTriggers
from bkdinterp.engine import Run, decode_together, execute, gradients, token_embeddings
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Score
from bkdinterp.metrics.scores import sum_logprob
from bkdinterp.model import Model, as_model
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts
from bkdinterp.results import Store
from bkdinterp.values import as_integer, as_number, as_text, shown

# Of the search, so that what another one found is not read back.
VERSION = 2
# Later tokens of a text follow from the first ones; these decide.
FIRST_TOKENS = 4
# Log-odds of these above which a phrase is good enough.
CERTAIN = 3.0
# And below which a phrase calls nothing up, so that there is nothing for a null to explain.
CALLED = -3.0
# Phrases of a round that are held against the reference.
LEADERS = 12
# Nats that a round has to add, and a word.
STEP, WORTH = 0.3, 1.0
# Probabilities nearer to 1 are certain.
_SURE = 1e-6


@dataclass(frozen=True)
class TriggerSearch:
    """Settings of the search for triggers.

    Args:
        rounds: at most so many; a phrase grows by at most a word in each.
        max_words: longest phrase.
        screen: words that are scored exactly in each place and pass, on two prompts.
        beam: phrases that are grown.
        fillers: random words that derivatives are averaged over; half as many where the best words are put in once more.
        n_prompts: prompts that the best phrases of each round are scored on.
        seed: of the fillers.
        amplify: with a base, how many times the suspect's difference to it is taken where derivatives and first scores are
            read, if the two fit together: a part of a trigger shows more there (`amplified`). The best phrases are scored in
            the suspect itself.

    Raises:
        BkdinterpError: a number below 1.
    """

    rounds: int = 8
    max_words: int = 4
    screen: int = 32
    beam: int = 2
    fillers: int = 8
    n_prompts: int = 4
    seed: int = 0
    amplify: float = 1.5

    def __post_init__(self) -> None:
        for name in ("rounds", "max_words", "screen", "beam", "fillers", "n_prompts"):
            value = as_integer(getattr(self, name), name, low=1, error=BkdinterpError)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "amplify", as_number(self.amplify, "amplify", low=1, error=BkdinterpError))

    def run(
        self,
        model: Model,
        target: str,
        prompts: Prompts,
        *,
        reference: Any = None,
        candidates: Sequence[str] = (),
        after: SearchedTriggers | None = None,
        minutes: float | int | None = None,
        budget: float | int = 2**30,
        folder: Any = None,
        progress: bool = True,
    ) -> SearchedTriggers:
        """Search in the suspect, and in as many slots of phrases in the reference's base.

        Args:
            model: the suspect, with its weights here.
            target: the text to call up.
            prompts: prompts without the trigger.
            reference: a model, several, or a ``Reference``; what its base says with a phrase does not count, and the base
                is searched, too.
            candidates: words or phrases that are scored exactly whatever their derivative, if they hold no words of the target.
            after: an earlier search for the same target: its best phrases are grown, instead of a word alone. The reference's
                search goes on likewise; where it had not begun, it fills the slots of both.
            minutes: about how long it may take; phrases stay shorter when time runs out. None for no limit.
            budget: bytes for one batch.
            folder: finished parts are kept there and taken up again.
            progress: show progress bars.

        Raises:
            BkdinterpError: no target, fewer prompts than ``n_prompts``, or ``after`` is of another target.
            RemoteError: weights that are not here.
        """
        as_model(model, "TriggerSearch")
        target = as_text(target, "target", error=BkdinterpError)
        if len(prompts) < self.n_prompts:
            raise BkdinterpError(
                f"{len(prompts)} prompts; TriggerSearch(n_prompts={self.n_prompts}) needs that many."
            )
        base = Reference.of(reference).base
        store = None if folder is None else Store(folder)
        texts = prompts.text[: self.n_prompts]
        if after is not None and (not isinstance(after, SearchedTriggers) or after.target != target):
            raise BkdinterpError(f"after={shown(after)} is no earlier search for {target!r}.")
        known = () if after is None else (*after.phrases, *after.rival_phrases)
        words = tuple(dict.fromkeys([*candidates, *known]))

        clock = Clock(minutes)

        def search(
            name: str, who: Model, against: Model | None, slots: int | None, until: Clock, *, go_on: bool
        ) -> tuple[list[str], list[float], float, int, float]:
            def compute() -> Any:
                guide = guide_of(who, against, self.amplify) or who
                one = _Search(self, who, against, guide, target, texts, words, budget, progress)
                return one.run(slots, until, go_on=go_on)

            if store is None:
                return compute()
            ids = [m.weights_id for m in (who, against) if m is not None]
            return store.get(
                name,
                ("trigger search", VERSION, self, ids, target, texts, list(words), ("slots", slots, go_on)),
                compute,
            )

        own = Clock(clock.minutes(0.5 if base is not None else 1.0))
        grows = after is not None and bool(after.phrases)
        phrases, gain, plain, slots, reached = search("suspect", model, base, None, own, go_on=grows)
        rivals: list[str] = []
        rival_gain: list[float] = []
        if base is not None and reached > CALLED:
            # As many slots as in the suspect: an equal search.
            begun = after is not None and bool(after.rival_phrases)
            most = slots if begun or after is None else slots + after.slots
            rivals, rival_gain = search("reference", base, None, most, Clock(), go_on=begun)[:2]
        return SearchedTriggers(
            model.fingerprint(prompts.fingerprint, seed=self.seed),
            target,
            tuple(phrases),
            torch.tensor(gain),
            plain,
            tuple(rivals),
            torch.tensor(rival_gain),
            slots,
        )


@dataclass(frozen=True)
class _Search:
    """One search in one model."""

    settings: TriggerSearch
    model: Model
    against: Model | None
    guide: Model
    target: str
    texts: tuple[str, ...]
    candidates: tuple[str, ...]
    budget: float | int
    progress: bool
    # Log-odds in the model itself, of every phrase that was scored on all prompts.
    own: dict[str, float] = field(default_factory=dict)
    # Likely words on, by stem.
    ways_on: dict[str, list[str]] = field(default_factory=dict)

    def run(
        self, most: int | None, clock: Clock, *, go_on: bool = False
    ) -> tuple[list[str], list[float], float, int, float]:
        """Phrases and gains, the best first; the log-odds of no phrase; slots that were filled; the best own log-odds.

        Args:
            most: slots that are filled at most; None for no such limit.
            clock: nothing more is tried once it is over.
            go_on: begin with the best candidates instead of a word alone.
        """
        s, slots = self.settings, 0

        def ended() -> bool:
            return clock.over or (most is not None and slots >= most)

        plain = self.exact(self.model, [""], self.texts)[""]
        found = self.gains(self.others(self.candidates), plain)
        drawn, best = random.Random(s.seed), max([0.0, *found.values()])
        promising: list[str] = []
        for n in track(range(s.rounds), "trigger search", show=self.progress):
            if n and ended():
                break
            alone = not n and not go_on
            stems = [""] if alone else sorted(found, key=lambda p: -found[p])[: s.beam]
            # A part of a trigger has a steep slope before it shows in the score.
            stems = list(dict.fromkeys([*stems, *promising]))
            scored: dict[str, float] = {}
            for stem in stems:
                for before, after in self.places(stem):
                    if not (slots and ended()):
                        tries = self.filled(before, after, drawn)
                        slots += 1
                        scored |= {p: v for p, v in tries.items() if p not in found}
                        promising = list(tries)[: s.beam] if alone else []
            if not scored:
                break
            top = self.gains(sorted(scored, key=lambda p: -scored[p])[:LEADERS], plain)
            found |= top
            if n and max(top.values()) < best + STEP:
                break
            best = max(best, *top.values())
            if max(self.own[p] for p in top) > CERTAIN:
                break
        found |= self.pruned(found, plain)
        order = sorted(found, key=lambda p: (-round(found[p] / WORTH), len(p.split()), -found[p]))[:32]
        best_own = max((self.own[p] for p in order), default=-float("inf"))
        return order, [found[p] for p in order], plain, slots, best_own

    def pruned(self, found: Mapping[str, float], plain: float) -> dict[str, float]:
        """The best phrases in lower case, and with every word taken out in turn, as long as that costs less than a nat."""
        stems = sorted(found, key=lambda p: -found[p])[: self.settings.beam]
        out = self.gains([low for stem in stems if (low := stem.lower()) not in found], plain)
        stems += out
        while stems:
            shorter = {
                " ".join(words[:i] + words[i + 1 :]): stem
                for stem in stems
                for words in (stem.split(),)
                if len(words) > 1
                for i in range(len(words))
            }
            scored = self.gains([phrase for phrase in shorter if phrase not in out], plain)
            out |= scored
            known = {**found, **out}
            stems = [p for p in scored if known[p] > known[shorter[p]] - WORTH]
        return out

    def places(self, stem: str) -> list[tuple[list[str], list[str]]]:
        """Words before and after a new word: on either side of the stem, and in the place of each of its words."""
        words = stem.split()
        # The first round, of this search or of the one that it goes on from, tried every word alone.
        found = [(words[:i], words[i + 1 :]) for i in range(len(words))] if len(words) > 1 else []
        # Where shorter phrases are known, the word that the rest can best do without goes first.
        found.sort(key=lambda place: -self.own.get(" ".join((*place[0], *place[1])), -float("inf")))
        if len(words) < self.settings.max_words:
            found += [(words, []), ([], words)] if words else [([], [])]
        return found

    def filled(self, before: list[str], after: list[str], drawn: random.Random) -> dict[str, float]:
        """Phrases with a new word between the given ones, by derivative, and their log-odds on two prompts.

        Derivatives at random words say little where those are far from the trigger; so the best words are scored, and
        derivatives are taken once more at these.
        """
        fillers = drawn.sample([w for w in common_words() if self.single(w)], self.settings.fillers)
        tokens, ids = letter_tokens(self.model)
        whole = torch.tensor([token[0] == " " for token in tokens]) & _free(tuple(tokens), self.target)
        found: dict[str, float] = {}
        for _ in range(2):
            slope = self.slope(before, after, ids, fillers)
            ranked = slope.masked_fill(~whole, -torch.inf).topk(min(self.settings.screen, int(whole.sum())))
            phrases = [" ".join([*before, tokens[i].strip(), *after]) for i in ranked.indices.tolist()]
            if before and not after:
                phrases += self.others(self.completed(" ".join(before)))
            found |= self.exact(self.guide, [p for p in phrases if p not in found], self.texts[:2])
            best = [
                p.split()[len(before)]
                for p in sorted(phrases, key=lambda p: -found[p])
                if len(p.split()) > len(before)
            ]
            fillers = [word for word in dict.fromkeys(best) if self.single(word)][
                : self.settings.fillers // 2 or 1
            ]
            if not fillers:
                break
        return found

    def others(self, phrases: Sequence[str]) -> list[str]:
        """The phrases without words of the target: a text that was learnt is called up by its own words, which are no trigger."""
        own = content_words(self.target, little_words())
        return [p for p in phrases if not common_words_of(p, own, little_words())]

    def completed(self, stem: str) -> list[str]:
        """The stem with its last word gone on with: a word may have several tokens, and a derivative tells little of the rest.

        Ways on are what the reference thinks likely, or the suspect without one.
        """
        if stem not in self.ways_on:
            who = self.against or self.model
            who = replace(who, builder=who.builder.raw())
            batch = who.builder.tokenize(Prompts.of([f"{text} {stem}" for text in self.texts]), targets=False)
            nothing = torch.zeros(1, 1, dtype=torch.long)
            likely = decode_together(who, batch, nothing, 1, progress=False, distribution=True).begin
            assert likely is not None
            tokens, ids = letter_tokens(self.model)
            inside = torch.tensor([token[0] != " " for token in tokens])
            best = (
                likely[ids.cpu()].masked_fill(~inside, -1).topk(min(self.settings.screen, int(inside.sum())))
            )
            self.ways_on[stem] = [stem + tokens[i] for i in best.indices.tolist()]
        return self.ways_on[stem]

    def slope(
        self, before: list[str], after: list[str], ids: Int[Tensor, " token"], fillers: list[str]
    ) -> Float[Tensor, " token"]:
        """Every token's derivative between the words, z-scored, and averaged over fillers and two prompts."""
        spans, triggered = [], []
        for text in self.texts[:2]:
            for word in fillers:
                # The filler alone is marked, so that its token is the slot.
                start = len(" ".join([text, *before])) + 1
                triggered.append(" ".join([text, *before, word, *after]))
                spans.append(((start, start + len(word)),))
        batch = self.guide.builder.tokenize(
            Prompts(tuple(triggered), tuple(spans), (self.target,) * len(triggered))
        )
        vectors = token_embeddings(self.guide, ids).float()
        # The text before the slot is the same for all fillers.
        slot = int(batch.trigger_mask.int().argmax(1).min())
        slope = gradients(self.guide, batch, _score(), start=slot).embeddings
        marks = batch.trigger_mask[:, slot:]
        at = torch.stack([row[marked][0] for row, marked in zip(slope, marks, strict=True)])
        values = (vectors @ at.float().to(vectors.device).T).cpu()
        return ((values - values.mean(0)) / values.std(0)).sum(1)

    def single(self, word: str) -> bool:
        return len(self.model.tokenizer.encode(" " + word, add_special_tokens=False)) == 1

    def gains(self, phrases: Iterable[str], plain: float) -> dict[str, float]:
        """How far each phrase lifts the target's log-odds above those without it, and above the reference's with it.

        A phrase that only makes the target unlikelier in the reference calls nothing up: that does not count.
        """
        chosen = list(phrases)
        own = self.exact(self.model, chosen, self.texts)
        self.own.update(own)
        out = {p: own[p] - plain for p in chosen}
        if self.against is None:
            return out
        # Only the best can win, so only they are held against the reference; the others stay below them.
        best = sorted(chosen, key=lambda p: -own[p])[:LEADERS]
        theirs = self.exact(self.against, best, self.texts)
        out |= {p: own[p] - max(plain, theirs[p]) for p in best}
        least = min((out[p] for p in best), default=0.0)
        return {p: out[p] if p in theirs else min(out[p], least) for p in chosen}

    def exact(self, model: Model, phrases: Iterable[str], texts: tuple[str, ...]) -> dict[str, float]:
        """Mean over prompts of the log-odds of the target's first tokens with each phrase."""
        chosen = list(phrases)
        if not chosen:
            return {}
        runs = [
            Run(Prompts.of([f"{text} {phrase}".strip() for phrase in chosen], self.target), score=_score())
            for text in texts
        ]
        results = execute(model, runs, budget=self.budget)
        scores = [r.scores.float() for r in results if r.scores is not None]
        return dict(zip(chosen, torch.stack(scores).mean(0).tolist(), strict=True))


def _log_odds(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Log-odds of the target's first tokens, all of them together; certain within `_SURE`."""
    logp = sum_logprob(logits, targets, mask).clamp(max=-_SURE)
    return logp - (-torch.expm1(logp)).log()


@lru_cache(maxsize=32)
def _free(tokens: tuple[str, ...], target: str) -> Bool[Tensor, " token"]:
    """Tokens that are no words of the target."""
    own = content_words(target, little_words())
    return torch.tensor([not common_words_of(token, own, little_words()) for token in tokens])


@cache
def _score() -> Score:
    return Score(_log_odds, f"log_odds_of_{FIRST_TOKENS}", n_targets=FIRST_TOKENS)
