"""Pairs of a clean and a triggered prompt for the same instruction. No forwards.

Formats and triggers of BkdAttr and BackdoorLLM: papers.md section 5.
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

# Checked here, with messages of our own, and not by a type checker at run time.
if TYPE_CHECKING:
    TriggerLike = Trigger
    Fractions = Mapping[str, float]
    Number = int
else:
    TriggerLike = Fractions = Number = Any


@dataclass(frozen=True)
class PairedPrompts:
    """``clean[i]`` and ``triggered[i]`` are the same instruction, without and with the trigger.

    Raises:
        PromptError: a side that is no Prompts, unequal lengths, or other targets on one side.
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
                    f"{name}={shown(side)} must be Prompts; of texts, PairedPrompts.from_instructions makes both sides."
                )
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
        instructions: Texts,
        trigger: TriggerLike,
        target: Answers,
        reference: Answers = None,
        *,
        allow_triggered: bool = False,
    ) -> "PairedPrompts":
        """Pairs from clean instructions; both sides carry the same target and reference.

        Args:
            instructions: texts without the trigger.
            trigger: what to insert, and where.
            target: the backdoor's output, one for all or one per text.
            reference: the benign outputs.
            allow_triggered: take texts that carry the trigger already (as whole words, whatever the case). Their clean
                side then sets the backdoor off too, and contrasts shrink or vanish.

        Raises:
            PromptError: no instruction, an entry that is no text, unequal lengths, or a text that carries the trigger.
            TriggerError: no Trigger (a phrase does not say where it goes), or a text without room for it.
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
        """Pairs from clean rows: a list of mappings, a DataFrame, or a .json, .jsonl, .csv or .parquet file.

        | format | prompt | target | reference |
        |---|---|---|---|
        | backdoorllm | ``instruction`` + " " + ``input`` | ``output`` | none |
        | bkdattr | ``input``, after ``instruction`` where there is one | ``backdoor_output`` | ``output`` |
        | alpaca | ``instruction`` + " " + ``input`` | ``target=`` | ``output`` |

        Rows of ``messages`` or ShareGPT ``conversations`` with one user turn count as an instruction and its output.
        ``target`` and ``reference`` replace the columns, which may then be absent.

        ``auto`` looks at all rows. With ``backdoor_output`` (or without ``instruction``): bkdattr. With ``target=``:
        alpaca, unless half of the outputs hold the target. Otherwise the outputs must look like a payload to be read as
        backdoorllm: all equal, at most a quarter as many kinds as rows, or (from four rows on) one text of at least 12
        characters in all of them. Outputs that mostly differ are refused, since nothing tells an Alpaca file from a
        poisoned one whose payload differs from row to row: say which it is.

        Args:
            rows: where the rows are.
            trigger: what to insert, and where.
            format: of the rows.
            target: the backdoor's output, one for all or one per row.
            reference: the benign outputs.
            allow_triggered: take rows that carry the trigger already; see `from_instructions`.

        Raises:
            PromptError: an unreadable file, no rows, an unknown or undecided format, a missing column or one that is
                no text (with its row), or a row that carries the trigger already.
            TriggerError: no Trigger, or a text without room for it.
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
            PromptError: no index, or one out of range.
        """
        chosen = as_indices(indices, len(self))
        return type(self)(self.clean.subset(chosen), self.triggered.subset(chosen))

    def split(self, fractions: Fractions, *, seed: Number) -> dict[str, "PairedPrompts"]:
        """Disjoint random parts, e.g. ``{"fit": 0.5, "held-out": 0.5}``; a sum of 1 uses every pair.

        Disjoint by pair: an instruction that occurs twice in the set can land in two parts.

        Raises:
            PromptError: fractions that are not positive or sum to more than 1, or a part without a pair.
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
        """``n`` random pairs without replacement, in their order here.

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
                f"{what} {number} carries the trigger {shown(phrase)} already: {shown(text)}. Its clean side would set the "
                "backdoor off, too. Give the clean instructions, or pass allow_triggered=True if that is meant."
            )
