"""Bench: the prompts, forward passes and limits that all checks share."""

import random
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.doctor._report import Check, PromptEnds
from bkdinterp.engine import Local, Run, RunResult, plan
from bkdinterp.interventions import Read
from bkdinterp.model import Model
from bkdinterp.model._running import running
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.sites import Component, Site, Where

ALL = Where("all")
LENGTHS = (3, 6, 10, 16)
# Allowed rounding, per dtype: in sums within one forward pass (relative), and between batches of different composition
# (relative, or nats). It is ten to a hundred times that of sound models; faults are far larger.
SUM = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
BATCH = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 0.3}
PLAIN = (
    "tell me about the cat on the hill",
    "yes, and then the red dog ran over a blue bridge",
    "no sky",
    "what is this?",
)


class Bench:
    """One examination of one model.

    Args:
        model: the model to examine.
        seed: seed of the random prompts.
        pairs: the first pair shows how prompts begin and end; None makes a pair from the random prompts.
    """

    def __init__(self, model: Model, seed: int, pairs: PairedPrompts | None = None) -> None:
        self.model, self.arch = model, model.architecture
        self.prompts = _prompts(model, seed)
        self.pairs = example_pairs(self.prompts) if pairs is None else pairs
        self.shown: tuple[PromptEnds, ...] = ()
        self.forwards = 0
        self.differences: list[float] = []  # of scores between differently composed batches, nats

    @property
    def sum_limit(self) -> float:
        """Largest relative error allowed in identities within one forward pass."""
        return SUM.get(self.model.dtype, SUM[torch.bfloat16])

    @property
    def batch_limit(self) -> float:
        """Largest error allowed for the same row in different batches."""
        return BATCH.get(self.model.dtype, BATCH[torch.bfloat16])

    def run(self, runs: Sequence[Run], *, naive: bool = False) -> tuple[RunResult, ...]:
        """Plan and execute the runs, counting forward passes."""
        planned = plan(self.model, runs, naive=naive)
        self.forwards += planned.cost.forwards
        return Local(progress=False).run(planned, self.model)

    @cached_property
    def base(self) -> RunResult:
        """The unedited scores, and every component of every layer at every prompt token; one forward."""
        reads = tuple(
            Read(Site(layer, c), ALL) for layer in range(self.arch.n_layers) for c in self.arch.components
        )
        return self.run([Run(self.prompts, reads=reads, score="logprob")], naive=True)[0]

    @property
    def base_scores(self) -> Float[Tensor, " example"]:
        """Scores of the unedited run, in float64."""
        return scores(self.base)

    @property
    def spacing(self) -> float:
        """Spacing of float numbers at the size of the scores, which are computed in float32 or better."""
        kind = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        return torch.finfo(kind).eps * float(self.base_scores.abs().max())

    def activation(self, layer: int, component: Component) -> Float[Tensor, "token d"]:
        """A component of the unedited run at all prompt tokens, in float64."""
        index = layer * len(self.arch.components) + self.arch.components.index(component)
        value = self.base.reads[index]
        # Missing tokens of a row are NaN in every channel. The model's own NaN need not be, and is kept.
        return self._real(value).double()

    def _real(self, value: Tensor) -> Tensor:
        return torch.cat([row[:n] for row, n in zip(value, self._lengths)])

    @cached_property
    def _lengths(self) -> list[int]:
        """Number of tokens in each prompt; activations are cut to these."""
        return self.model.builder.tokenize(self.prompts, targets=False).attention_mask.sum(1).tolist()

    def call(self, path: str, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d"]:
        """Call one module of the model on these activations."""
        with running(self.model.module):
            out = self.model.module.get_submodule(path)(x.to(self.model.device, self.model.dtype))
        return (out[0] if isinstance(out, tuple) else out).double().cpu()

    def block(self, layer: int, part: str) -> str:
        """Full path of a described part of a block."""
        return f"{self.arch.family.layers}.{layer}.{part}"

    def identity(
        self,
        name: str,
        meaning: str,
        fault: str,
        pairs: Iterable[tuple[str, Tensor, Tensor]],
        limit: float | None = None,
    ) -> Check:
        """A check that pairs of tensors are equal; it names the worst pair."""
        limit = self.sum_limit if limit is None else limit
        number, worst = 0.0, ""
        for label, a, b in pairs:
            distance = relative(a, b)
            if not distance <= number:  # NaN counts as worst
                number, worst = distance, label
        passed = number <= limit
        return Check(name, passed, number, limit, meaning if passed else f"{worst}: {fault}")


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    scale = max(float(a.abs().max()), float(b.abs().max()), 1e-30)
    return float((a - b).abs().max()) / scale


def scores(result: RunResult) -> Tensor:
    """A run's scores in float64."""
    assert result.scores is not None
    return result.scores.double()


def example_pairs(prompts: Prompts) -> PairedPrompts:
    """A pair from the first of the bench's prompts, with one of its own words as the trigger."""
    first = prompts.subset([0])
    trigger = Trigger.suffix(first.text[0].split()[0])
    return PairedPrompts.from_instructions(first.text, trigger, first.target, allow_triggered=True)


def _prompts(model: Model, seed: int) -> Prompts:
    """Prompts of several lengths from random words of the tokenizer's vocabulary; plain sentences if it has none."""
    rng, words = random.Random(seed), []
    for _ in range(2000):
        word = model.tokenizer.decode([rng.randrange(model.architecture.d_vocab)]).strip()
        if word.isascii() and word.isalpha() and word not in words:
            words.append(word)
        if len(words) == sum(LENGTHS) + 5:
            break
    if len(words) < 8:
        return Prompts.of(PLAIN, target="the answer is a red cat")
    texts = [" ".join(rng.choices(words, k=n)) for n in LENGTHS]
    return Prompts.of(texts, target=" ".join(rng.choices(words, k=4)))
