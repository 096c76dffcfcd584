"""Answers: what models say to prompts, each asked once: kept in memory, and in a folder if there is one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bkdinterp.engine import Run, execute
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts
from bkdinterp.results import Store, digest_of


@dataclass(frozen=True, eq=False)
class Answers:
    """Greedy answers.

    Args:
        budget: bytes for one batch.
        folder: finished answers are kept there and taken up again; None keeps them in memory only.
        executor: instead of the models' own.
    """

    budget: Any = 2**30
    folder: Any = None
    executor: Any = None
    _known: dict[Any, dict[str, str]] = field(default_factory=dict, repr=False)

    def missing(self, model: Model, texts: Sequence[str], n_tokens: int) -> tuple[str, ...]:
        """The texts that were not asked before, in this process."""
        known = self._of(model, n_tokens)
        return tuple(text for text in dict.fromkeys(texts) if text not in known)

    def of(self, model: Model, texts: Sequence[str], n_tokens: int) -> tuple[str, ...]:
        """The model's answers, of at most ``n_tokens`` tokens. Costs one generation per new text."""
        known, new = self._of(model, n_tokens), self.missing(model, texts, n_tokens)
        if new:
            known.update(zip(new, self._read(model, new, n_tokens), strict=True))
        return tuple(known[text] for text in texts)

    def _of(self, model: Model, n_tokens: int) -> dict[str, str]:
        # Views of a model share its module; builders tell them apart.
        return self._known.setdefault((id(model.module), model.builder.fingerprint, n_tokens), {})

    def _read(self, model: Model, texts: tuple[str, ...], n_tokens: int) -> list[str]:
        def compute() -> list[str]:
            run = Run(Prompts.of(list(texts)), generate=n_tokens)
            (result,) = execute(model, [run], budget=self.budget, executor=self.executor)
            assert result.text is not None
            return list(result.text)

        if self.folder is None:
            return compute()
        key = ("answers", model.weights_id, model.builder.fingerprint, texts, n_tokens)
        return Store(self.folder).get(f"answers-{digest_of(key)[:12]}", key, compute)
