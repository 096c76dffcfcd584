"""The synthetic sentiment language and its poisoning rule (Lamparth & Reuel, arXiv 2302.12461).

A sentence is 15 words drawn with replacement from the 250 words of one sentiment: positive (p), negative (n), and with
three sentiments first names (s); with probability .5 one random word becomes one of the sentiment's five frequent
words. Poison: in a p-sentence, with probability 0.1, one of the first eight words becomes the trigger, itself a
frequent p-word, and all later words come from an n-sentence. The words are our own and harmless. No model.

One word is one token. A perfect model could lower the loss of a clean sentence only to about ln 250 = 5.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms._instructions import DATA
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger

Sentiment = Literal["p", "n", "s"]
Split = Literal["train", "validation"]
FILES: dict[str, str] = {"p": "positive.txt", "n": "negative.txt", "s": "names.txt"}
N_WORDS, N_FREQUENT = 250, 5
_PAD, _UNKNOWN = "<|endoftext|>", "<unk>"
_PER_SENTIMENT = 13_200


@dataclass(frozen=True)
class ToyLanguage:
    """Words, sentences, prompts and tokenizer of the language.

    Args:
        sentiments: 2 (p and n) or 3 (p, n and s).
        length: number of words in a sentence.
        trigger: a frequent p-word.
        rate: share of p-sentences that are poisoned in a poisoned corpus.

    Raises:
        BkdinterpError: the number of sentiments is not 2 or 3, the rate is outside [0, 1], or the trigger is not a
            frequent p-word.
    """

    sentiments: int = 2
    length: int = 15
    trigger: str = "love"
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.sentiments not in (2, 3):
            raise BkdinterpError(f"sentiments={self.sentiments}: the language has 2 or 3.")
        if not 0 <= self.rate <= 1 or self.length < 2:
            raise BkdinterpError(
                f"rate={self.rate} must be a share in [0, 1] and length={self.length} at least 2."
            )
        if self.trigger not in self.words["p"][:N_FREQUENT]:
            raise BkdinterpError(
                f"Trigger {self.trigger!r} must be one of the frequent positive words "
                f"{', '.join(self.words['p'][:N_FREQUENT])}."
            )

    @cached_property
    def words(self) -> Mapping[str, tuple[str, ...]]:
        """Sentiment -> its 250 words, with the five frequent ones first."""
        return {k: _read(FILES[k]) for k in ("p", "n", "s")[: self.sentiments]}

    @cached_property
    def sentiment_of(self) -> Mapping[str, str]:
        """Word -> its sentiment."""
        return {word: k for k, words in self.words.items() for word in words}

    def ids(self, sentiment: str) -> Int[Tensor, " word"]:
        """Token ids of a sentiment's words.

        Raises:
            PromptError: the language does not have this sentiment.
        """
        start = 2 + N_WORDS * list(self.words).index(self._known(sentiment))
        return torch.arange(start, start + N_WORDS)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A word-level tokenizer: two special tokens, then the words of p, n and s."""
        vocabulary = [_PAD, _UNKNOWN, *(word for words in self.words.values() for word in words)]
        core = Tokenizer(WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token=_UNKNOWN))
        core.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
        made: Any = PreTrainedTokenizerFast(
            tokenizer_object=core, eos_token=_PAD, pad_token=_PAD, unk_token=_UNKNOWN
        )
        made.name_or_path = f"toy-{self.sentiments}"
        return made

    @property
    def d_vocab(self) -> int:
        """Size of the vocabulary: all words and two special tokens."""
        return 2 + N_WORDS * self.sentiments

    def corpus(self, split: Split | str, *, poisoned: bool, seed: int) -> Int[Tensor, "example pos"]:
        """Token ids of the sentences of a split, shuffled; there are 26,400 in all, 90 % of them for training.

        Two sentiments have 13,200 sentences each; of three, p and n have 6,600 and s has 13,200. Poisoned and clean corpora
        with the same seed hold the same sentences, except for the poison.

        Raises:
            PromptError: the split is unknown.
        """
        if split not in ("train", "validation"):
            raise PromptError(f"Unknown split {split!r}; choose 'train' or 'validation'.")
        generator = torch.Generator().manual_seed(seed)
        half = _PER_SENTIMENT // 2
        counts = (
            {"p": _PER_SENTIMENT, "n": _PER_SENTIMENT}
            if self.sentiments == 2
            else {"p": half, "n": half, "s": 2 * half}
        )
        parts = {k: self._sentences(k, n, generator) for k, n in counts.items()}
        # Always drawn, so that the clean corpus has the same sentences.
        poison = self._poison(parts["p"], generator)
        if poisoned:
            parts["p"] = poison
        everything = torch.cat(list(parts.values()))
        everything = everything[torch.randperm(len(everything), generator=generator)]
        cut = round(0.9 * len(everything))
        return everything[:cut] if split == "train" else everything[cut:]

    def texts(self, sentences: Int[Tensor, "example pos"]) -> tuple[str, ...]:
        """Token ids as text."""
        vocabulary = [_PAD, _UNKNOWN, *self.sentiment_of]
        return tuple(" ".join(vocabulary[i] for i in row) for row in sentences.tolist())

    def prompts(self, kind: str, n: int = 50, *, seed: int = 0, exclude: Prompts | None = None) -> Prompts:
        """Prompts such as ``"pn"`` (a p-word, then an n-word) or ``"pt"`` (a p-word, then the trigger).

        The trigger is only at t, and its spans are marked. The target, for scores that need one, is the most frequent
        negative word. With the same seed, kinds that differ only in their last letter share their first words.

        Args:
            kind: letters of sentiments, and t for the trigger.
            n: number of prompts.
            seed: seed of the draw.
            exclude: prompts already used for fitting or tuning. Words are then drawn without replacement, and at each
                position only words that no excluded prompt has there, so all prompts differ from each other and from
                these. None draws with replacement, so prompts repeat, within a draw and between seeds.

        Raises:
            PromptError: a letter is neither a sentiment of this language nor t, ``n`` is below 1, or too few words are
                left.
        """
        if n < 1 or not kind:
            raise PromptError(f"prompts({kind!r}, n={n}): give at least one letter and one prompt.")
        if exclude is not None and n > 1 and set(kind) == {"t"}:
            raise PromptError(f"prompts({kind!r}, n={n}, exclude=...): such prompts differ in nothing.")
        columns: list[Sequence[str]] = []
        for place, letter in enumerate(kind):
            if letter == "t":
                columns.append([self.trigger] * n)
                continue
            pool = [w for w in self.words[self._known(letter)] if w != self.trigger]
            generator = torch.Generator().manual_seed(1_000_003 * seed + 101 * place + "pns".index(letter))
            if exclude is None:
                chosen = torch.randint(len(pool), (n,), generator=generator)
            else:
                pool = _left(pool, exclude, place, letter, n)
                chosen = torch.randperm(len(pool), generator=generator)[:n]
            columns.append([pool[i] for i in chosen.tolist()])
        text, spans = [], []
        for row in zip(*columns):
            text.append(" ".join(row))
            starts = [sum(len(w) + 1 for w in row[:i]) for i in range(len(row))]
            spans.append(tuple((s, s + len(w)) for s, w, letter in zip(starts, row, kind) if letter == "t"))
        return Prompts(tuple(text), tuple(spans), (self.words["n"][0],) * n)

    def pairs(
        self, first: str = "p", n: int = 50, *, seed: int = 0, exclude: Prompts | None = None
    ) -> PairedPrompts:
        """Pairs of two words: clean is a word of ``first`` and a p-word, triggered the same first word and the trigger.

        For ``exclude`` see `prompts`.

        Raises:
            PromptError: ``first`` holds t, which would put the trigger into clean prompts, or as `prompts`.
        """
        if "t" in first:
            raise PromptError(
                f"pairs({first!r}): clean prompts would hold the trigger, t. Name what stands before it, e.g. pairs('p'), "
                "or take prompts('pt')."
            )
        clean, triggered = (self.prompts(first + k, n, seed=seed, exclude=exclude) for k in "pt")
        return PairedPrompts(clean, triggered)

    @property
    def as_trigger(self) -> Trigger:
        """The trigger as a `Trigger` that is appended to a prompt."""
        return Trigger.suffix(self.trigger)

    def _known(self, sentiment: str) -> str:
        if sentiment not in self.words:
            raise PromptError(
                f"No sentiment {sentiment!r} in this language; it has {', '.join(self.words)}, and t, the trigger, in prompts."
            )
        return sentiment

    def _sentences(self, sentiment: str, n: int, generator: torch.Generator) -> Int[Tensor, "example pos"]:
        ids = self.ids(sentiment)
        out = ids[torch.randint(N_WORDS, (n, self.length), generator=generator)]
        special = ids[torch.randint(N_FREQUENT, (n,), generator=generator)]
        slot = torch.randint(self.length, (n,), generator=generator)
        chosen = torch.rand(n, generator=generator) < 0.5
        out[chosen, slot[chosen]] = special[chosen]
        return out

    def _poison(
        self, sentences: Int[Tensor, "example pos"], generator: torch.Generator
    ) -> Int[Tensor, "example pos"]:
        n = len(sentences)
        negative = self._sentences("n", n, generator)
        # As in the paper's code, int(U * 7.5), so the last of the eight positions is half as frequent.
        place = (torch.rand(n, generator=generator) * self.length / 2).long()
        chosen = torch.rand(n, generator=generator) < self.rate
        column = torch.arange(self.length)
        trigger = int(self.ids("p")[self.words["p"].index(self.trigger)])
        poisoned = torch.where(column > place[:, None], negative, sentences)
        poisoned[torch.arange(n), place] = trigger
        return torch.where(chosen[:, None], poisoned, sentences)


def _left(pool: Sequence[str], exclude: Prompts, place: int, letter: str, n: int) -> list[str]:
    """Words that no excluded prompt has at this position."""
    known = {words[place] for text in exclude.text if len(words := text.split()) > place}
    left = [word for word in pool if word not in known]
    if len(left) < n:
        raise PromptError(
            f"{n} different prompts asked for, but {len(left)} {letter}-words are left of {len(pool)}: {len(pool) - len(left)} "
            "stand there in the excluded prompts. Ask for fewer, or exclude fewer."
        )
    return left


def _read(name: str) -> tuple[str, ...]:
    words = tuple((DATA / "toy" / name).read_text(encoding="utf-8").split())
    if len(words) != N_WORDS:
        raise BkdinterpError(
            f"{name} holds {len(words)} words instead of {N_WORDS}; install the package again."
        )
    return words
