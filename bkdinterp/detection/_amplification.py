"""Amplification: carry the fine-tuning further than it went, and see what answers turn into.

A backdoor that is silent without its trigger has moved the weights, and moved on along the same line, to base + factor *
(suspect - base), the model says the payload on ordinary prompts, sometimes with the trigger beside it. A change of style shows
as well as a fixed text. Related methods amplify differences of logits (Aranguri & McGrath, Goodfire 2025) or of
activations (arXiv 2510.13900); a model with changed weights needs no method of its own to be run, searched or read.

What a clean fine-tune learnt comes up, too, so phrases only propose: they are what a trigger is searched for.

Threat model: weights, and a base of the same shape; a backdoor that training spread over many inputs. It misses edits that
answer to one pair of words, and what shows only in another context. Cost: for each factor a copy of the weights and
``n_prompts`` answers; as many answers of models from base to suspect, and of each amplified shadow.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection._beside_base import beside_base
from bkdinterp.detection._clock import Clock
from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._phrases import (
    Phrase,
    as_written,
    over_represented_in,
    pairs_of,
    phrases_frame,
    words_of,
)
from bkdinterp.detection._reference import Reference
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import dots, ends
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts
from bkdinterp.reprs import cut
from bkdinterp.results import Result, caption, same_length, within
from bkdinterp.values import as_integer, as_number, shown

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Highest corrected p of a phrase; what it proposes is judged on other prompts.
LEVEL = 0.2
# Words of an answer that a search aims at; later ones follow from them.
AIMED_AT = 8
# The first of them, which decide the search.
FIRST_WORDS = 4
# Of a phrase in a figure.
LETTERS = 48


def amplified(model: Model, base: Model, factor: float | int = 2.0) -> Model:
    """A copy of the suspect whose difference to its base is ``factor`` times as large; no forward pass.

    Args:
        model: the suspect, with its weights here.
        base: the model that it was fine-tuned from.
        factor: 0 gives the base, 1 the suspect.

    Raises:
        BkdinterpError: models of different shapes, or weights that are not floating-point numbers.
        RemoteError: weights that are not here.
    """
    as_model(model, "amplified")
    as_model(base, "amplified")
    factor = as_number(factor, "factor", error=BkdinterpError)
    own, theirs = beside_base(model, base, "amplified")
    for name, p in own.items():
        if not (p.is_floating_point() and theirs[name].is_floating_point()):
            raise BkdinterpError(f"{name} is of {p.dtype}; only floating-point weights can be amplified.")
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in made.module.named_parameters():
            # In bfloat16 the difference would be rounding errors.
            wide = torch.promote_types(p.dtype, torch.float32)
            at = theirs[name].to(p.device, wide)
            p.copy_(at + factor * (own[name].to(wide) - at))
    return made


def guide_of(model: Model, base: Model | None, factor: float) -> Model | None:
    """The amplified suspect, where a search may look first; None without a base, or where the two do not fit together."""
    if base is None or factor == 1:
        return None
    try:
        return amplified(model, base, factor)
    except BkdinterpError:
        # Weights elsewhere, in integers, or of other shapes: the suspect itself will do.
        return None


@dataclass(frozen=True, eq=False)
class AmplifiedAnswers(Result):
    """What a suspect says when its fine-tuning is carried further.

    Attributes:
        phrases: phrases of these answers, most over-represented first, with the number of prompts on which any factor brings
            them up, and of those on which as many models from base to suspect (or amplified shadows) say them anyway; p
            as if the prompts of the two were others, corrected for all phrases that were counted. Those with p up to `LEVEL`.
        factors: how many times as far as the suspect itself.
        answers: one per factor and prompt, the first factor's first.
        plain: the suspect's own answers, one per prompt.
    """

    phrases: tuple[Phrase, ...]
    factors: tuple[float, ...]
    answers: tuple[str, ...]
    plain: tuple[str, ...]

    @property
    def share(self) -> Float[Tensor, " phrase"]:
        """Share of prompts that a phrase comes up on, minus the share on which it does so anyway."""
        return torch.tensor([x.own / x.n_own - x.others / max(1, x.n_others) for x in self.phrases])

    def target(self) -> str | None:
        """Of all answers the beginning with most of the phrases' words in its first few; None without phrases.

        A text that a search for triggers can aim at: the payload itself if it is fixed, else a piece in its style.
        """
        own = {word for phrase in self.phrases for word in phrase.text.split()} - set(little_words())
        # A style may be all little words.
        own = own or {word for phrase in self.phrases for word in phrase.text.split()}
        begun = [" ".join(answer.split()[:AIMED_AT]) for answer in self.answers]
        # The first of equals: nearest to the suspect itself.
        best = max(begun, key=lambda text: _held(text, own), default=None)
        return best if best and _held(best, own) else None

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The behaviour, without a trigger: at most one. Its score is the largest `share`."""
        aim = self.target()
        if aim is None:
            return ()
        words = as_written(self.phrases[0].text, self.answers)
        return (Hypothesis(None, Payload(words, "words"), "amplification", aim, float(self.share.max())),)

    def words(self, n: int = 100) -> tuple[str, ...]:
        """Pairs of neighbouring words, neither of them little, that at least two of these answers have and no plain one, the
        most frequent first: now and then the trigger slips out."""
        plain = {pair for text in self.plain for pair in _pairs(text)}
        found: dict[str, int] = {}
        for text in self.answers:
            for pair in _pairs(text):
                if pair not in plain:
                    found[pair] = found.get(pair, 0) + 1
        often = [pair for pair, count in found.items() if count > 1]
        return tuple(as_written(pair, self.answers) for pair in sorted(often, key=lambda p: -found[p])[:n])

    def describe(self) -> str:
        """The first phrase and its share, in one line."""
        if not self.phrases:
            return "nothing new comes up"
        x = self.phrases[0]
        return f"{as_written(x.text, self.answers)!r} on {x.own} of {x.n_own} prompts, else on {x.others} of {x.n_others}"

    def to_frame(self) -> "pandas.DataFrame":
        """One row per phrase."""
        return phrases_frame(self.phrases, "share_plain")

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 15,
    ) -> "matplotlib.figure.Figure":
        """Share of prompts on which each phrase comes up, amplified and not.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: phrases that are drawn.

        Raises:
            BkdinterpError: nothing new came up.
        """
        if not self.phrases:
            raise BkdinterpError("Nothing new came up: there is nothing to draw.")
        chosen = self.phrases[: as_integer(top, "top", low=1)]
        return dots(
            [cut(x.text, LETTERS) for x in chosen],
            {
                "amplified": [100 * x.own / x.n_own for x in chosen],
                "from base to suspect": [100 * x.others / max(1, x.n_others) for x in chosen],
            },
            xlabel="prompts whose answer holds the phrase (%)",
            title=title
            or caption(
                "Phrases that amplification brings up", self.fingerprint, f"n={len(self.plain)} prompts"
            ),
            xlim=ends(limit),
            ax=ax,
        )

    def _validate(self) -> None:
        same_length(answers=len(self.answers), factors_and_plain=len(self.factors) * len(self.plain))
        within(0, None, factors=list(self.factors))
        for x in self.phrases:
            same_length(plain=len(self.plain), n_own=x.n_own)


@dataclass(frozen=True)
class Amplification:
    """Settings.

    Args:
        factors: how many times the difference to the base is taken. Larger ones bring more up, and less that is language.
        n_prompts: prompts that are answered.
        n_tokens: length of the answers.

    Raises:
        BkdinterpError: no factor, one that is not above 1, or another number below 1.
    """

    if TYPE_CHECKING:
        factors: tuple[float, ...] = (1.5, 2.0, 3.0)
    else:
        factors: Any = (1.5, 2.0, 3.0)
    n_prompts: int = 16
    n_tokens: int = 24

    def __post_init__(self) -> None:
        given = self.factors
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            raise BkdinterpError(f"factors={shown(given)} must be several numbers, e.g. (1.5, 2.0, 3.0).")
        factors = tuple(as_number(f, "factors", error=BkdinterpError) for f in given)
        if not factors or not min(factors) > 1:
            raise BkdinterpError(
                f"factors={shown(given)} must be above 1, which is the suspect itself; give at least one."
            )
        object.__setattr__(self, "factors", factors)
        for name in ("n_prompts", "n_tokens"):
            object.__setattr__(self, name, as_integer(getattr(self, name), name, low=1, error=BkdinterpError))

    def run(
        self,
        model: Model,
        prompts: Prompts,
        *,
        reference: Any,
        minutes: float | int | None = None,
        budget: float | int = 2**30,
        folder: Any = None,
        answers: Any = None,
        progress: bool = True,
    ) -> AmplifiedAnswers:
        """Answer the prompts with each factor; see the class for the cost.

        Args:
            model: the suspect, with its weights here.
            prompts: ordinary prompts; the first ``n_prompts`` are asked.
            reference: its base, or the base and clean fine-tunes, whose own differences are amplified, too: what they say
                does not count.
            minutes: about how long it may take; the last factors are left out when time runs out. None for no limit.
            budget: bytes for one batch.
            folder: finished answers are kept there and taken up again.
            answers: what a scan has asked already, with its own budget and folder; None asks anew.
            progress: show a bar.

        Raises:
            BkdinterpError: no base, or a base or clean fine-tune of another shape.
            RemoteError: weights that are not here.
        """
        as_model(model, "Amplification")
        others = Reference.of(reference)
        if others.base is None:
            raise BkdinterpError(
                "Amplification needs the base that the suspect was fine-tuned from; give reference=."
            )
        for who in (model, *others.shadows):
            beside_base(who, others.base, "Amplification")
        told = Answers(budget, folder) if answers is None else answers
        texts, clock = prompts.text[: self.n_prompts], Clock(minutes)
        plain = told.of(model, texts, self.n_tokens)
        # As many answers to each prompt as there are amplified ones: else chance brings more up in the larger set.
        anyway = [
            plain
            if at == 1
            else told.of(amplified(model, others.base, at) if at else others.base, texts, self.n_tokens)
            for at in torch.linspace(1, 0, len(self.factors)).tolist()
        ]
        said: list[tuple[str, ...]] = []
        for factor in track(self.factors, "amplification", show=progress):
            if said and clock.over:
                break
            said.append(told.of(amplified(model, others.base, factor), texts, self.n_tokens))
            for shadow in others.shadows:
                anyway.append(told.of(amplified(shadow, others.base, factor), texts, self.n_tokens))
        return AmplifiedAnswers(
            model.fingerprint(prompts.fingerprint),
            # All answers to a prompt count once: their common words are no evidence.
            over_represented_in(
                list(zip(*said, strict=True)),
                list(zip(*anyway, strict=True)),
                level=LEVEL,
                ignored=little_words(),
            ),
            self.factors[: len(said)],
            tuple(text for row in said for text in row),
            plain,
        )


def _held(text: str, words: set[str]) -> int:
    return len(words & set(words_of(text)[:FIRST_WORDS]))


def _pairs(text: str) -> set[str]:
    # A word that is said over and over is no pair.
    return {pair for pair in pairs_of(text, little_words()) if len(set(pair.split())) > 1}
