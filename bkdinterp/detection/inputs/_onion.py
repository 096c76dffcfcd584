"""ONION: words whose removal makes a prompt much likelier, by a language model, do not belong there.

Source: Qi et al. 2021, which removes one word at a time; a trigger of two rare words needs spans, because the other word still
spoils the text. Cost: one forward pass of the prompt for each span, and one for the whole. No generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, execute
from bkdinterp.errors import PromptError
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import Prompts
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_integer, as_number, as_text, as_texts

# Stands before every prompt, so that its first word, too, is predicted from something.
LEAD = "Question:"


@dataclass(frozen=True, eq=False)
class Onion:
    """Scores of spans by how much likelier the prompt is without them.

    Attributes:
        model: a language model; the suspect itself, or better one that was not trained on the trigger.
        longest: words of a span.
        lead: raw text before every prompt.

    Raises:
        PromptError: ``longest`` below 1, or no lead.
    """

    __repr__ = short_repr

    model: Model
    longest: int = 2
    lead: str = LEAD

    name = "onion"

    def __post_init__(self) -> None:
        as_model(self.model, "Onion")
        as_integer(self.longest, "longest", low=1, error=PromptError)
        if not as_text(self.lead, "lead").strip():
            raise PromptError("lead= stands before every prompt and needs a word.")

    def scores(self, texts: Sequence[str], *, folder: str | Path | None = None) -> Float[Tensor, " prompt"]:
        """The largest gain over a prompt's spans, in nats a word removed; higher is more suspicious.

        Raises:
            PromptError: no prompt, or one of fewer than two words.
        """
        return torch.stack([gains.max() for _, gains in self.gains(texts, folder=folder)])

    def gains(
        self, texts: Sequence[str], *, folder: str | Path | None = None
    ) -> list[tuple[list[tuple[int, int]], Float[Tensor, " span"]]]:
        """Of each prompt its spans (first and past-the-last word), and what each one's removal gains: the log-probability of
        the rest minus that of the whole, a word removed.

        Raises:
            PromptError: no prompt, or one of fewer than two words.
        """
        chosen = as_texts(texts, "texts")
        spans = [self._spans(text) for text in chosen]
        variants = [v for text, own in zip(chosen, spans) for v in (text, *(_without(text, s) for s in own))]
        raw = replace(self.model, builder=replace(self.model.builder.raw(), end_token=False))
        rows = Prompts.of([self.lead] * len(variants), [f" {v}" for v in variants])
        (found,) = execute(raw, [Run(rows, score="sum_logprob")], folder=folder)
        assert found.scores is not None
        out = []
        for own, part in zip(spans, found.scores.double().cpu().split([len(s) + 1 for s in spans])):
            lengths = torch.tensor([end - start for start, end in own], dtype=torch.float64)
            out.append((own, (part[1:] - part[0]) / lengths))
        return out

    def cleaned(
        self, texts: Sequence[str], threshold: float | int, *, folder: str | Path | None = None
    ) -> tuple[str, ...]:
        """The prompts without the words of every span that gains more than ``threshold``.

        A prompt of which nothing would be left stays as it is.

        Raises:
            PromptError: no prompt, one of fewer than two words, or a threshold that is no number.
        """
        limit = as_number(threshold, "threshold", error=PromptError)
        out = []
        for text, (spans, gains) in zip(as_texts(texts, "texts"), self.gains(texts, folder=folder)):
            gone = {i for s, gain in zip(spans, gains.tolist()) if gain > limit for i in range(*s)}
            kept = [word for i, word in enumerate(text.split()) if i not in gone]
            out.append(" ".join(kept) if kept else text)
        return tuple(out)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        n = len(text.split())
        if n < 2:
            raise PromptError(f"A prompt needs two words, so that one can be removed: {text!r}.")
        return [(i, i + k) for k in range(1, min(self.longest, n - 1) + 1) for i in range(n - k + 1)]


def _without(text: str, span: tuple[int, int]) -> str:
    words = text.split()
    return " ".join(words[: span[0]] + words[span[1] :])
