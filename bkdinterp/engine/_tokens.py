"""Token batches of a plan: every prompt is tokenised once, and slices are cut from the whole batch of its set."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bkdinterp.engine._graph import Node
from bkdinterp.engine._run import Run
from bkdinterp.prompts import PromptBuilder, TokenBatch
from bkdinterp.sites import Where

# Number of cached slices; the chunks of a slice follow each other.
RECENT = 4


class Slice:
    """Tokens of some examples of a run; the tokens selected by a position are cached."""

    def __init__(self, batch: TokenBatch, examples: tuple[int, ...]) -> None:
        self.batch = batch
        self.examples = examples
        self._chosen: dict[Where, Bool[Tensor, "row pos"]] = {}
        self._first: dict[Where, int] = {}

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def columns(self) -> int:
        """Number of columns, prompt and target."""
        return int(self.batch.input_ids.shape[1])

    @property
    def n_targets(self) -> int:
        """Target columns."""
        return self.columns - self.batch.n_prompt

    @cached_property
    def index(self) -> Int[Tensor, " example"]:
        """Indices of the examples."""
        return torch.tensor(self.examples)

    @cached_property
    def lengths(self) -> list[int]:
        """Number of real tokens in each row."""
        return self.batch.attention_mask.sum(1).tolist()

    @cached_property
    def padded(self) -> bool:
        """Whether some prompt is shorter than the longest."""
        return not bool(self.batch.attention_mask[:, : self.batch.n_prompt].all())

    def chosen(self, where: Where) -> Bool[Tensor, "row pos"]:
        """The selected tokens.

        Raises:
            SiteError: a position is outside the prompt of some row.
        """
        if where not in self._chosen:
            self._chosen[where] = self.batch.selection(where)
        return self._chosen[where]

    def first(self, where: Where) -> int:
        """The first column with a selected token; the number of columns if there is none."""
        if where not in self._first:
            self._first[where] = int((~self.chosen(where).any(dim=0)).int().cumprod(dim=0).sum())
        return self._first[where]


class Tokens:
    """Tokenises each set of prompts once per plan, with targets if a run of the plan scores them."""

    def __init__(self, builder: PromptBuilder, nodes: Iterable[Node]) -> None:
        self._builder = builder
        self._scored = {self._key(node.run) for node in nodes if node.run.score is not None}
        self._batches: dict[tuple[Any, ...], TokenBatch] = {}
        self._whole: dict[tuple[Any, ...], Slice] = {}
        self._recent: OrderedDict[tuple[Any, ...], Slice] = OrderedDict()

    def whole(self, run: Run) -> Slice:
        """All examples of a run, with as many target tokens as its score uses."""
        key = (*self._key(run), *_shape(run))
        if key not in self._whole:
            batch = self._tokenised(run)
            self._whole[key] = Slice(
                cut(batch, range(len(batch)), _most_targets(run)), tuple(range(len(batch)))
            )
        return self._whole[key]

    def slice(self, run: Run, examples: tuple[int, ...]) -> Slice:
        """Some examples of a run, without columns that are padding in all of them."""
        if len(examples) == len(run.prompts):
            return self.whole(run)
        key = (*self._key(run), *_shape(run), examples)
        if key not in self._recent:
            self._recent[key] = Slice(cut(self._tokenised(run), examples, _most_targets(run)), examples)
        self._recent.move_to_end(key)
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return self._recent[key]

    def _tokenised(self, run: Run) -> TokenBatch:
        key = self._key(run)
        if key not in self._batches:
            builder = run.builder or self._builder
            self._batches[key] = builder.tokenize(run.prompts, targets=key in self._scored)
        return self._batches[key]

    def _key(self, run: Run) -> tuple[Any, ...]:
        return id(run.builder or self._builder), run.prompts.fingerprint


def _shape(run: Run) -> tuple[Any, ...]:
    """The settings that decide how many target columns a run has."""
    return run.score is not None, None if run.declared is None else run.declared.n_targets


def _most_targets(run: Run) -> int | None:
    """How many target tokens a run needs at most; None for all."""
    if run.score is None:
        return 0
    # A score of the first target tokens does not need the others.
    return None if run.declared is None else run.declared.n_targets


def cut(batch: TokenBatch, examples: Iterable[int], most_targets: int | None) -> TokenBatch:
    """Some rows of a batch, with only the columns that they use and at most so many target columns."""
    index = torch.tensor(list(examples))
    mask = batch.attention_mask[index]
    n_prompt = int(mask[:, : batch.n_prompt].sum(1).max())
    n_targets = 0 if most_targets == 0 else int(mask[:, batch.n_prompt :].sum(1).max())
    if most_targets is not None:
        n_targets = min(n_targets, most_targets)
    columns = slice(batch.n_prompt - n_prompt, batch.n_prompt + n_targets)
    return replace(
        batch,
        input_ids=batch.input_ids[index, columns],
        attention_mask=mask[:, columns],
        trigger_mask=batch.trigger_mask[index, columns],
        n_prompt=n_prompt,
    )
