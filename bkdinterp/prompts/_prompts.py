"""Prompts: user texts with the spans of a trigger in them, targets and references. No forwards."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._trigger import Span


@dataclass(frozen=True)
class Prompts:
    """Parallel tuples, one entry per prompt.

    Attributes:
        text: what the user says, before any chat template.
        spans: character offsets [start, end) of the trigger's phrases in each text; empty on clean prompts.
        target: the backdoor's output text.
        reference: the benign output text.

    Raises:
        PromptError: no prompt, unequal lengths, or a span outside its text.
    """

    text: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]
    target: tuple[str, ...] | None = None
    reference: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.text)
        if n == 0:
            raise PromptError("A set of prompts needs at least one text; got none.")
        for name in ("spans", "target", "reference"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise PromptError(f"{n} texts but {len(values)} entries in {name!r}; give one per text.")
        for i, (text, spans) in enumerate(zip(self.text, self.spans)):
            for start, end in spans:
                if not 0 <= start < end <= len(text):
                    raise PromptError(
                        f"Prompt {i}: span {(start, end)} is empty or outside its {len(text)} characters."
                    )

    @classmethod
    def of(
        cls,
        texts: str | Iterable[str],
        target: str | Sequence[str] | None = None,
        reference: str | Sequence[str] | None = None,
    ) -> "Prompts":
        """Prompts without trigger spans; one target or reference string serves all texts.

        Raises:
            PromptError: no text, or unequal lengths.
        """
        text = (texts,) if isinstance(texts, str) else tuple(texts)
        return cls(text, ((),) * len(text), per_text(target, len(text)), per_text(reference, len(text)))

    @classmethod
    def concat(cls, parts: "Iterable[Prompts]") -> "Prompts":
        """All prompts of several sets, in order; targets and references only where every set has them.

        Raises:
            PromptError: no prompt.
        """
        sets = list(parts)
        joined: dict[str, tuple[str, ...] | None] = {}
        for name in ("target", "reference"):
            values = [getattr(part, name) for part in sets]
            whole = None not in values
            joined[name] = tuple(v for value in values for v in value) if whole else None
        text = tuple(t for part in sets for t in part.text)
        return cls(text, tuple(s for part in sets for s in part.spans), joined["target"], joined["reference"])

    def __len__(self) -> int:
        return len(self.text)

    def subset(self, indices: Iterable[int]) -> "Prompts":
        """The prompts at these indices, in this order; negative indices count from the end.

        Raises:
            PromptError: no index, or one out of range.
        """
        chosen = [int(i) for i in indices]
        for i in chosen:
            if not -len(self) <= i < len(self):
                raise PromptError(f"Index {i} is out of range for {len(self)} prompts.")
        return type(self)(
            tuple(self.text[i] for i in chosen),
            tuple(self.spans[i] for i in chosen),
            None if self.target is None else tuple(self.target[i] for i in chosen),
            None if self.reference is None else tuple(self.reference[i] for i in chosen),
        )

    @cached_property  # a sweep asks once per run
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of all contents."""
        return digest([self.text, self.spans, self.target, self.reference])


def per_text(values: str | Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    """One string repeated for ``n`` texts, or the given sequence as a tuple."""
    return (values,) * n if isinstance(values, str) else None if values is None else tuple(values)


def digest(value: Any) -> str:
    """First 16 hex digits of the sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
