"""Prompts: user texts with the spans of a trigger in them, targets and references. No forwards."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._published_rows import parse_rows
from bkdinterp.prompts._row_files import Rows, read_rows
from bkdinterp.prompts._trigger import Span
from bkdinterp.values import as_integer, as_text, as_texts, is_listing, shown

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    Texts = str | Iterable[str]
    Answers = str | Sequence[str] | None
    Indices = Iterable[int]
else:
    Texts = Answers = Indices = Any


@dataclass(frozen=True)
class Prompts:
    """Parallel tuples with one entry per prompt; lists and arrays are accepted too.

    Attributes:
        text: what the user says, before any chat template.
        spans: character offsets [start, end) of the trigger's phrases in each text; empty on clean prompts.
        target: the backdoor's output text.
        reference: the benign output text.

    Raises:
        PromptError: no prompts, unequal lengths, an entry that is not text (None, NaN, a number, half of a surrogate pair;
            the message gives its index), or a span that is not a pair of integers inside its text.
    """

    if TYPE_CHECKING:
        text: tuple[str, ...]
        spans: tuple[tuple[Span, ...], ...]
        target: tuple[str, ...] | None = None
        reference: tuple[str, ...] | None = None
    else:
        text: Any
        spans: Any
        target: Any = None
        reference: Any = None

    def __post_init__(self) -> None:
        for name in ("text", "target", "reference"):
            values = getattr(self, name)
            if values is not None or name == "text":
                object.__setattr__(self, name, as_texts(values, name))
        n = len(self.text)
        if n == 0:
            raise PromptError("A set of prompts needs at least one text; got none.")
        object.__setattr__(self, "spans", _rows_of_spans(self.spans))
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
    def of(cls, texts: Texts, target: Answers = None, reference: Answers = None) -> "Prompts":
        """Prompts without trigger spans; a single target or reference is used for all texts.

        Raises:
            PromptError: no texts, an entry that is not text, or unequal lengths.
        """
        text = (as_text(texts, "text"),) if isinstance(texts, str) else as_texts(texts, "text")
        n = len(text)
        return cls(text, ((),) * n, per_text(target, n, "target"), per_text(reference, n, "reference"))

    @classmethod
    def from_rows(cls, rows: Rows) -> "Prompts":
        """The instructions of rows; their outputs, whoever wrote them, are the targets if every row has one.

        Args:
            rows: rows with ``instruction``, ``input`` and ``output``, or turns of a chat: a list of mappings, a DataFrame, or
                a .json, .jsonl, .csv or .parquet file.

        Raises:
            PromptError: a file or row that cannot be read, or no rows.
        """
        found, source = read_rows(rows)
        # The benign format reads a column of outputs as it is; the target that it asks for is not used.
        texts, _, answers = parse_rows(found, source, "alpaca", target="unused", reference=None)
        return cls.of(texts, answers)

    @classmethod
    def concat(cls, parts: "Iterable[Prompts]") -> "Prompts":
        """All prompts of several sets, in order; targets and references are kept only if every set has them.

        Raises:
            PromptError: no prompts, or a part that is not Prompts.
        """
        sets = list(parts)
        for i, part in enumerate(sets):
            if not isinstance(part, Prompts):
                raise PromptError(f"parts[{i}] must be Prompts; got {shown(part)} ({type(part).__name__}).")
        joined: dict[str, tuple[str, ...] | None] = {}
        for name in ("target", "reference"):
            values = [getattr(part, name) for part in sets]
            whole = None not in values
            joined[name] = tuple(v for value in values for v in value) if whole else None
        text = tuple(t for part in sets for t in part.text)
        return cls(text, tuple(s for part in sets for s in part.spans), joined["target"], joined["reference"])

    def __len__(self) -> int:
        return len(self.text)

    def subset(self, indices: Indices) -> "Prompts":
        """The prompts at these indices, in this order; negative indices count from the end.

        Raises:
            PromptError: there is no index, or one is not an integer (True and 1.0 are not) or is out of range.
        """
        chosen = as_indices(indices, len(self))
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

    def __repr__(self) -> str:
        return f"Prompts({len(self)} texts, {self.describe()})"

    def describe(self) -> str:
        """The first text and the targets, shortened, and the number of texts with a trigger."""
        n = sum(map(bool, self.spans))
        parts = [f"first {shown(self.text[0], 60)}"]
        if n:
            parts.append("all triggered" if n == len(self) else f"{n} triggered")
        for name in ("target", "reference"):
            values = getattr(self, name)
            if values is not None:
                kinds = len(set(values))
                parts.append(f"{name} {shown(values[0], 40)}" if kinds == 1 else f"{kinds} {name}s")
        return ", ".join(parts)


def per_text(values: Any, n: int, what: str) -> tuple[str, ...] | None:
    """One string repeated for ``n`` texts, or the given sequence as a tuple.

    Raises:
        PromptError: an entry is not text.
    """
    if values is None:
        return None
    return (as_text(values, what),) * n if isinstance(values, str) else as_texts(values, what)


def as_indices(values: Any, n: int) -> list[int]:
    """Indices into ``n`` items as ints.

    Raises:
        PromptError: an index is not an integer, or is out of range.
    """
    if not is_listing(values):
        raise PromptError(f"indices={shown(values)} must be a list of integers.")
    chosen = [as_integer(value, f"indices[{i}]", error=PromptError) for i, value in enumerate(values)]
    for i in chosen:
        if not -n <= i < n:
            raise PromptError(f"Index {i} is out of range for {n} prompts.")
    return chosen


def _rows_of_spans(spans: Any) -> tuple[tuple[Span, ...], ...]:
    rows = _listed(spans, "spans", "a list with the spans of each text")
    return tuple(
        tuple(
            _span(span, f"spans[{i}][{j}]")
            for j, span in enumerate(_listed(row, f"spans[{i}]", "a list of (start, end)"))
        )
        for i, row in enumerate(rows)
    )


def _span(span: Any, what: str) -> Span:
    pair = _listed(span, what, "(start, end), two character offsets")
    if len(pair) != 2:
        raise PromptError(f"{what} must be (start, end), two character offsets; got {shown(span)}.")
    start, end = (as_integer(offset, what, error=PromptError) for offset in pair)
    return start, end


def _listed(values: Any, what: str, wanted: str) -> list[Any]:
    if not is_listing(values):
        raise PromptError(f"{what} must be {wanted}; got {shown(values)}.")
    return list(values)


def digest(value: Any) -> str:
    """First 16 hex digits of the sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
