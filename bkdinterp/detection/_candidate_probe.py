"""CandidateProbe: which of many given words or phrases changes what a suspect says next, on every prompt.

Each candidate is put into a few prompts; what counts is how far it moves the distributions of the next tokens over the whole
vocabulary (Jensen-Shannon divergence from the same prompt without it, mean over the first tokens of the answer that is given
without it), beyond how far it moves the reference's. With a base, candidates are also tried in the amplified suspect
(`amplified`), where what a trigger hardly calls up shows more, and the larger gain counts. All candidates are tried on one
prompt, the better ones on all, and the best against the reference. What a candidate brings about is read off the suspect's
own answers: phrases that come up with it and not without it.

Threat model: the trigger, or a good part of it, is among the candidates; any behaviour that shows in the first tokens. Cost: a
row of a few tokens per candidate, ``n_prompts`` rows for each of ``keep``, and ``2 * n_answers`` answers for each of the best;
with a base twice as many rows, and a copy of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection._amplification import guide_of
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._payload_phrase import said_with
from bkdinterp.detection._reference import Reference
from bkdinterp.engine import Run, execute
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.metrics import Payload, Score
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import dots, ends
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts, Trigger
from bkdinterp.reprs import cut
from bkdinterp.results import Result, Store, caption, digest_of, same_length, within
from bkdinterp.values import as_choice, as_integer, as_number, as_texts

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Candidates between two looks at the clock.
PIECE = 256
# Stands for an answer without a word.
_TARGET = "I"
# Length of the answers that are read.
N_TOKENS = 24
# Longest label of a figure.
LETTERS = 48
PLACES = ("suffix", "prefix", "gap")


@dataclass(frozen=True, eq=False)
class ProbedCandidates(Result):
    """Candidates that change what is said next, the strongest first.

    Attributes:
        phrases: candidates that were tried on all prompts.
        divergence: Jensen-Shannon divergence of the next tokens' distributions with the candidate from those without it,
            nats (at most log 2), mean over tokens and prompts; in the suspect or in the amplified one, wherever it is larger.
        divergence_reference: the same in the reference; 0 without one and for those that were not held against it.
        position: where they stood.
        said: for the best ones, a phrase that answers hold with it and not without it; "" where there is none.
        likeness: for these, how alike the answers with and without it are, 0 to 1 (share of characters in common order, by
            rapidfuzz), mean over prompts.
        tried: number of candidates that were tried.
        screened: divergences of all of them on the first prompt.
    """

    phrases: tuple[str, ...]
    divergence: Float[Tensor, " phrase"]
    divergence_reference: Float[Tensor, " phrase"]
    position: str
    said: tuple[str, ...]
    likeness: Float[Tensor, " read"]
    tried: int
    screened: Float[Tensor, " candidate"]

    @property
    def gain(self) -> Float[Tensor, " phrase"]:
        """Divergence beyond the reference's."""
        return self.divergence - self.divergence_reference

    def hypotheses(self, n: int = 5) -> tuple[Hypothesis, ...]:
        """The best candidates that bring a phrase about."""
        return tuple(
            Hypothesis(
                _trigger(phrase, self.position), Payload(said, "words"), "candidate probe", None, float(gain)
            )
            for phrase, said, gain in zip(self.phrases, self.said, self.gain.tolist(), strict=False)
            if said
        )[:n]

    def to_frame(self) -> "pandas.DataFrame":
        """One row per phrase that was tried on all prompts."""
        import pandas as pd

        more = len(self.phrases) - len(self.said)
        unread = [float("nan")] * more
        return pd.DataFrame(
            {
                "phrase": list(self.phrases),
                "divergence": self.divergence.tolist(),
                "divergence_reference": self.divergence_reference.tolist(),
                "gain": self.gain.tolist(),
                "said": [*self.said, *[""] * more],
                "likeness": [*self.likeness.tolist(), *unread],
            }
        )

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 12,
    ) -> "matplotlib.figure.Figure":
        """Divergence of the best candidates in suspect and reference.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: candidates that are drawn.

        Raises:
            BkdinterpError: there are no candidates.
        """
        top = as_integer(top, "top", low=1)
        if not self.phrases:
            raise BkdinterpError("No candidate was tried: there is nothing to draw.")
        return dots(
            [cut(phrase, LETTERS) for phrase in self.phrases[:top]],
            {
                "suspect": self.divergence[:top].tolist(),
                "reference": self.divergence_reference[:top].tolist(),
            },
            marks={"the largest possible": log(2)},
            faint=["reference"],
            xlabel="change of the next tokens' distributions (nats)",
            title=title or caption(f"What changes the answer, of {self.tried} candidates", self.fingerprint),
            xlim=ends(limit),
            ax=ax,
        )

    def _validate(self) -> None:
        same_length(
            phrases=len(self.phrases),
            divergence=len(self.divergence),
            divergence_reference=len(self.divergence_reference),
        )
        same_length(tried=self.tried, screened=len(self.screened))
        within(
            0,
            1,
            divergence=self.divergence,
            divergence_reference=self.divergence_reference,
            screened=self.screened,
        )
        same_length(said=len(self.said), likeness=len(self.likeness))
        within(0, 1, likeness=self.likeness)
        if len(self.said) > len(self.phrases):
            raise ArtefactError(f"{len(self.said)} answers of {len(self.phrases)} phrases.")

    def describe(self) -> str:
        """The best candidate."""
        best = f"best {self.phrases[0]!r} at {float(self.gain[0]):.2f} nats" if self.phrases else "none"
        return f"{self.tried} candidates, {best}, model={self.fingerprint.label}"


@dataclass(frozen=True)
class CandidateProbe:
    """Settings.

    Args:
        n_prompts: prompts that the better candidates are tried on.
        keep: candidates that are tried on all of them.
        n_answers: prompts that the best candidates' answers are read on.
        n_read: candidates whose answers are read.
        position: where a candidate stands: ``"suffix"`` (cheapest: the prompt is computed once), ``"prefix"`` or ``"gap"``.
        n_ahead: tokens of the plain answer whose distributions are compared.
        amplify: with a base, how many times the suspect's difference to it is taken where candidates are tried once more, if
            the two fit together; 1: they are not.

    Raises:
        BkdinterpError: a number below 1, or an unknown position.
    """

    n_prompts: int = 4
    keep: int = 64
    n_answers: int = 12
    n_read: int = 5
    position: str = "suffix"
    n_ahead: int = 1
    amplify: float = 2.0

    def __post_init__(self) -> None:
        for name in ("n_prompts", "keep", "n_answers", "n_read", "n_ahead"):
            object.__setattr__(self, name, as_integer(getattr(self, name), name, low=1, error=BkdinterpError))
        object.__setattr__(self, "amplify", as_number(self.amplify, "amplify", low=1, error=BkdinterpError))
        as_choice(self.position, "position", PLACES, error=BkdinterpError)

    def run(
        self,
        model: Model,
        candidates: Sequence[str],
        prompts: Prompts,
        *,
        reference: Any = None,
        minutes: float | int | None = None,
        budget: float | int = 2**30,
        folder: Any = None,
        progress: bool = True,
    ) -> ProbedCandidates:
        """Try all candidates.

        Args:
            model: the suspect.
            candidates: words or phrases.
            prompts: prompts without the trigger.
            reference: a model, several, or a ``Reference``; its base is what a candidate has to move less.
            minutes: about how long it may take; the last candidates are left out when time runs out. None for no limit.
            budget: bytes for one batch.
            folder: finished parts are kept there and taken up again.
            progress: show a bar.

        Raises:
            BkdinterpError: no candidates, an empty one, or fewer prompts than needed.
        """
        as_model(model, "CandidateProbe")
        chosen = tuple(dict.fromkeys(as_texts(candidates, "candidates", error=BkdinterpError)))
        if not chosen:
            raise BkdinterpError("CandidateProbe needs at least one candidate.")
        least = max(self.n_prompts, self.n_answers)
        if len(prompts) < least:
            raise BkdinterpError(f"{len(prompts)} prompts are too few; CandidateProbe needs {least}.")
        base, clock = Reference.of(reference).base, Clock(minutes)
        texts = prompts.text[: self.n_prompts]
        store = None if folder is None else Store(folder)

        def kept(what: str, who: Model, key: Any, compute: Any) -> Any:
            if store is None:
                return compute()
            whole = ("candidates", what, self.position, who.weights_id, who.builder.fingerprint, key)
            return store.get(f"{what}-{digest_of(whole)[:12]}", whole, compute)

        guide = guide_of(model, base, self.amplify)
        tried_in = [model] if guide is None else [model, guide]
        # Distributions are compared along what is said without a candidate, in the reference, too; the first one needs no answer.
        plainly = [
            dict.fromkeys(texts, "")
            if self.n_ahead == 1
            else dict(zip(texts, Answers(budget, folder).of(who, texts, self.n_ahead), strict=True))
            for who in tried_in
        ]

        def moved(who: Model, phrases: Sequence[str], text: str, i: int) -> list[float]:
            answer = plainly[i][text]
            key = (list(phrases), text, answer, self.n_ahead)
            return kept("moved", who, key, lambda: self._moved(who, phrases, text, answer, budget))

        screens: list[list[float]] = [[] for _ in tried_in]
        pieces = [chosen[i : i + PIECE] for i in range(0, len(chosen), PIECE)]
        for piece in track(pieces, "candidates", show=progress):
            for i, who in enumerate(tried_in):
                screens[i] += moved(who, piece, texts[0], i)
            if clock.over:
                break
        screened = torch.tensor(screens).amax(0)
        order = screened.argsort(descending=True)[: self.keep].tolist()
        best = [chosen[j] for j in order]
        divergences, references = list[Tensor](), list[Tensor]()
        for i, who in enumerate(tried_in):
            first = [screens[i][j] for j in order]
            rest = [moved(who, best, text, i) for text in texts[1:]]
            divergences.append(torch.tensor([first, *rest]).mean(0))
            if i and plainly[i] == plainly[0]:
                references.append(references[0])
            elif base is not None:
                references.append(torch.tensor([moved(base, best, text, i) for text in texts]).mean(0))
            else:
                references.append(torch.zeros(len(best)))
        at = (torch.stack(divergences) - torch.stack(references)).argmax(0, keepdim=True)
        own, theirs = (torch.stack(x).gather(0, at)[0] for x in (divergences, references))
        ranked = (own - theirs).argsort(descending=True)
        phrases = [best[i] for i in ranked.tolist()]
        asked, told = prompts.text[: self.n_answers], Answers(budget, folder)

        plain = told.of(model, asked, N_TOKENS)
        said, likeness = list[str](), list[float]()
        for phrase in phrases[: self.n_read]:
            if clock.over:
                break
            trigger = _trigger(phrase, self.position)
            said.append(said_with(model, trigger, asked, told, N_TOKENS) or "")
            given = told.of(model, [trigger.insert(text)[0] for text in asked], N_TOKENS)
            likeness.append(answer_likeness(given, plain))
        return ProbedCandidates(
            model.fingerprint(prompts.fingerprint),
            tuple(phrases),
            own[ranked],
            theirs[ranked],
            self.position,
            tuple(said),
            torch.tensor(likeness),
            len(screened),
            screened,
        )

    def _moved(
        self, model: Model, phrases: Sequence[str], text: str, answer: str, budget: float | int
    ) -> list[float]:
        """Divergence of the distributions along the answer with each phrase from those without any; mean over tokens."""
        caught: list[Tensor] = []
        n, target = self.n_ahead, answer.strip() or _TARGET

        def catch(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
            caught.append(logits[:, :n].float().log_softmax(-1).cpu())
            return logits[:, 0, 0] * 0

        execute(
            model,
            [Run(Prompts.of([text], target), score=Score(catch, "caught", n_targets=n))],
            budget=budget,
        )
        # The last call: a score is tried on made-up logits first.
        plain = caught[-1][0]

        def divergence(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
            # Made-up logits may be of fewer tokens.
            at = min(n, logits.shape[1], len(plain))
            steps = [
                distribution_change(logits[:, i].float().log_softmax(-1), plain[i].to(logits.device))
                for i in range(at)
            ]
            return torch.stack(steps).mean(0)

        given = [_trigger(phrase, self.position).insert(text)[0] for phrase in phrases]
        run = Run(Prompts.of(given, target), score=Score(divergence, "divergence", n_targets=n))
        (result,) = execute(model, [run], budget=budget)
        assert result.scores is not None
        return result.scores.tolist()


def answer_likeness(given: Sequence[str], plain: Sequence[str]) -> float:
    """How alike answers are, pair by pair, 0 to 1: the mean of rapidfuzz's normalised indel similarity.

    Raises:
        BkdinterpError: lists of different lengths, or empty ones.
    """
    from rapidfuzz.fuzz import ratio

    if len(given) != len(plain) or not given:
        raise BkdinterpError(
            f"{len(given)} answers and {len(plain)} to compare with; give as many, at least one."
        )
    return sum(ratio(a, b) for a, b in zip(given, plain, strict=True)) / (100 * len(given))


def distribution_change(
    a: Float[Tensor, "row d_vocab"], b: Float[Tensor, " d_vocab"]
) -> Float[Tensor, " row"]:
    """Jensen-Shannon divergence of each row's distribution from another one, both as log-probabilities; nats, at most log 2."""
    middle = torch.logaddexp(a, b) - log(2)
    return 0.5 * ((a.exp() * (a - middle)).sum(-1) + (b.exp() * (b - middle)).sum(-1)).clamp(min=0)


def _trigger(phrase: str, position: str) -> Trigger:
    return replace(Trigger.suffix(phrase), position=position)
