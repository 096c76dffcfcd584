"""Token batches of a plan: every set of prompts is tokenised once, in buckets of similar length."""

from dataclasses import replace
from typing import Any

from bkdinterp.engine._run import Run
from bkdinterp.prompts import PromptBuilder, TokenBatch


class Tokens:
    """Tokenises each set of prompts once per plan."""

    def __init__(self) -> None:
        self._batches: dict[tuple[Any, ...], TokenBatch] = {}

    def batch(self, builder: PromptBuilder, run: Run, index: tuple[int, ...]) -> TokenBatch:
        """The batch of some examples of a run, with as many target tokens as its score reads."""
        scored = run.score is not None
        key = (id(builder), run.prompts.fingerprint, index, scored)
        if key not in self._batches:
            self._batches[key] = builder.tokenize(run.prompts.subset(index), targets=scored)
        batch = self._batches[key]
        # A score of the first target tokens needs none of the others.
        n_targets = None if run.declared is None else run.declared.n_targets
        return batch if n_targets is None else _cut(batch, batch.n_prompt + n_targets)


def _cut(batch: TokenBatch, n_columns: int) -> TokenBatch:
    return replace(
        batch,
        input_ids=batch.input_ids[:, :n_columns],
        attention_mask=batch.attention_mask[:, :n_columns],
        trigger_mask=batch.trigger_mask[:, :n_columns],
    )
