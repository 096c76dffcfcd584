"""Pairs of a clean and a triggered prompt for the same instruction. No forwards.

Formats and triggers are those of BkdAttr (arXiv 2509.21761) and of BackdoorLLM.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._prompts import Answers, Indices, Prompts, Texts, as_indices, digest, per_text
from bkdinterp.prompts._published_rows import FormatLike, parse_rows
from bkdinterp.prompts._row_files import Rows, read_rows
from bkdinterp.prompts._trigger import Trigger, as_trigger
from bkdinterp.values import as_integer, as_number, as_seed, as_text, shown

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    TriggerLike = Trigger
    Fractions = Mapping[str, float]
    Number = int
else:
    TriggerLike = Fractions = Number = Any


@dataclass(frozen=True)
class PairedPrompts:
    """Pairs in which ``clean[i]`` and ``triggered[i]`` are the same instruction without and with the trigger.

    Raises:
        PromptError: a side is not Prompts, the lengths differ, or the targets of the two sides differ.
    """

    if TYPE_CHECKING:
        clean: Prompts
        triggered: Prompts
    else:
        clean: Any
        triggered: Any

    def __post_init__(self) -> None:
        for name in ("clean", "triggered"):
            side = getattr(self, name)
            if not isinstance(side, Prompts):
                raise PromptError(
                    f"{name}={shown(side)} must be Prompts; PairedPrompts.from_instructions makes both sides from texts."
                )
        if len(self.clean) != len(self.triggered):
            raise PromptError(
                f"{len(self.clean)} clean but {len(self.triggered)} triggered prompts; each needs a partner."
            )
        if self.clean.target != self.triggered.target:
            raise PromptError(
                "Both sides of a pair must have the same target, the backdoor's output; benign answers go into reference=."
            )

    @classmethod
    def from_instructions(
        cls,
        instructions: Texts,
        trigger: TriggerLike,
        target: Answers,
        reference: Answers = None,
        *,
        allow_triggered: bool = False,
    ) -> "PairedPrompts":
        """Make pairs from clean instructions; both sides have the same target and reference.

        Args:
            instructions: texts without the trigger.
            trigger: what to insert, and where.
            target: the backdoor's output, one for all or one per text.
            reference: the benign outputs.
            allow_triggered: accept texts that already contain the trigger (as whole words, in any case). Their clean side
                then fires the backdoor too, and contrasts shrink or vanish.

        Raises:
            PromptError: no instructions, an entry that is not text, unequal lengths, or a text that contains the trigger.
            TriggerError: ``trigger`` is not a Trigger (a phrase alone does not say where it goes), or a text has no room
                for it.
        """
        trigger = as_trigger(trigger)
        clean = Prompts.of(instructions, target, reference)
        if not allow_triggered:
            _check_clean(clean.text, trigger, "Text")
        return cls(clean, _triggered(clean, trigger))

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        trigger: TriggerLike,
        format: FormatLike = "auto",
        *,
        target: Answers = None,
        reference: Answers = None,
        allow_triggered: bool = False,
    ) -> "PairedPrompts":
        """Make pairs from clean rows: a list of mappings, a DataFrame, or a .json, .jsonl, .csv or .parquet file.

        | format | prompt | target | reference |
        |---|---|---|---|
        | backdoorllm | ``instruction`` + " " + ``input`` | ``output`` | none |
        | bkdattr | ``input``, after ``instruction`` if there is one | ``backdoor_output`` | ``output`` |
        | alpaca | ``instruction`` + " " + ``input`` | ``target=`` | ``output`` |

        Rows of ``messages`` or ShareGPT ``conversations`` with one user turn count as an instruction and its output.
        ``target`` and ``reference`` replace the columns, which may then be absent.

        ``auto`` decides from all rows. Rows with ``backdoor_output`` (or without ``instruction``) are bkdattr. With
        ``target=`` they are alpaca, unless half of the outputs contain the target. Other rows are backdoorllm if their
        outputs look like a payload: all equal, at most a quarter as many distinct outputs as rows, or (with four rows or
        more) a text of at least 12 characters that all outputs share. Outputs that mostly differ are refused, because an
        Alpaca file looks the same as a poisoned file with a different payload in each row; pass ``format=`` then.

        Args:
            rows: the rows, or their file.
            trigger: what to insert, and where.
            format: format of the rows.
            target: the backdoor's output, one for all or one per row.
            reference: the benign outputs.
            allow_triggered: accept rows that already contain the trigger; see `from_instructions`.

        Raises:
            PromptError: the file is unreadable, there are no rows, the format is unknown or ambiguous, a column is missing
                or not text (the message gives the row), or a row already contains the trigger.
            TriggerError: ``trigger`` is not a Trigger, or a text has no room for it.
        """
        trigger = as_trigger(trigger)
        found, source = read_rows(rows)
        texts, targets, references = parse_rows(found, source, format, target=target, reference=reference)
        final = per_text(target, len(texts), "target") if target is not None else targets
        if final is None:
            raise PromptError(f"{source}: no targets; pass target=.")
        clean = Prompts.of(texts, final, reference if reference is not None else references)
        if not allow_triggered:
            _check_clean(clean.text, trigger, f"{source}, row", first=1)
        return cls(clean, _triggered(clean, trigger))

    @classmethod
    def from_dataset(
        cls,
        dataset: Rows,
        trigger: TriggerLike,
        format: FormatLike = "auto",
        *,
        target: Answers = None,
        reference: Answers = None,
        allow_triggered: bool = False,
    ) -> "PairedPrompts":
        """Pairs from one split of a ``datasets.Dataset``, or anything that iterates rows as mappings.

        Raises:
            PromptError, TriggerError: as `from_rows`.
        """
        return cls.from_rows(
            dataset, trigger, format, target=target, reference=reference, allow_triggered=allow_triggered
        )

    def __len__(self) -> int:
        return len(self.clean)

    def subset(self, indices: Indices) -> "PairedPrompts":
        """The pairs at these indices, in this order.

        Raises:
            PromptError: there is no index, or one is out of range.
        """
        chosen = as_indices(indices, len(self))
        return type(self)(self.clean.subset(chosen), self.triggered.subset(chosen))

    def split(self, fractions: Fractions, *, seed: Number) -> dict[str, "PairedPrompts"]:
        """Disjoint random parts, e.g. ``{"fit": 0.5, "held-out": 0.5}``; a sum of 1 uses every pair.

        Parts are disjoint by pair, so an instruction that occurs twice can be in two parts.

        Raises:
            PromptError: the fractions are not positive or sum to more than 1, or a part would be empty.
        """
        if not isinstance(fractions, Mapping) or not fractions:
            raise PromptError(
                f"Fractions must be positive and sum to at most 1, e.g. {{'fit': 0.5}}; got {shown(fractions)}."
            )
        fractions = {
            as_text(name, "a part's name"): as_number(f, f"fractions[{name!r}]", error=PromptError)
            for name, f in fractions.items()
        }
        if any(f <= 0 for f in fractions.values()) or sum(fractions.values()) > 1 + 1e-9:
            raise PromptError(f"Fractions must be positive and sum to at most 1; got {fractions!r}.")
        order = random.Random(as_seed(seed, error=PromptError)).sample(range(len(self)), len(self))
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

    def sample(self, n: Number, *, seed: Number) -> "PairedPrompts":
        """``n`` random pairs without replacement, in their present order.

        Raises:
            PromptError: ``n`` is not between 1 and the number of pairs.
        """
        n, seed = as_integer(n, "n", error=PromptError), as_seed(seed, error=PromptError)
        if not 1 <= n <= len(self):
            raise PromptError(f"Cannot sample {n} of {len(self)} pairs.")
        return self.subset(sorted(random.Random(seed).sample(range(len(self)), n)))

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of both sides' contents."""
        return digest([self.clean.fingerprint, self.triggered.fingerprint])

    def __repr__(self) -> str:
        return f"PairedPrompts({len(self)} pairs, {self.clean.describe()})"


def _triggered(clean: Prompts, trigger: Trigger) -> Prompts:
    inserted = [trigger.insert(text) for text in clean.text]
    return Prompts(
        tuple(text for text, _ in inserted),
        tuple(spans for _, spans in inserted),
        clean.target,
        clean.reference,
    )


def _check_clean(texts: Iterable[str], trigger: Trigger, what: str, *, first: int = 0) -> None:
    for number, text in enumerate(texts, first):
        if phrase := trigger.found_in(text):
            raise PromptError(
                f"{what} {number} already contains the trigger {shown(phrase)}: {shown(text)}. Its clean side would also "
                "fire the backdoor. Give clean instructions, or pass allow_triggered=True if this is intended."
            )
