"""Pairs of a clean and a triggered prompt for the same instruction. No forwards.

Formats and triggers of BkdAttr and BackdoorLLM: papers.md section 5.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._prompts import Prompts, digest, per_text
from bkdinterp.prompts._rows import Format, Rows, parse_rows, read_rows
from bkdinterp.prompts._trigger import Trigger


@dataclass(frozen=True)
class PairedPrompts:
    """``clean[i]`` and ``triggered[i]`` are the same instruction, without and with the trigger.

    Raises:
        PromptError: unequal lengths.
    """

    clean: Prompts
    triggered: Prompts

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.triggered):
            raise PromptError(
                f"{len(self.clean)} clean but {len(self.triggered)} triggered prompts; each needs a partner."
            )
        if self.clean.target != self.triggered.target:
            raise PromptError(
                "Both sides of a pair carry the same target, the backdoor's output; benign answers go into reference=."
            )

    @classmethod
    def from_instructions(
        cls,
        instructions: str | Iterable[str],
        trigger: Trigger,
        target: str | Sequence[str],
        reference: str | Sequence[str] | None = None,
    ) -> "PairedPrompts":
        """Pairs from clean instructions; both sides carry the same target and reference.

        Raises:
            PromptError: no instruction, or unequal lengths.
            TriggerError: a text without room for the trigger.
        """
        clean = Prompts.of(instructions, target, reference)
        inserted = [trigger.insert(text) for text in clean.text]
        triggered = Prompts(
            tuple(text for text, _ in inserted),
            tuple(spans for _, spans in inserted),
            clean.target,
            clean.reference,
        )
        return cls(clean, triggered)

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        trigger: Trigger,
        format: Format = "auto",
        *,
        target: str | Sequence[str] | None = None,
        reference: str | Sequence[str] | None = None,
    ) -> "PairedPrompts":
        """Pairs from clean rows in a published format, or from a .json, .jsonl or .csv file of them.

        backdoorllm: the prompt is ``instruction`` (+ " " + ``input``), ``output`` is the target. bkdattr: the
        prompt is ``input``, ``backdoor_output`` the target, ``output`` the reference. ``target`` and
        ``reference`` replace the columns, which may then be absent; the backdoorllm ``output`` is never
        taken as a reference.

        Raises:
            PromptError: an unreadable file, no rows, an unknown format, or a missing column (with its row).
            TriggerError: a text without room for the trigger.
        """
        found, source = read_rows(rows)
        texts, targets, references = parse_rows(
            found, source, format, need_target=target is None, need_reference=reference is None
        )
        final = per_text(target, len(texts)) if target is not None else targets
        if final is None:
            raise PromptError(f"{source}: no targets; pass target=.")
        return cls.from_instructions(
            texts, trigger, final, reference if reference is not None else references
        )

    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Any],
        trigger: Trigger,
        format: Format = "auto",
        *,
        target: str | Sequence[str] | None = None,
        reference: str | Sequence[str] | None = None,
    ) -> "PairedPrompts":
        """Pairs from one split of a ``datasets.Dataset``, or anything that iterates rows as mappings.

        Raises:
            PromptError, TriggerError: as `from_rows`.
        """
        return cls.from_rows(dataset, trigger, format, target=target, reference=reference)

    def __len__(self) -> int:
        return len(self.clean)

    def subset(self, indices: Iterable[int]) -> "PairedPrompts":
        """The pairs at these indices, in this order.

        Raises:
            PromptError: no index, or one out of range.
        """
        chosen = list(indices)
        return type(self)(self.clean.subset(chosen), self.triggered.subset(chosen))

    def split(self, fractions: Mapping[str, float], *, seed: int) -> dict[str, "PairedPrompts"]:
        """Disjoint random parts, e.g. ``{"fit": 0.5, "held-out": 0.5}``; a sum of 1 uses every pair.

        Disjoint by pair: an instruction that occurs twice in the set can land in two parts.

        Raises:
            PromptError: fractions that are not positive or sum to more than 1, or a part without a pair.
        """
        if not fractions or any(f <= 0 for f in fractions.values()) or sum(fractions.values()) > 1 + 1e-9:
            raise PromptError(f"Fractions must be positive and sum to at most 1; got {dict(fractions)!r}.")
        order = random.Random(seed).sample(range(len(self)), len(self))
        parts, done, cumulative = {}, 0, 0.0
        for name, fraction in fractions.items():
            cumulative += fraction
            end = min(len(self), round(cumulative * len(self)))
            if end == done:
                raise PromptError(
                    f"Part {name!r} ({fraction:g} of {len(self)} pairs) is empty; give it a larger share."
                )
            parts[name] = self.subset(order[done:end])
            done = end
        return parts

    def sample(self, n: int, *, seed: int) -> "PairedPrompts":
        """``n`` random pairs without replacement, in their order here.

        Raises:
            PromptError: ``n`` is not between 1 and the number of pairs.
        """
        if not 1 <= n <= len(self):
            raise PromptError(f"Cannot sample {n} of {len(self)} pairs.")
        return self.subset(sorted(random.Random(seed).sample(range(len(self)), n)))

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of both sides' contents."""
        return digest([self.clean.fingerprint, self.triggered.fingerprint])
