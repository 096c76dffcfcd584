"""TriggerSearch: given what a suspect is thought to say, find the words in the prompt that call it up.

Words are added to the end of the user's text. One backward pass scores every word of the vocabulary in a slot by the
derivative of the target's log-odds (HotFlip, Ebrahimi et al. 2018); single starts rank words badly, so scores are z-scored
and averaged over random fillers and prompts. The best are scored exactly, prefixes computed once, and the beam grows by one
word at either side until that gains no more than a random word would. The target's score in the reference, on the very same
prompts, is subtracted.

A search also finds adversarial triggers, in clean models too: the same search on the reference (`SearchedTriggers.rivals`)
is the null, and only `verify` decides.

Threat model: a phrase of a few words whose parts already move the target's log-odds. Cost: per slot about
``2 * fillers`` backward passes of a few rows, and ``screen + 2 * beam * screen`` rows of a few tokens on ``n_prompts`` prompts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.detection._clock import Clock
from bkdinterp.detection._generic_prompts import common_words
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._reference import Reference
from bkdinterp.engine import Run, execute, gradients, token_embeddings
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload, Score
from bkdinterp.metrics.scores import sum_logprob
from bkdinterp.model import Model, as_model
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts, Trigger
from bkdinterp.results import Result, Store
from bkdinterp.values import as_integer, as_text

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Later tokens of a text follow from the first ones; these decide.
FIRST_TOKENS = 4


@dataclass(frozen=True, eq=False)
class SearchedTriggers(Result):
    """Phrases that call a target up, the best first, and what the same search found in the reference.

    Attributes:
        target: the text that was aimed at.
        phrases: what was added to the prompts.
        gain: log-probability of the target's first tokens with the phrase, minus the reference's on the same prompts (or
            the suspect's own without the phrase, if there is no reference), nats, mean over prompts.
        plain: the same without any phrase.
        rival_phrases: the phrases that the equal search found in the reference, for the same target.
        rival_gain: log-probability of the target's first tokens in the reference with these, minus without any, nats.
    """

    target: str
    phrases: tuple[str, ...]
    gain: Float[Tensor, " phrase"]
    plain: float
    rival_phrases: tuple[str, ...]
    rival_gain: Float[Tensor, " rival"]

    def hypotheses(self, n: int = 3) -> tuple[Hypothesis, ...]:
        """The best phrases as triggers at the end of the text."""
        rivals = tuple(Trigger.suffix(phrase) for phrase in self.rival_phrases[:1])
        return tuple(
            Hypothesis(
                Trigger.suffix(phrase),
                Payload(self.target),
                "trigger search",
                self.target,
                float(gain),
                rivals,
            )
            for phrase, gain in zip(self.phrases[:n], self.gain[:n].tolist(), strict=True)
        )

    def to_frame(self) -> "pandas.DataFrame":
        """One row per phrase; those of the reference's search are marked."""
        import pandas as pd

        return pd.DataFrame(
            {
                "phrase": [*self.phrases, *self.rival_phrases],
                "gain": [*self.gain.tolist(), *self.rival_gain.tolist()],
                "searched_in": ["suspect"] * len(self.phrases) + ["reference"] * len(self.rival_phrases),
            }
        )

    def plot(
        self, *, ax: Any = None, title: str | None = None, limit: int = 12
    ) -> "matplotlib.figure.Figure":
        """Gain of each phrase, and the best gain that the equal search reached in the reference."""
        from bkdinterp.plotting import dots

        return dots(
            list(self.phrases[:limit]),
            {"suspect": self.gain[:limit].tolist()},
            marks={"no phrase": self.plain}
            | ({"best of the reference's own": float(self.rival_gain.max())} if len(self.rival_gain) else {}),
            xlabel="gain of the target's log-probability (nats)",
            title=title or f"What calls up {self.target[:40]!r}\n{self.fingerprint.label}",
            ax=ax,
        )


@dataclass(frozen=True)
class TriggerSearch:
    """Settings of the search for triggers.

    Args:
        max_words: longest phrase.
        screen: words of each gradient ranking that are scored exactly.
        beam: phrases that are grown.
        fillers: random phrases that a gradient ranking is averaged over.
        n_prompts: prompts that phrases are scored on.
        seed: of the fillers.

    Raises:
        BkdinterpError: a number below 1.
    """

    max_words: int = 3
    screen: int = 64
    beam: int = 4
    fillers: int = 8
    n_prompts: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_words", "screen", "beam", "fillers", "n_prompts"):
            value = as_integer(getattr(self, name), name, low=1, error=BkdinterpError)
            object.__setattr__(self, name, value)

    def run(
        self,
        model: Model,
        target: str,
        prompts: Prompts,
        *,
        reference: Any = None,
        candidates: Sequence[str] = (),
        minutes: float | None = None,
        budget: float = 2**30,
        folder: Any = None,
        progress: bool = True,
    ) -> SearchedTriggers:
        """Search in the suspect, and for as long in the reference's base.

        Args:
            model: the suspect, with its weights here.
            target: the text to call up.
            prompts: prompts without the trigger.
            reference: a model, several, or a ``Reference``; its base is subtracted and searched, too.
            candidates: words or phrases that are scored exactly whatever their derivative.
            minutes: about how long it may take; phrases stay shorter when time runs out. None for no limit.
            budget: bytes for one batch.
            folder: finished parts are kept there and taken up again.
            progress: show progress bars.

        Raises:
            BkdinterpError: no target, or fewer prompts than ``n_prompts``.
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

        clock = Clock(minutes)

        def search(
            name: str, who: Model, against: Model | None, words: int, until: Clock
        ) -> tuple[list[str], list[float], float, int]:
            def compute() -> Any:
                one = _Search(self, who, against, target, texts, tuple(candidates), budget, progress)
                return one.run(words, until)

            if store is None:
                return compute()
            ids = [m.weights_id for m in (who, against) if m is not None]
            return store.get(
                name, ("trigger search", self, ids, target, texts, list(candidates), words), compute
            )

        own = Clock(clock.minutes(0.6 if base is not None else 1.0))
        phrases, gain, plain, words = search("suspect", model, base, self.max_words, own)
        rivals: list[str] = []
        rival_gain: list[float] = []
        if base is not None:
            # As many words as in the suspect: an equal search.
            rivals, rival_gain = search("reference", base, None, words, Clock())[:2]
        return SearchedTriggers(
            model.fingerprint(prompts.fingerprint, seed=self.seed),
            target,
            tuple(phrases),
            torch.tensor(gain),
            plain,
            tuple(rivals),
            torch.tensor(rival_gain),
        )


@dataclass(frozen=True)
class _Search:
    """One search in one model."""

    settings: TriggerSearch
    model: Model
    against: Model | None
    target: str
    texts: tuple[str, ...]
    candidates: tuple[str, ...]
    budget: float
    progress: bool

    def run(self, words: int, clock: Clock) -> tuple[list[str], list[float], float, int]:
        """Phrases and gains, the best first; the gain of no phrase; and how many words were tried."""
        s = self.settings
        # Without another model, the suspect's own score without a phrase is what is subtracted.
        plain = self.exact([""])[""]
        zero = plain if self.against is None else 0.0
        found: dict[str, float] = {c: v - zero for c, v in self.exact(list(self.candidates)).items()}
        drawn = random.Random(s.seed)
        best = plain - zero
        tried_words = 0
        for n in track(range(words), "trigger search", show=self.progress):
            if n and clock.over:
                break
            tried_words = n + 1
            stems = sorted(found, key=lambda p: -found[p])[: s.beam] if n else [""]
            tried = dict.fromkeys(
                phrase for stem in stems for phrase in self.grown(stem, drawn) if phrase not in found
            )
            scored = {phrase: value - zero for phrase, value in self.exact(list(tried)).items()}
            found |= scored
            top = max(scored.values(), default=-torch.inf)
            # Random words, as many as were chosen, say what one more word gains by chance.
            chance = self.exact(
                [
                    f"{stem} {word}".strip()
                    for stem in stems
                    for word in drawn.sample(common_words(), s.screen // 2)
                ]
            )
            if top - max(best, max(chance.values()) - zero) <= 0:
                break
            best = max(best, top)
        order = sorted(found, key=lambda p: -found[p])[:32]
        return order, [found[p] for p in order], plain - zero, tried_words

    def grown(self, stem: str, drawn: random.Random) -> list[str]:
        """The stem with one more word on either side, the most promising ones by derivative."""
        words, ids = _words(self.model)
        sides = ("right",) if not stem else ("right", "left")
        out = []
        for side in sides:
            score = self.ranking(stem, side, ids, drawn)
            for i in score.topk(min(self.settings.screen, len(words))).indices.tolist():
                out.append(f"{stem} {words[i]}".strip() if side == "right" else f"{words[i]} {stem}")
        return out

    def ranking(
        self, stem: str, side: str, ids: Int[Tensor, " word"], drawn: random.Random
    ) -> Float[Tensor, " word"]:
        """Every word's derivative in the slot, z-scored, and averaged over fillers and prompts."""
        total = torch.zeros(len(ids))
        vectors = token_embeddings(self.model, ids).float()
        fillers = drawn.sample([w for w in common_words() if self.single(w)], self.settings.fillers)
        texts = self.texts[:2]
        for word in fillers:
            # The filler alone is marked, so that its token is the slot.
            spans, triggered = [], []
            for text in texts:
                phrase = f"{stem} {word}".strip() if side == "right" else f"{word} {stem}".strip()
                whole = f"{text} {phrase}"
                start = len(text) + 1 + (len(phrase) - len(word) if side == "right" else 0)
                triggered.append(whole)
                spans.append(((start, start + len(word)),))
            batch = self.model.builder.tokenize(
                Prompts(tuple(triggered), tuple(spans), (self.target,) * len(texts))
            )
            for model, sign in ((self.model, 1.0), (self.against, -1.0)):
                if model is None:
                    continue
                slope = gradients(model, batch, _score()).embeddings
                for row, marked in zip(slope, batch.trigger_mask, strict=True):
                    values = vectors @ row[marked][:1].sum(0).float().to(vectors.device)
                    total += sign * ((values - values.mean()) / values.std()).cpu()
        return total

    def single(self, word: str) -> bool:
        return len(self.model.tokenizer.encode(" " + word, add_special_tokens=False)) == 1

    def exact(self, phrases: list[str]) -> dict[str, float]:
        """Mean over prompts of the target's first tokens' log-probability with each phrase, minus the reference's."""
        if not phrases:
            return {}
        runs = [
            Run(
                Prompts.of([f"{text} {phrase}".strip() for phrase in phrases], target=self.target),
                score=_score(),
            )
            for text in self.texts
        ]
        total = torch.zeros(len(phrases))
        for model, sign in ((self.model, 1.0), (self.against, -1.0)):
            if model is not None:
                results = execute(model, runs, budget=self.budget)
                total += sign * torch.stack([r.scores.float() for r in results if r.scores is not None]).mean(
                    0
                )
        return dict(zip(phrases, total.tolist(), strict=True))


@cache
def _score() -> Score:
    return Score(sum_logprob, f"logprob_of_{FIRST_TOKENS}", n_targets=FIRST_TOKENS)


def _words(model: Model) -> tuple[list[str], Int[Tensor, " word"]]:
    """Tokens that are whole words after a space, and their ids."""
    words, ids = [], []
    tokenizer = model.tokenizer
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        text = tokenizer.decode([index])
        if text[:1] == " " and text[1:].isalpha() and len(text) > 2 and text[1:].isascii():
            words.append(text[1:])
            ids.append(index)
        del token
    return words, torch.tensor(ids)
