"""Answers: what models say to prompts, each asked once: kept in memory, and in a folder if there is one."""

import time
import weakref
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
    _known: dict[Any, tuple[weakref.ref[Any], dict[str, str]]] = field(default_factory=dict, repr=False)
    # Seconds and number of the answers that were generated.
    _paid: list[float] = field(default_factory=lambda: [0.0, 0.0], repr=False)

    @property
    def pace(self) -> float:
        """Seconds that an answer took, on average; 0 if none was generated yet."""
        seconds, n = self._paid
        return seconds / n if n else 0.0

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
        key = (id(model.module), model.builder.fingerprint, n_tokens)
        found = self._known.get(key)
        # Another module can get the address of one that is gone.
        if found is None or found[0]() is not model.module:
            found = self._known[key] = (weakref.ref(model.module), {})
        return found[1]

    def _read(self, model: Model, texts: tuple[str, ...], n_tokens: int) -> list[str]:
        def compute() -> list[str]:
            start = time.monotonic()
            run = Run(Prompts.of(list(texts)), generate=n_tokens)
            (result,) = execute(model, [run], budget=self.budget, executor=self.executor)
            self._paid[0] += time.monotonic() - start
            self._paid[1] += len(texts)
            assert result.text is not None
            return list(result.text)

        if self.folder is None:
            return compute()
        key = ("answers", model.weights_id, model.builder.fingerprint, texts, n_tokens)
        return Store(self.folder).get(f"answers-{digest_of(key)[:12]}", key, compute)
