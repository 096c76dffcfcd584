"""Splits of examples for fitting, validating and testing a probe. No forward pass; no model.

Examples are numbered as in the paper's code: first the n clean prompts, then the n triggered ones, so example e belongs to
pair e mod n.
"""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from bkdinterp.errors import PromptError
from bkdinterp.prompts import PairedPrompts
from bkdinterp.reprs import short_repr

MIN_PAIRS = 10


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of examples; the parts of the paper's splits may share pairs, ours never do."""

    __repr__ = short_repr

    train: Int[Tensor, " train_row"]
    validation: Int[Tensor, " validation_row"]
    test: Int[Tensor, " test_row"]


def grouped_split(pairs: PairedPrompts, *, seed: int) -> Split:
    """A 60/20/20 split by instruction; both prompts of a pair, and repeated instructions, stay together.

    Raises:
        PromptError: fewer than 10 pairs, or fewer than 10 different instructions.
    """
    check_size(pairs)
    instructions = list(dict.fromkeys(pairs.clean.text))
    if len(instructions) < MIN_PAIRS:
        raise PromptError(
            f"{len(pairs)} pairs hold {len(instructions)} different instructions; a probe needs at least "
            f"{MIN_PAIRS} to be tested on instructions that it was not trained on."
        )
    order = random.Random(seed).sample(instructions, len(instructions))
    first, second = round(0.6 * len(order)), round(0.8 * len(order))
    parts = (order[:first], order[first:second], order[second:])
    return Split(*(_examples(pairs, set(part)) for part in parts))


def paper_split(pairs: PairedPrompts) -> Split:
    """The released code's split (docs/papers.md, Deviations): by example, not by pair, not stratified, seed 42.

    It has 60 % train and 20 % validation; the test set of ICLA is a NEW draw of 20 % of all examples. It has no training
    examples, but the other prompt of a pair often is one.

    Raises:
        PromptError: fewer than 10 pairs.
    """
    check_size(pairs)
    from sklearn.model_selection import train_test_split

    everything = list(range(2 * len(pairs)))
    train, rest = train_test_split(everything, test_size=0.4, random_state=42)
    validation, _ = train_test_split(rest, test_size=0.5, random_state=42)
    _, test = train_test_split(everything, test_size=0.2, random_state=42)
    return Split(*(torch.tensor(part) for part in (train, validation, test)))


def unseen(fitted: PairedPrompts, split: Split, other: PairedPrompts) -> Int[Tensor, " row"]:
    """The examples of ``other`` on which a probe fitted on ``fitted`` may be tested.

    If both hold the same instructions in the same order (e.g. with a sham trigger), these are the split's own test examples,
    else all pairs whose instruction was not used in training or validation.

    Raises:
        PromptError: there is no such pair.
    """
    if other.clean.text == fitted.clean.text:
        return split.test
    n = len(fitted)
    seen = {fitted.clean.text[int(e) % n] for e in (*split.train, *split.validation)}
    allowed = set(other.clean.text) - seen
    if not allowed:
        raise PromptError(
            f"The probe was trained on every one of these {len(other)} instructions; test it on others."
        )
    return _examples(other, allowed)


def check_size(pairs: PairedPrompts) -> None:
    """Raise PromptError for fewer than 10 pairs."""
    if len(pairs) < MIN_PAIRS:
        raise PromptError(
            f"A probe needs at least {MIN_PAIRS} pairs to train, validate and test on; got {len(pairs)}."
        )


def _examples(pairs: PairedPrompts, instructions: set[str]) -> Int[Tensor, " row"]:
    chosen = [i for i, text in enumerate(pairs.clean.text) if text in instructions]
    return torch.tensor(chosen + [i + len(pairs) for i in chosen])
