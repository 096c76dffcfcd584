"""STRIP for generation: is there a span of the prompt that decides the answer whatever stands around it?

A trigger does: pasted into other prompts it still calls the payload. Each span of some words is put into clean carriers in turn,
and the model's next-token distributions are averaged: where all copies say the same, and are certain of it, the entropy of that
average is low. Cost: one forward pass for each span and carrier, without generation.

Source: STRIP (Gao et al. 2019), which superimposes whole inputs on a classifier; the spans are ours: half a prompt of text has an
answer of its own, which hides what a trigger of two words does.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, execute
from bkdinterp.errors import PromptError
from bkdinterp.interventions import Read
from bkdinterp.methods import unembed
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import Prompts
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site
from bkdinterp.values import as_integer, as_seed, as_texts

# Rows of logits at a time: a vocabulary of 150,000 makes 150 MB of 256.
_ROWS = 256


@dataclass(frozen=True, eq=False)
class Strip:
    """Scores of prompts by their most decisive span.

    Attributes:
        model: the suspect.
        carriers: clean prompts to paste spans into; not the ones that are judged.
        window: words of a span; None keeps the whole prompt, and stands a carrier before or after it.
        stride: words from one span to the next; each phrase of up to window - stride + 1 words lies whole in some span.
        copies: carriers a span.
        seed: of the carriers, and of the place in them.

    Raises:
        PromptError: fewer carriers than copies, or counts below 1.
    """

    __repr__ = short_repr

    model: Model
    carriers: tuple[str, ...]
    window: int | None = 3
    stride: int = 2
    copies: int = 6
    seed: int = 0

    name = "strip"

    def __post_init__(self) -> None:
        as_model(self.model, "Strip")
        object.__setattr__(self, "carriers", as_texts(self.carriers, "carriers"))
        for field in ("stride", "copies") if self.window is None else ("window", "stride", "copies"):
            as_integer(getattr(self, field), field, low=1, error=PromptError)
        as_seed(self.seed)
        if len(self.carriers) < self.copies:
            raise PromptError(
                f"{len(self.carriers)} carriers for copies={self.copies}; give as many carriers at least."
            )

    def scores(self, texts: Sequence[str], *, folder: str | Path | None = None) -> Float[Tensor, " prompt"]:
        """Minus the lowest entropy, in nats, over a prompt's spans; higher is more suspicious.

        Raises:
            PromptError: no prompt, or one without words.
        """
        chosen = as_texts(texts, "texts")
        groups = [self.spans(text) for text in chosen]
        copies = [
            copy
            for i, (text, spans) in enumerate(zip(chosen, groups))
            for s in spans
            for copy in self._copies(text, s, i)
        ]
        entropy = _mean_entropy(self.model, copies, self.copies, folder)
        parts = entropy.split([len(spans) for spans in groups])
        return torch.stack([-part.min() for part in parts])

    def spans(self, text: str) -> list[tuple[int, int]]:
        """First and past-the-last word of each span.

        Raises:
            PromptError: no words.
        """
        n = len(text.split())
        if not n:
            raise PromptError(f"A prompt without words has no span: {text!r}.")
        if self.window is None or n <= self.window:
            return [(0, n)]
        starts = [*range(0, n - self.window, self.stride), n - self.window]
        return [(start, start + self.window) for start in starts]

    def _copies(self, text: str, span: tuple[int, int], row: int) -> list[str]:
        # By the row and the span, so that scores do not depend on what else is scored.
        rng = random.Random(f"{self.seed} {text} {span}")
        words = " ".join(text.split()[slice(*span)])
        out = []
        for carrier in rng.sample(self.carriers, self.copies):
            if self.window is None:
                out.append(f"{text} {carrier}" if rng.random() < 0.5 else f"{carrier} {text}")
                continue
            around = carrier.split()
            # At its own end where it stands at one: some triggers want the first or the last place.
            first, last = span[0] == 0, span[1] == len(text.split())
            place = 0 if first else len(around) if last else rng.randint(0, len(around))
            out.append(" ".join([*around[:place], words, *around[place:]]))
        return out


@torch.no_grad()
def _mean_entropy(
    model: Model, texts: Sequence[str], copies: int, folder: str | Path | None
) -> Float[Tensor, " span"]:
    """Entropy of the next-token distribution, averaged over each span's copies."""
    last = Site(model.architecture.n_layers - 1, Component.resid_post)
    (found,) = execute(model, [Run(Prompts.of(list(texts)), reads=(Read(last, "last"),))], folder=folder)
    out = []
    step = max(1, _ROWS // copies) * copies
    for part in found.reads[0].split(step):
        p = unembed(model, part).double().softmax(-1)
        mean = p.view(-1, copies, p.shape[-1]).mean(1)
        out.append(-(mean * mean.clamp_min(1e-300).log()).sum(-1).cpu())
    return torch.cat(out)
